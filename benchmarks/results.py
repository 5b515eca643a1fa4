"""What was measured, kept as JSON between the commands, so that a report can be made of several."""

from pathlib import Path

import msgspec

from benchmarks.drain import Drained
from benchmarks.http import Http
from benchmarks.idle import Idle
from benchmarks.intake import Rate
from benchmarks.latency import Latency
from benchmarks.machine import Machine
from benchmarks.memory import RedisMemory

KEPT = Path(__file__).parent / ".results"


class Section(msgspec.Struct, kw_only=True):
    """One command's results and where they come from."""

    machine: Machine
    drained: list[Drained] = []
    latencies: list[Latency] = []
    memory: list[RedisMemory] = []
    idle: Idle | None = None
    http: Http | None = None
    rates: list[Rate] = []


def keep(name: str, section: Section, quick: bool) -> None:
    folder = _folder(quick)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(section)))


def kept(name: str, quick: bool) -> Section | None:
    """The latest results of a command, or None when it has not been run."""
    path = _folder(quick) / f"{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=Section) if path.exists() else None


def report_path(quick: bool) -> Path:
    """A quick run is only to see that everything works: its report is not the project's."""
    return _folder(True) / "RESULTS.md" if quick else Path(__file__).parent / "RESULTS.md"


def _folder(quick: bool) -> Path:
    return KEPT / "quick" if quick else KEPT
