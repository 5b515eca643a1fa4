"""`llmctl demo`: test documents through the running system, and how long they took."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Annotated, Any

import typer
from redis import Redis
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llm_scheduler.api.cli.demo_report import DemoRun, DemoTiming, report
from llm_scheduler.api.cli.generate import BrokenShare, Seed, drop, random_seed
from llm_scheduler.api.cli.output import (
    Json,
    console,
    duration,
    fail,
    print_json,
    print_pairs,
    printable,
    stderr_console,
)
from llm_scheduler.api.cli.redis_client import client, unreachable_message
from llm_scheduler.api.cli.samples import Sample, documents
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.api.state.backlog import read_backlog
from llm_scheduler.api.state.processes import read_processes
from llm_scheduler.ingest.spool import explain
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import ACTIVE
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.store import batches, ledger, ledger_queries

_MADE_BEFORE = 20_000  # documents made before the clock starts, so that making them is not measured
_MIN_WAIT = 0.02  # seconds


def demo(
    context: typer.Context,
    count: Annotated[int, typer.Argument(metavar="[N]", min=1, help="How many documents.")] = 2000,
    broken: BrokenShare = 0.02,
    seed: Seed = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait at most.")] = 300.0,
    as_json: Json = False,
) -> None:
    """Waits for the results and reports how many came, and how fast."""
    config = config_of(context)
    seed = random_seed() if seed is None else seed
    with client(config) as redis:
        _require_running(config, redis)
        run = DemoRun.of(config, f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
        stream = documents(count, seed, broken)
        samples = chain(list(islice(stream, _MADE_BEFORE)), stream)
        typer.echo(f"Dropping {count} documents into {printable(os.path.relpath(run.watch))} (seed {seed})", err=True)
        try:
            spoilt, timing = _send(run, samples, count, timeout, config, redis)
        except OSError as error:
            fail(explain(error))
        except KeyboardInterrupt:
            typer.echo(f"Interrupted. What was dropped is still processed; its results go to {run.output}", err=True)
            raise
        found = report(run, config, count, spoilt, timing)
        if as_json:
            print_json(found)
        else:
            _print_report(found, config, timing)
        if found["missing"]:
            where = _describe_missing(run, config, redis)
            fail(f"{found['missing']} of {count} documents did not finish in time: {where}.")
    wrong: list[str] = found["rejected_though_valid"]
    if wrong:
        fail(f"{len(wrong)} valid documents were rejected, the first of them {wrong[0]}.")


def _require_running(config: Config, redis: Redis) -> None:
    try:
        absent = read_processes(redis).missing(config.queue.priority_levels)
    except AWAY as error:
        fail(unreachable_message(config, error), ExitCode.UNREACHABLE)
    if absent:
        fail(f"Not running: {', '.join(absent)}. Start the whole system with: llmctl up")


def _send(
    run: DemoRun, samples: Iterator[Sample], count: int, timeout: float, config: Config, redis: Redis
) -> tuple[set[str], DemoTiming]:
    """Drop everything and wait until it is finished or time is up. Returns the broken ones' names and the times."""
    flush = BatchFlush(config, redis)
    with _progress() as progress:
        dropping = progress.add_task("Dropped", total=count)
        finished = progress.add_task("Finished", total=count)
        os.makedirs(run.watch)
        began = time.monotonic()
        spoilt: set[str] = set()
        for sample in drop(run.watch, samples):
            if sample.is_broken:
                spoilt.add(sample.name)
            progress.advance(dropping)
        last_result, results = 0.0, -1
        while True:
            looked = time.monotonic()
            done, rejected = len(run.done()), len(run.rejected())
            seconds = time.monotonic() - began
            if done != results:
                results, last_result = done, seconds
            progress.update(finished, completed=done + rejected)
            if done + rejected >= count or seconds > timeout:
                break
            if run.waiting() <= len(spoilt):  # only broken files wait, until they have settled
                flush()
            # Listing more files takes longer: it must not take the time that is measured.
            time.sleep(max(_MIN_WAIT, 5 * (time.monotonic() - looked)))
    with suppress(OSError):  # not empty, or removed already
        os.rmdir(run.watch)
    return spoilt, DemoTiming(seconds, last_result)


class BatchFlush:
    """Flushes batches that have stopped growing, so that the last documents need not wait for a full batch."""

    def __init__(self, config: Config, redis: Redis) -> None:
        self._config = config
        self._redis = redis
        self._lengths: dict[str, int] = {}
        self._is_away = False

    def __call__(self) -> None:
        clock = SystemClock()
        try:
            for backlog in read_backlog(self._redis, self._config.queue.priority_levels, clock.now()):
                if backlog.batched and backlog.batched == self._lengths.get(backlog.queue):
                    batches.flush(self._redis, backlog.queue, self._config.processing, clock, force=True)
                self._lengths[backlog.queue] = backlog.batched
        except AWAY as error:
            if not self._is_away:
                typer.echo(f"{unreachable_message(self._config, error)} Still waiting; nothing is lost.", err=True)
            self._is_away = True
        else:
            self._is_away = False


def _progress() -> Progress:
    out = stderr_console()
    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=out, transient=True, disable=not out.is_terminal)


def _print_report(report: dict[str, Any], config: Config, timing: DemoTiming) -> None:
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
    print_pairs(pairs)

    def print_rate(number: int, noun: str, seconds: float, remark: str = "") -> None:
        rate = f"{number} {noun} in {seconds:.1f} s: {number / seconds:.0f} documents/s{remark}"
        out.print(rate, soft_wrap=True)

    print_rate(report["documents"] - report["missing"], "documents", timing.total)
    if rejected and report["done"] and timing.total - timing.to_last_result > 0.5:
        settle = config.processing.settle_seconds
        remark = f" (a broken file first waits {settle:g} s, in case it is still being written)"
        print_rate(report["done"], "results", timing.to_last_result, remark)


def _describe_missing(run: DemoRun, config: Config, redis: Redis) -> str:
    """Where the documents are that did not finish."""
    places: list[str] = []
    waiting = run.waiting()
    if waiting:
        places.append(f"{waiting} wait in {run.watch}")
    try:
        for status in ACTIVE:
            wanted = ledger_queries.DocumentFilter(status=status, source=run.name)
            pages = ledger_queries.pages(
                ledger.entry_of, redis, config.queue.priority_levels, wanted=wanted, limit=1000
            )
            number = sum(len(page) for page in pages)
            if number:
                places.append(f"{number} {status.value}")
    except AWAY:
        places.append("Redis unreachable")
    known = ", ".join(places) or "unknown to Redis"
    return f"{known}; whatever was claimed is safe in {config.directories.temp_directory}"
