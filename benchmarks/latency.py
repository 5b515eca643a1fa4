"""Latency: from the moment a dropped file is complete to the moment its result exists."""

import os
import random
import statistics
import time
from pathlib import Path

import msgspec

from benchmarks import contenders, corpus
from benchmarks.contenders import Contender, Project
from benchmarks.server import wait_until
from benchmarks.spool import Spool

IDLE_DROPS = 300
BACKLOG = 10_000
MAX_ROUNDS = 5  # of backlogs, until there are IDLE_DROPS drops
_POLL_SECONDS = 0.0004
_MAX_SECONDS = 60.0
_MIN_QUEUED = 500


class Latency(msgspec.Struct, frozen=True):
    """Seconds of each drop. `backlog`: documents of the lowest priority queued before it; 0: none."""

    contender: str
    backlog: int
    seconds: list[float]
    rounds: int = 1


def percentile(values: list[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(len(ordered) * percent) // 100) - 1))]


def idle(name: str, drops: int, folder: Path) -> Latency:
    """One document at a time on an idle system. The first ten are not counted."""
    contender = _make(name, folder)
    chance = random.Random(5)
    try:
        contender.prepare()
        contender.go()
        wait_until(contender.watches, f"{name} watching its folder", 20)
        time.sleep(1)
        seconds = []
        for index in range(drops + 10):
            time.sleep(chance.uniform(0.02, 0.08))
            seconds.append(_drop(contender.spool, index, None))
        return Latency(name, 0, seconds[10:])
    finally:
        contender.close()


def under_backlog(drops: int, backlog: int, folder: Path) -> Latency:
    """The project: `high` documents while `backlog` documents of priority `low` are processed."""
    seconds: list[float] = []
    rounds = 0
    while len(seconds) < drops and rounds < MAX_ROUNDS:
        seconds += _backlog_round(drops - len(seconds), backlog, rounds, folder)
        rounds += 1
    return Latency(contenders.PROJECT, backlog, seconds, rounds)


def _backlog_round(drops: int, backlog: int, number: int, folder: Path) -> list[float]:
    contender = _make(contenders.PROJECT, folder)
    assert isinstance(contender, Project)
    spool = contender.spool
    try:
        contender.prepare()
        contender.go()
        wait_until(contender.watches, "ingest watching its folder", 20)
        staged = spool.folder / "staged"
        staged.mkdir()
        names = corpus.write(str(staged), backlog, priority="low")
        os.sync()
        for name in names:
            os.rename(staged / name, spool.raw / name)
        wait_until(lambda: contender.count("batched", "queued") >= min(_MIN_QUEUED, backlog // 4), "a backlog", 30)
        return _drop_steadily(contender, drops, backlog, number)
    finally:
        contender.close()


def _drop_steadily(project: Project, drops: int, backlog: int, number: int) -> list[float]:
    """Drop a document every 20 to 60 ms while the backlog lasts, whether the ones before it are done or not.

    Waiting for each result before the next drop would leave out the slow moments (coordinated omission).
    """
    chance = random.Random(number)
    seconds: list[float] = []
    waiting: dict[str, float] = {}
    count = 0
    due = time.perf_counter()
    is_dropping = True
    while is_dropping or waiting:
        now = time.perf_counter()
        if is_dropping and now >= due:
            is_dropping = count < drops and project.count("done") < backlog * 0.95
            if is_dropping:
                result, dropped = _write(project.spool, number * 10_000 + count, "high")
                waiting[result] = dropped
                count += 1
                due = now + chance.uniform(0.02, 0.06)
        there = [result for result in waiting if os.path.exists(result)]
        seconds += [time.perf_counter() - waiting.pop(result) for result in there]
        if waiting and now - min(waiting.values()) > _MAX_SECONDS:
            raise TimeoutError(f"no result of {len(waiting)} documents after {_MAX_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
    return seconds


def _make(name: str, folder: Path) -> Contender:
    spool = Spool(folder / f"{name}-{time.time_ns()}")
    # real_time: no document waits in a batch.
    return Project(name, spool, mode="real_time") if name == contenders.PROJECT else contenders.make(name, spool)


def _drop(spool: Spool, index: int, priority: str | None) -> float:
    """Drop one document and wait for its result."""
    result, dropped = _write(spool, index, priority)
    while not os.path.exists(result):
        time.sleep(_POLL_SECONDS)
        if time.perf_counter() - dropped > _MAX_SECONDS:
            raise TimeoutError(f"no {result} after {_MAX_SECONDS:g} s")
    return time.perf_counter() - dropped


def _write(spool: Spool, index: int, priority: str | None) -> tuple[str, float]:
    """Write one document in place, with one write. Returns its result's path, and the moment it was complete."""
    raw = corpus.document(2 * 10**6 + index, priority)
    name = f"drop-{index:06d}.json"
    with open(os.path.join(spool.raw, name), "wb", buffering=0) as file:
        file.write(raw)
    return os.path.join(spool.processed, name), time.perf_counter()


def summary(latency: Latency) -> dict[str, float]:
    """Percentiles in milliseconds."""
    return {
        "p50": statistics.median(latency.seconds) * 1000,
        "p95": percentile(latency.seconds, 95) * 1000,
        "p99": percentile(latency.seconds, 99) * 1000,
        "max": max(latency.seconds) * 1000,
    }
