"""A demo run on disk: what has become of its documents, counted from the files, and how long they took."""

from __future__ import annotations

import os
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llm_scheduler.ingest.spool import Folders
from llm_scheduler.ingest.spool.commit import SIDECAR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_scheduler.jobs.config import Config

_HIDDEN = "."


class _Result(msgspec.Struct):
    priority: str
    received_at: datetime
    completed_at: datetime


class _ErrorReport(msgspec.Struct):
    code: str


_results = msgspec.json.Decoder(_Result)
_reports = msgspec.json.Decoder(_ErrorReport)


class Run(NamedTuple):
    """One demo: its folder's name, which is a part of every document's source, and where that lies."""

    name: str
    watch: str
    output: str
    error: str

    @classmethod
    def of(cls, config: Config, name: str) -> Run:
        folders = Folders.of(config.directories)
        return cls(name, *(os.path.join(each, name) for each in (folders.watch[0], folders.output, folders.error)))

    def waiting(self) -> int:
        """Files that nobody has claimed yet."""
        return sum(1 for _ in _names(self.watch))

    def done(self) -> set[str]:
        """The names of the documents that have a result."""
        return set(_names(self.output))

    def rejected(self) -> set[str]:
        """The names of the documents that have an error report."""
        return {name.removesuffix(SIDECAR) for name in _names(self.error) if name.endswith(SIDECAR)}


class Timing(NamedTuple):
    """Seconds from the first file dropped to the last file accounted for, and to the last result."""

    all: float
    results: float


def report(run: Run, config: Config, count: int, spoilt: set[str], timing: Timing) -> dict[str, Any]:
    """The run in numbers, counted from the files on disk."""
    done, rejected = run.done(), run.rejected()
    priorities: Counter[str] = Counter()
    seconds: list[float] = []
    for name in done:
        priority, latency = _result(os.path.join(run.output, name))
        priorities[priority] += 1
        seconds.append(latency)
    seconds.sort()
    finished = len(done) + len(rejected)
    return {
        "documents": count,
        "done": len(done),
        "rejected": dict(Counter(_code(run, name) for name in sorted(rejected)).most_common()),
        "rejected_though_valid": sorted(rejected - spoilt),
        "missing": count - finished,
        "by_priority": {level: priorities[level] for level in config.queue.priority_levels},
        "seconds": round(timing.all, 3),
        "seconds_to_last_result": round(timing.results, 3),
        "documents_per_second": round(finished / timing.all, 1),
        "latency_seconds": {"p50": _percentile(seconds, 50), "p95": _percentile(seconds, 95)},
        "results": run.output,
        "errors": run.error,
    }


def _names(folder: str) -> Iterator[str]:
    """The names in `folder` that are not hidden (those are unfinished); none while there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if not entry.name.startswith(_HIDDEN))
    except FileNotFoundError:
        return


def _result(path: str) -> tuple[str, float]:
    """A result's priority, and the seconds from its reception to its completion."""
    with open(path, "rb") as file:
        result = _results.decode(file.read())
    return result.priority, (result.completed_at - result.received_at).total_seconds()


def _code(run: Run, name: str) -> str:
    with open(os.path.join(run.error, name + SIDECAR), "rb") as file:
        return _reports.decode(file.read()).code


def _percentile(ordered: list[float], percent: int) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    if not ordered:
        return None
    return round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)], 3)
