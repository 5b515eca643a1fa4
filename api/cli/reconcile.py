"""`llmctl reconcile`: is every document accounted for?"""

from contextlib import nullcontext
from typing import Annotated

import typer
from rich.text import Text

from llm_scheduler.api.cli.output import (
    Json,
    console,
    fail,
    print_json,
    print_pairs,
    print_table,
    printable,
    quantity,
    spinner,
    table,
)
from llm_scheduler.api.cli.redis_client import reachable_client
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.ingest.reconcile import Reconciler, Reconciliation
from llm_scheduler.ingest.spool import explain
from llm_scheduler.jobs.exit_codes import ExitCode

_MAX_PROBLEMS = 20


def reconcile(
    context: typer.Context,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every original, and compare its SHA-256 with its report.")
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Put finished documents that Redis does not know into its ledger.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Read only the folders, without Redis.")] = False,
    as_json: Json = False,
) -> None:
    """Compares the folders with each other and with Redis. The exit status is 1 when something does not add up.

    Run it on the host of the folders. Nothing has to be stopped: documents that move meanwhile are checked again.
    Claims that Redis does not know are submitted by llm-ingest itself.
    """
    if offline and record:
        fail("--record needs Redis: leave --offline out.", ExitCode.USAGE)
    config = config_of(context)
    with nullcontext() if offline else reachable_client(config) as redis, spinner("Counting") as show:
        try:
            account = Reconciler(
                config, redis, verify=verify, record=record, progress=lambda place, count: show(f"{place} {count}")
            ).run()
        except OSError as error:
            fail(explain(error))
    if as_json:
        print_json({"balanced": account.is_balanced, "account": account})
    else:
        _print(account, asked_redis=not offline)
    if not account.is_balanced:
        raise typer.Exit(ExitCode.NOT_WELL)


def _print(account: Reconciliation, *, asked_redis: bool) -> None:
    lines = [
        (account.waiting, "waiting in watch folders", True),
        (account.in_flight, "in flight", True),
        (account.done, "done", True),
        (account.rejected, "rejected or cancelled", True),
        (account.taken_apart, "files of several documents, split", False),
        (account.results_taken, "done, results removed from the output folder", False),
        (account.originals_removed, "done, originals removed from the archive", False),
        (account.removed, "finished, known to Redis and no longer in the folders", False),
        (account.unsubmitted, "claims that Redis does not know: llm-ingest submits them", False),
        (account.unrecorded - account.recorded, "finished, unknown to Redis: add them with --record", False),
        (account.recorded, "finished, now recorded in Redis", False),
    ]
    out = console()
    print_pairs([(f"{count:>9,}", meaning) for count, meaning, always in lines if count or always])
    if not account.problems:
        checked = "Everything is accounted for." if asked_redis else "The folders are consistent; Redis was not asked."
        out.print(Text(checked, "green"))
        return
    rows = table("problem", "where", "", flexible=("where", ""))
    for problem in account.problems[:_MAX_PROBLEMS]:
        rows.add_row(problem.kind, printable(problem.where), problem.message)
    print_table(rows)
    if len(account.problems) > _MAX_PROBLEMS:
        out.print(f"... and {len(account.problems) - _MAX_PROBLEMS} more (--json lists all)")
    out.print(Text(f"{quantity(len(account.problems), 'problem')}: not everything is accounted for.", "red"))
