"""Results, kept as JSON between commands, so that one report can show several."""

from pathlib import Path

import msgspec

from benchmarks.drain import DrainRun
from benchmarks.http import HttpResults
from benchmarks.idle import IdleUse
from benchmarks.intake import Rate
from benchmarks.latency import Latency
from benchmarks.machine import Machine
from benchmarks.memory import RedisMemory

FOLDER = Path(__file__).parent / ".results"


class Section(msgspec.Struct, kw_only=True):
    """One command's results, and the machine they were measured on."""

    machine: Machine
    drained: list[DrainRun] = []
    latencies: list[Latency] = []
    memory: list[RedisMemory] = []
    idle: IdleUse | None = None
    http: HttpResults | None = None
    rates: list[Rate] = []


def save(name: str, section: Section, quick: bool) -> None:
    folder = _folder(quick)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(section)))


def load(name: str, quick: bool) -> Section | None:
    """The latest results of a command; None when it has not run."""
    path = _folder(quick) / f"{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=Section) if path.exists() else None


def report_path(quick: bool) -> Path:
    """Where the report goes. That of a quick run is not the project's RESULTS.md."""
    return _folder(True) / "RESULTS.md" if quick else Path(__file__).parent / "RESULTS.md"


def _folder(quick: bool) -> Path:
    return FOLDER / "quick" if quick else FOLDER
