"""`python -m benchmarks COMMAND`: each scenario by itself, or all of them. Results go to RESULTS.md."""

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
from benchmarks import http as https
from benchmarks import idle as idling
from benchmarks import intake as intakes
from benchmarks import latency as latencies
from benchmarks import memory as memories
from benchmarks.contenders import PLAIN_GROUPS, PROJECT, SIGNALS
from benchmarks.machine import describe
from benchmarks.results import Section, keep
from benchmarks.spool import SLOW_SECONDS, seconds_since_sweep, sweep

app = typer.Typer(
    help="Measure the project, alone and beside others.",
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
_QUICK_DOCUMENTS = 0.02  # the share of the documents that a quick run drains

Spool = Annotated[
    Path | None,
    typer.Option(help="Where the folders are made: its file system is what is measured. Else benchmarks/.spool."),
]
Quick = Annotated[bool, typer.Option("--quick", help="A small run of everything, to see that it works.")]
Only = Annotated[str | None, typer.Option(help=f"Contenders, with commas between: {', '.join(contenders.ALL)}.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often each contender runs.")]


@app.command("all")
def everything(spool: Spool = None, quick: Quick = False, rounds: Rounds = 5) -> None:
    """Everything, one after the other."""
    minutes = "3" if quick else f"{12 + 4 * rounds}"
    _say(f"About {minutes} minutes on two quiet cores, a few more to make the environments the first time.")
    began = time.monotonic()
    steps: list[tuple[str, Callable[[Path], None]]] = [
        ("drain", lambda folder: _drain(folder, quick, 1 if quick else rounds, None)),
        ("long", lambda folder: _long(folder, quick, LONG)),
        ("latency", lambda folder: _latency(folder, quick)),
        ("memory", lambda folder: _memory(folder, quick)),
        ("intake", lambda folder: _intake(folder, quick)),
        ("idle", lambda folder: _idle(folder, quick, idling.SECONDS)),
        ("http", lambda folder: _http(folder, quick)),
    ]
    with _folder(spool) as folder:
        for number, (name, step) in enumerate(steps, 1):
            _say(f"[{number}/{len(steps)}] {name}")
            step(folder)
    _say(f"Took {(time.monotonic() - began) / 60:.1f} minutes.")


@app.command("drain")
def drain_all(spool: Spool = None, quick: Quick = False, rounds: Rounds = 5, only: Only = None) -> None:
    """A backlog, drained by every contender in interleaved rounds."""
    with _folder(spool) as folder:
        _drain(folder, quick, rounds, only)


@app.command()
def work(spool: Spool = None, quick: Quick = False, rounds: Rounds = 3) -> None:
    """The drain with the project and the plain loops alone: CPU seconds by process."""
    with _folder(spool) as folder:
        _drain(folder, quick, rounds, ",".join((PROJECT, SIGNALS, *PLAIN_GROUPS)))


@app.command()
def long(spool: Spool = None, quick: Quick = False, documents: int = LONG) -> None:
    """A backlog ten times as large: does the rate stay, and the memory of the processes?"""
    with _folder(spool) as folder:
        _long(folder, quick, documents)


@app.command()
def latency(spool: Spool = None, quick: Quick = False) -> None:
    """From drop to result: on an idle system, and for an urgent document under a backlog."""
    with _folder(spool) as folder:
        _latency(folder, quick)


@app.command()
def memory(spool: Spool = None, quick: Quick = False) -> None:
    """What a document costs in Redis, queued and done."""
    with _folder(spool) as folder:
        _memory(folder, quick)


@app.command()
def idle(spool: Spool = None, quick: Quick = False, seconds: float = idling.SECONDS) -> None:
    """The CPU time of `llmctl up` with nothing to do."""
    with _folder(spool) as folder:
        _idle(folder, quick, seconds)


@app.command()
def intake(spool: Spool = None, quick: Quick = False) -> None:
    """Documents through intake alone, on one core."""
    with _folder(spool) as folder:
        _intake(folder, quick)


@app.command("http")
def http_load(spool: Spool = None, quick: Quick = False) -> None:
    """The API with a million documents in its ledger (needs wrk)."""
    with _folder(spool) as folder:
        _http(folder, quick)


@app.command("report")
def write_report(quick: Quick = False) -> None:
    """Write RESULTS.md anew from the results that were kept."""
    _say(f"Written: {report.write(quick)}")


def _drain(folder: Path, quick: bool, rounds: int, only: str | None) -> None:
    names = _chosen(only)
    documents = dict(drain.DOCUMENTS)
    if quick:
        documents = {name: max(100, int(count * _QUICK_DOCUMENTS)) for name, count in documents.items()}
    for env in sorted({contenders.PEER_KINDS[name].env for name in names if name in contenders.PEER_KINDS}):
        _say(f"environment of {env}")
        envs.python(env)
    section = Section(machine=describe(folder))
    section.drained = drain.rounds(names, documents, rounds, folder, _say)
    _finish("drain", section, quick, partial=only is not None)


def _long(folder: Path, quick: bool, documents: int) -> None:
    section = Section(machine=describe(folder))
    count = int(documents * _QUICK_DOCUMENTS) if quick else documents
    for name in _LONG_CONTENDERS:
        _say(f"{name}: {count:,} documents")
        run = drain.drain(name, count, folder, watch_memory=name == PROJECT)
        _say(f"{name}: {run.rate:,.0f}/s")
        section.drained.append(run)
    _finish("long", section, quick)


def _latency(folder: Path, quick: bool) -> None:
    drops = 30 if quick else latencies.IDLE_DROPS
    section = Section(machine=describe(folder))
    for name in (PROJECT, *_LATENCY_PEERS):
        _say(f"latency, idle: {name}")
        section.latencies.append(latencies.idle(name, drops, folder))
    _say("latency under a backlog")
    section.latencies.append(latencies.under_backlog(drops, 1000 if quick else latencies.BACKLOG, folder))
    _finish("latency", section, quick)


def _memory(folder: Path, quick: bool) -> None:
    section = Section(machine=describe(folder))
    for per_job in (1, 50):
        _say(f"memory with {per_job} document(s) a job")
        section.memory.append(memories.redis_memory(500 if quick else memories.DOCUMENTS, per_job, folder))
    _finish("memory", section, quick)


def _idle(folder: Path, quick: bool, seconds: float) -> None:
    section = Section(machine=describe(folder))
    section.idle = idling.idle(10 if quick else seconds, folder)
    _finish("idle", section, quick)


def _intake(folder: Path, quick: bool) -> None:
    section = Section(machine=describe(folder))
    section.rates = intakes.rates(3 if quick else 15)
    section.drained = [drain.drain(PROJECT, 2000 if quick else 20_000, folder)]
    _finish("intake", section, quick)


def _http(folder: Path, quick: bool) -> None:
    if shutil.which("wrk") is None:
        _say("The API is not measured: wrk is missing (Debian: apt install wrk).")
        return
    subprocess.run(["make", "--quiet", ".venv-tools/.done"], cwd=contenders.ROOT, check=True)
    section = Section(machine=describe(folder))
    section.http = https.http(
        20_000 if quick else https.DOCUMENTS, 1 if quick else https.SECONDS, 1 if quick else 5, folder
    )
    _finish("http", section, quick)


def _chosen(only: str | None) -> list[str]:
    names = [name.strip() for name in only.split(",")] if only else list(contenders.ALL)
    unknown = [name for name in names if name not in contenders.ALL]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: allowed are {', '.join(contenders.ALL)}")
    return names


@contextmanager
def _folder(spool: Path | None) -> Iterator[Path]:
    """A folder of the project's own to make spools in, swept when everything is over."""
    folder = (spool / "llm-bench" if spool else Path(__file__).parent / ".spool").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    if free < _NEEDED_GIB:
        _say(f"Only {free:.0f} GiB are free below {folder}: a whole run takes {_NEEDED_GIB}, and deletes at its end.")
    ago = seconds_since_sweep(folder)
    if ago < SLOW_SECONDS:
        _say(f"Files were deleted here {ago:.0f} s ago, and ext4 makes new ones slowly for {SLOW_SECONDS:.0f} s after.")
    try:
        yield folder
    finally:
        sweep(folder)


def _finish(name: str, section: Section, quick: bool, partial: bool = False) -> None:
    """Keep the results; those of a choice of contenders are shown only where a quick run's are."""
    keep(name, section, quick or partial)
    _say(f"Written: {report.write(quick or partial)}")


def _say(text: str) -> None:
    _console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}", highlight=False)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    app()
