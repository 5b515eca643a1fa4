"""`llmctl reconcile`: is every document accounted for?"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_scheduler.ingest.reconcile import Account, Told

_SHOWN = 20


def reconcile(
    context: typer.Context,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every original, and compare it with what its report says of it.")
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Tell Redis of the finished documents that it does not know (any more).")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Look at the folders alone, without Redis.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Account for every document, on the disk and in Redis.

    The folders are compared with each other, and with what Redis knows.

    Run it where the folders are. Nothing has to be stopped: what moves meanwhile is looked at again. Claims that Redis
    doesn't know are submitted by llm-ingest itself. The exit status is 1 when something does not add up.
    """
    from llm_scheduler.api.cli.output import print_json
    from llm_scheduler.api.cli.redis_client import reached
    from llm_scheduler.ingest.reconcile import Accounting
    from llm_scheduler.ingest.spool import explain

    if offline and record:
        fail("--record needs Redis: leave --offline out.", ExitCode.USAGE)
    config = settings(context).config
    with nullcontext() if offline else reached(config) as redis, _progress() as told:
        try:
            account = Accounting(config, redis, verify=verify, record=record, told=told).take()
        except OSError as error:
            fail(explain(error), ExitCode.NOT_WELL)
    if as_json:
        print_json({"balanced": account.is_balanced, "account": account})
    else:
        _show(account, asked_redis=not offline)
    if not account.is_balanced:
        raise typer.Exit(ExitCode.NOT_WELL)


@contextmanager
def _progress() -> Iterator[Told]:
    from llm_scheduler.api.cli.output import chatter

    with chatter().status("Counting") as status:

        def told(place: str, count: int) -> None:
            if count % 500 == 0:
                status.update(f"Counting: {place} {count}")

        yield told


def _show(account: Account, *, asked_redis: bool) -> None:
    from rich.text import Text

    from llm_scheduler.api.cli.output import console, counted, emit, print_pairs, printable, table

    lines = [
        (account.waiting, "waiting in watch folders", True),
        (account.in_flight, "in flight", True),
        (account.done, "done", True),
        (account.rejected, "rejected or cancelled", True),
        (account.taken_apart, "files of several documents, taken apart", False),
        (account.results_taken, "done, and their results taken away", False),
        (account.originals_removed, "done, and their originals removed from the archive", False),
        (account.removed, "in Redis alone: finished, and removed from the folders", False),
        (account.unsubmitted, "claims that Redis does not know: llm-ingest submits them", False),
        (account.unrecorded - account.recorded, "finished, and unknown to Redis: --record tells it", False),
        (account.recorded, "finished, and told to Redis now", False),
    ]
    out = console()
    print_pairs([(f"{count:>9,}", meaning) for count, meaning, always in lines if count or always], out)
    if account.problems:
        rows = table("problem", "where", "", rubber=("where", ""))
        for problem in account.problems[:_SHOWN]:
            rows.add_row(problem.kind, printable(problem.where), problem.message)
        emit(rows, out)
        if len(account.problems) > _SHOWN:
            out.print(f"... and {len(account.problems) - _SHOWN} more (--json lists all)")
        out.print(Text(f"{counted(len(account.problems), 'problem')}: not everything is accounted for.", "red"))
        return
    what = "Everything is accounted for." if asked_redis else "The folders agree with each other; Redis was not asked."
    out.print(Text(what, "green"))
