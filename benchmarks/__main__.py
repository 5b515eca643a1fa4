"""`python -m benchmarks COMMAND`: one scenario or all. Results go to RESULTS.md."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import contenders, drain, envs, report
from benchmarks import http as http_scenario
from benchmarks import idle as idle_scenario
from benchmarks import intake as intake_scenario
from benchmarks import latency as latency_scenario
from benchmarks import memory as memory_scenario
from benchmarks.contenders import PLAIN_GROUPS, PROJECT, SIGNALS
from benchmarks.machine import describe
from benchmarks.results import Section, save
from benchmarks.spool import SLOW_SECONDS, seconds_since_sweep, sweep

app = typer.Typer(
    help="Measure the project, alone and beside other queues.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_console = Console()
LONG = 200_000
_LONG_CONTENDERS = (PROJECT, "plain-sync", "plain")
_LATENCY_PEERS = ("huey", "dramatiq", "arq")
_NEEDED_GIB = 25
_open: set[Path] = set()  # folders in use, see `_folder`
_QUICK_DOCUMENTS = 0.02  # the share of the documents that a quick run drains

Spool = Annotated[
    Path | None,
    typer.Option(help="Where the spools go: its file system is measured. Default: benchmarks/.spool."),
]
Quick = Annotated[bool, typer.Option("--quick", help="A small run, only to see that it works.")]
Only = Annotated[str | None, typer.Option(help=f"Contenders, separated by commas: {', '.join(contenders.ALL)}.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often each contender runs.")]


@app.command("all")
def everything(spool: Spool = None, quick: Quick = False, rounds: Rounds = 5) -> None:
    """Run all scenarios, one after the other."""
    minutes = "3" if quick else f"{12 + 4 * rounds}"
    _say(f"About {minutes} minutes on two quiet cores; the first time a few more, for the environments.")
    began = time.monotonic()
    steps: list[Callable[..., None]] = [drain_all, long, latency, memory, intake, idle, http_load]
    with _folder(spool):
        for number, step in enumerate(steps, 1):
            _say(f"[{number}/{len(steps)}] {step.__name__}")
            step(spool, quick, **({"rounds": 1 if quick else rounds} if step is drain_all else {}))
    _say(f"Took {(time.monotonic() - began) / 60:.1f} minutes.")


@app.command("drain")
def drain_all(spool: Spool = None, quick: Quick = False, rounds: Rounds = 5, only: Only = None) -> None:
    """A backlog, drained by each contender in interleaved rounds."""
    names = _chosen(only)
    documents = dict(drain.DOCUMENTS)
    if quick:
        documents = {name: max(100, int(count * _QUICK_DOCUMENTS)) for name, count in documents.items()}
    for env in sorted({contenders.PEER_KINDS[name].env for name in names if name in contenders.PEER_KINDS}):
        _say(f"environment of {env}")
        envs.python(env)
    with _section("drain", spool, quick, partial=only is not None) as (section, folder):
        section.drained = drain.rounds(names, documents, rounds, folder, _say)


@app.command()
def work(spool: Spool = None, quick: Quick = False, rounds: Rounds = 3) -> None:
    """The drain with the project and the plain loops only: CPU seconds by process."""
    drain_all(spool, quick, rounds, ",".join((PROJECT, SIGNALS, *PLAIN_GROUPS)))


@app.command()
def long(spool: Spool = None, quick: Quick = False, documents: int = LONG) -> None:
    """A backlog ten times as large: are rate and memory constant?"""
    count = int(documents * _QUICK_DOCUMENTS) if quick else documents
    with _section("long", spool, quick) as (section, folder):
        for name in _LONG_CONTENDERS:
            _say(f"{name}: {count:,} documents")
            run = drain.drain(name, count, folder, watch_memory=name == PROJECT)
            _say(f"{name}: {run.rate:,.0f}/s")
            section.drained.append(run)


@app.command()
def latency(spool: Spool = None, quick: Quick = False) -> None:
    """From drop to result: on an idle system, and for an urgent document under a backlog."""
    drops = 30 if quick else latency_scenario.IDLE_DROPS
    with _section("latency", spool, quick) as (section, folder):
        for name in (PROJECT, *_LATENCY_PEERS):
            _say(f"latency, idle: {name}")
            section.latencies.append(latency_scenario.idle(name, drops, folder))
        _say("latency under a backlog")
        section.latencies.append(
            latency_scenario.under_backlog(drops, 1000 if quick else latency_scenario.BACKLOG, folder)
        )


@app.command()
def memory(spool: Spool = None, quick: Quick = False) -> None:
    """The bytes of Redis for a document, queued and done."""
    with _section("memory", spool, quick) as (section, folder):
        for per_job in (1, 50):
            _say(f"memory with {per_job} document(s) a job")
            section.memory.append(
                memory_scenario.redis_memory(500 if quick else memory_scenario.DOCUMENTS, per_job, folder)
            )


@app.command()
def idle(spool: Spool = None, quick: Quick = False, seconds: float = idle_scenario.SECONDS) -> None:
    """The CPU time of `llmctl up` with nothing to do."""
    with _section("idle", spool, quick) as (section, folder):
        section.idle = idle_scenario.idle(10 if quick else seconds, folder)


@app.command()
def intake(spool: Spool = None, quick: Quick = False) -> None:
    """Documents through intake alone, on one core."""
    with _section("intake", spool, quick) as (section, folder):
        section.rates = intake_scenario.rates(3 if quick else intake_scenario.ROUNDS)
        section.drained = [drain.drain(PROJECT, 2000 if quick else 20_000, folder)]


@app.command("http")
def http_load(spool: Spool = None, quick: Quick = False) -> None:
    """The API with a million documents in its ledger (needs wrk)."""
    if shutil.which("wrk") is None:
        _say("The API is not measured: wrk is missing (Debian: apt install wrk).")
        return
    subprocess.run(["make", "--quiet", ".venv-tools/.done"], cwd=contenders.ROOT, check=True)
    documents, seconds, rounds = (20_000, 1, 1) if quick else (http_scenario.DOCUMENTS, http_scenario.SECONDS, 5)
    with _section("http", spool, quick) as (section, folder):
        section.http = http_scenario.http(documents, seconds, rounds, folder)


@app.command("report")
def write_report(quick: Quick = False) -> None:
    """Write RESULTS.md again from the kept results."""
    _say(f"Written: {report.write(quick)}")


def _chosen(only: str | None) -> list[str]:
    names = [name.strip() for name in only.split(",")] if only else list(contenders.ALL)
    unknown = [name for name in names if name not in contenders.ALL]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: allowed are {', '.join(contenders.ALL)}")
    return names


@contextmanager
def _section(name: str, spool: Path | None, quick: bool, partial: bool = False) -> Iterator[tuple[Section, Path]]:
    """A section to fill, and the folder for its spools; then it is saved and reported.

    `partial`: it is of a choice of contenders, and goes where a quick run's goes.
    """
    with _folder(spool) as folder:
        section = Section(machine=describe(folder))
        yield section, folder
        save(name, section, quick or partial)
        _say(f"Written: {report.write(quick or partial)}")


@contextmanager
def _folder(spool: Path | None) -> Iterator[Path]:
    """The folder for the spools, emptied when the outermost block ends."""
    folder = (spool / "llm-bench" if spool else Path(__file__).parent / ".spool").resolve()
    if folder in _open:
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    if free < _NEEDED_GIB:
        _say(f"Only {free:.0f} GiB are free in {folder}. A whole run needs {_NEEDED_GIB}; it deletes only at its end.")
    ago = seconds_since_sweep(folder)
    if ago < SLOW_SECONDS:
        _say(f"Files were deleted here {ago:.0f} s ago: ext4 creates files slowly for {SLOW_SECONDS:.0f} s after that.")
    _open.add(folder)
    try:
        yield folder
    finally:
        _open.remove(folder)
        sweep(folder)


def _say(text: str) -> None:
    _console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}", highlight=False)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    app()
