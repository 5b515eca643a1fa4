"""A demo on disk: what became of its documents, counted from the files, and how long they took."""

import os
from collections import Counter
from datetime import datetime
from typing import Any, NamedTuple

from llm_scheduler.ingest.spool import Folders
from llm_scheduler.ingest.spool.names import REPORT_SUFFIX
from llm_scheduler.ingest.spool.result_files import read_report
from llm_scheduler.ingest.spool.watch_files import files
from llm_scheduler.jobs.config import Config


class DemoRun(NamedTuple):
    """One demo: the folder name that its documents' sources begin with, and that folder in three places."""

    name: str
    watch: str
    output: str
    error: str

    @classmethod
    def of(cls, config: Config, name: str) -> "DemoRun":
        folders = Folders.of(config.directories)
        return cls(name, *(os.path.join(each, name) for each in (folders.watch[0], folders.output, folders.error)))

    def waiting(self) -> int:
        """The number of files not claimed yet."""
        return sum(1 for _ in files(self.watch))

    def done(self) -> set[str]:
        """The names of the documents with a result."""
        return set(files(self.output))

    def rejected(self) -> set[str]:
        """The names of the documents with an error report."""
        return {name.removesuffix(REPORT_SUFFIX) for name in files(self.error) if name.endswith(REPORT_SUFFIX)}


class DemoTiming(NamedTuple):
    """Seconds from the first file dropped to the last one finished, and to the last result."""

    total: float
    to_last_result: float


def report(run: DemoRun, config: Config, count: int, spoilt: set[str], timing: DemoTiming) -> dict[str, Any]:
    """The demo in numbers. `spoilt`: the names of the documents that are broken on purpose."""
    done, rejected = run.done(), run.rejected()
    priorities: Counter[str] = Counter()
    latencies: list[float] = []
    for name in done:
        if result := read_report(os.path.join(run.output, name)):
            priorities[result.route.priority] += 1
            latencies.append(_epoch(result.completed_at) - _epoch(result.received_at))
    latencies.sort()
    reports = (read_report(os.path.join(run.error, name + REPORT_SUFFIX)) for name in sorted(rejected))
    finished = len(done) + len(rejected)
    return {
        "documents": count,
        "done": len(done),
        "rejected": dict(Counter(each.code for each in reports if each).most_common()),
        "rejected_though_valid": sorted(rejected - spoilt),
        "missing": count - finished,
        "by_priority": {level: priorities[level] for level in config.queue.priority_levels},
        "seconds": round(timing.total, 3),
        "seconds_to_last_result": round(timing.to_last_result, 3),
        "documents_per_second": round(finished / timing.total, 1),
        "latency_seconds": {"p50": _percentile(latencies, 50), "p95": _percentile(latencies, 95)},
        "results": run.output,
        "errors": run.error,
    }


def _epoch(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _percentile(ordered: list[float], percent: int) -> float | None:
    """The nearest-rank percentile; None for no values."""
    if not ordered:
        return None
    return round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)], 3)
