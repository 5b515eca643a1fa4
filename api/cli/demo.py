"""`llmctl demo`: test documents through the running system, and how long they took."""

from __future__ import annotations

import os
import secrets
import time
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail
from llm_scheduler.api.cli.generate import Seed, drop, new_seed
from llm_scheduler.api.cli.redis_client import away, client
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis
    from rich.progress import Progress

    from llm_scheduler.api.cli.demo_report import Run, Timing
    from llm_scheduler.api.cli.samples import Specimen
    from llm_scheduler.jobs.config import Config

_READY_MADE = 20_000  # documents made before the clock starts, so that making them is not measured
_MIN_WAIT = 0.02


def demo(
    context: typer.Context,
    count: Annotated[int, typer.Argument(metavar="[N]", min=1, help="How many documents.")] = 2000,
    broken: Annotated[
        float, typer.Option("--broken", metavar="SHARE", min=0, max=1, help="Share of spoilt ones.")
    ] = 0.02,
    seed: Seed = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait at most.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Send test documents through the system.

    Waits for their results and reports how many came, and how fast.
    """
    from llm_scheduler.api.cli.demo_report import Run, report
    from llm_scheduler.api.cli.output import print_json, printable
    from llm_scheduler.api.cli.samples import documents
    from llm_scheduler.ingest.spool import explain

    config = settings(context).config
    sown = new_seed() if seed is None else seed
    with client(config) as redis:
        _require_running(config, redis)
        run = Run.of(config, f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
        stream = documents(count, sown, broken)
        specimens = chain(list(islice(stream, _READY_MADE)), stream)
        typer.echo(f"Dropping {count} documents into {printable(os.path.relpath(run.watch))} (seed {sown})", err=True)
        try:
            spoilt, timing = _send(run, specimens, count, timeout, config, redis)
        except OSError as error:
            fail(explain(error), ExitCode.NOT_WELL)
        except KeyboardInterrupt:
            typer.echo(f"Interrupted. What was dropped goes on: its results come in {run.output}", err=True)
            raise
        found = report(run, config, count, spoilt, timing)
        where = _whereabouts(run, config, redis) if found["missing"] else ""
    if as_json:
        print_json(found)
    else:
        _print_report(found, config, timing)
    _end(found, where)


def _require_running(config: Config, redis: Redis) -> None:
    from llm_scheduler.api.state.rollcall import missing
    from llm_scheduler.jobs.process.connection import AWAY

    try:
        absent = missing(redis, config.queue.priority_levels)
    except AWAY as error:
        fail(away(config, error), ExitCode.UNREACHABLE)
    if absent:
        fail(f"Not running: {', '.join(absent)}. Start the whole system with: llmctl up", ExitCode.NOT_WELL)


def _send(
    run: Run, specimens: Iterator[Specimen], count: int, timeout: float, config: Config, redis: Redis
) -> tuple[set[str], Timing]:
    """Drop everything and wait until it is accounted for, or time is up. Returns the broken ones and the times."""
    with _bar() as progress:
        dropping = progress.add_task("Dropped", total=count)
        finished = progress.add_task("Finished", total=count)
        os.makedirs(run.watch)
        began = time.monotonic()
        spoilt: set[str] = set()
        for specimen in drop(run.watch, specimens):
            if specimen.is_broken:
                spoilt.add(specimen.name)
            progress.advance(dropping)
        nudge = _Nudge(config, redis)
        timing = _wait(
            run, count, len(spoilt), began, timeout, nudge, lambda done: progress.update(finished, completed=done)
        )
    try:
        os.rmdir(run.watch)
    except OSError:
        pass  # something is still in it, or somebody was quicker
    return spoilt, timing


def _wait(
    run: Run,
    count: int,
    spoilt: int,
    began: float,
    timeout: float,
    nudge: Callable[[], None],
    tell: Callable[[int], None],
) -> Timing:
    """Look until `count` files are accounted for or `timeout` seconds have passed since `began`."""
    from llm_scheduler.api.cli.demo_report import Timing

    last_result, results = 0.0, -1
    while True:
        looked = time.monotonic()
        done, rejected = len(run.done()), len(run.rejected())
        now = time.monotonic()
        if done != results:
            results, last_result = done, now - began
        tell(done + rejected)
        if done + rejected >= count or now - began > timeout:
            return Timing(now - began, last_result)
        if run.waiting() <= spoilt:  # those are waited for until they have settled; nothing else is on its way
            nudge()
        # Looking takes longer the more files there are; it must not become the work that is measured.
        time.sleep(max(_MIN_WAIT, 5 * (time.monotonic() - looked)))


class _Nudge:
    """Flushes batches that have stopped growing, so that the last few documents need not wait for company."""

    def __init__(self, config: Config, redis: Redis) -> None:
        self._config = config
        self._redis = redis
        self._before: dict[str, int] = {}
        self._is_away = False

    def __call__(self) -> None:
        from llm_scheduler.api.state.processes import queues
        from llm_scheduler.jobs.clock import SystemClock
        from llm_scheduler.jobs.process.connection import AWAY
        from llm_scheduler.jobs.store import batches

        try:
            for queue in queues(self._redis, self._config.queue.priority_levels):
                name, length = queue["name"], queue["batched"]
                if length and length == self._before.get(name):
                    batches.flush(self._redis, name, self._config.processing, SystemClock(), force=True)
                self._before[name] = length
        except AWAY as error:
            if not self._is_away:
                typer.echo(f"{away(self._config, error)} Still waiting; nothing is lost.", err=True)
            self._is_away = True
        else:
            self._is_away = False


def _bar() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from llm_scheduler.api.cli.output import chatter

    out = chatter()
    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=out, transient=True, disable=not out.is_terminal)


def _print_report(report: dict[str, Any], config: Config, timing: Timing) -> None:
    from llm_scheduler.api.cli.output import console, duration, print_pairs

    out = console()
    rejected: dict[str, int] = report["rejected"]
    latency = report["latency_seconds"]
    pairs = [("done", str(report["done"]))]
    pairs += [(f"  {level}", str(number)) for level, number in report["by_priority"].items()]
    pairs.append(("rejected", str(sum(rejected.values()))))
    pairs += [(f"  {code}", str(number)) for code, number in rejected.items()]
    if report["missing"]:
        pairs.append(("missing", str(report["missing"])))
    if latency["p50"] is not None:
        pairs.append(("received to completed", f"p50 {duration(latency['p50'])}, p95 {duration(latency['p95'])}"))
    pairs.append(("results in", os.path.relpath(report["results"])))
    if rejected:
        pairs.append(("errors in", os.path.relpath(report["errors"])))
    print_pairs(pairs, out)
    finished = report["documents"] - report["missing"]
    out.print(f"{finished} documents in {timing.all:.1f} s: {finished / timing.all:.0f} documents/s", soft_wrap=True)
    if rejected and report["done"] and timing.all - timing.results > 0.5:
        settle = config.processing.settle_seconds
        out.print(
            f"{report['done']} results in {timing.results:.1f} s: {report['done'] / timing.results:.0f} documents/s "
            f"(a broken file first waits {settle:g} s, in case it is still being written)",
            soft_wrap=True,
        )


def _end(report: dict[str, Any], where: str) -> None:
    wrong: list[str] = report["rejected_though_valid"]
    if report["missing"]:
        fail(
            f"{report['missing']} of {report['documents']} documents did not finish in time: {where}.",
            ExitCode.NOT_WELL,
        )
    if wrong:
        fail(f"{len(wrong)} valid documents were rejected, the first of them {wrong[0]}.", ExitCode.NOT_WELL)


def _whereabouts(run: Run, config: Config, redis: Redis) -> str:
    """Where the documents are that did not finish, in words."""
    from llm_scheduler.jobs.document import ACTIVE
    from llm_scheduler.jobs.process.connection import AWAY
    from llm_scheduler.jobs.store import ledger

    places: list[str] = []
    waiting = run.waiting()
    if waiting:
        places.append(f"{waiting} wait in {run.watch}")
    try:
        for status in ACTIVE:
            number = 0
            cursor: str | None = None
            while True:
                page = ledger.page(
                    redis, config.queue.priority_levels, wanted=ledger.Wanted(status=status), limit=1000, cursor=cursor
                )
                number += sum(entry.source.startswith(f"{run.name}/") for entry in page.entries)
                cursor = page.cursor
                if cursor is None:
                    break
            if number:
                places.append(f"{number} {status.value}")
    except AWAY:
        places.append("Redis unreachable")
    known = ", ".join(places) or "unknown to Redis"
    return f"{known}; whatever was claimed is safe in {config.directories.temp_directory}"
