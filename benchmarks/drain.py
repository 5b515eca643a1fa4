"""Draining a backlog: from the start of ingest (or feeder, or loop) to the last original in the archive."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from benchmarks import contenders
from benchmarks.contenders import Contender
from benchmarks.spool import Spool

# Chosen so that a run takes about ten seconds on two cores, or less for the slow ones.
DOCUMENTS: dict[str, int] = {
    "project": 20_000,
    "project-signals": 20_000,
    "plain-sync": 20_000,
    "plain": 20_000,
    "rq-fork": 1_000,
    "rq-simple": 2_000,
    "celery": 6_000,
    "dramatiq": 6_000,
    "huey": 6_000,
    "taskiq": 10_000,
    "arq": 6_000,
}
POLL_SECONDS = 0.5
_LONG_POLL_SECONDS = 2.0  # since listing many folders and reading memory cost time
_LONG = 50_000
STALLED_SECONDS = 60.0


class DrainRun(msgspec.Struct, frozen=True):
    """One run. `cpu`: CPU seconds by role. `memory`: samples of (documents done, resident bytes by role)."""

    contender: str
    documents: int
    seconds: float
    steady: float
    cpu: dict[str, float]
    memory: list[tuple[int, dict[str, int]]]
    round: int = 0

    @property
    def rate(self) -> float:
        """Documents per second, from start to end."""
        return self.documents / self.seconds

    @property
    def cpu_per_1000(self) -> float:
        """CPU seconds of all processes per 1,000 documents."""
        return 1000 * sum(self.cpu.values()) / self.documents


def rounds(
    names: Sequence[str], documents: Mapping[str, int], count: int, folder: Path, say: Callable[[str], None]
) -> list[DrainRun]:
    """`count` rounds with each contender once, in a new order each time."""
    chance = random.Random(3)
    drained: list[DrainRun] = []
    for number in range(count):
        order = chance.sample(list(names), len(names))
        for name in order:
            say(f"round {number + 1} of {count}: {name}")
            run = drain(name, documents[name], folder)
            drained.append(msgspec.structs.replace(run, round=number))
            say(f"{name}: {run.documents} documents, {run.rate:.0f}/s")
    return drained


def drain(name: str, documents: int, folder: Path, *, watch_memory: bool = False) -> DrainRun:
    """One run of one contender on a fresh spool and a fresh server."""
    spool = Spool(folder / f"{name}-{time.time_ns()}")
    contender = contenders.make(name, spool)
    try:
        contender.prepare()
        spool.fill(documents)
        return _run(contender, documents, watch_memory)
    finally:
        contender.close()


def _run(contender: Contender, documents: int, watch_memory: bool) -> DrainRun:
    spool = contender.spool
    before = contender.cpu()
    began = time.time()
    contender.go()
    progress = [(began, 0)]
    memory: list[tuple[int, dict[str, int]]] = []
    every = POLL_SECONDS if documents < _LONG else _LONG_POLL_SECONDS
    while True:
        time.sleep(every)
        done = spool.archived()
        now = time.time()
        if done > progress[-1][1]:
            progress.append((now, done))
        elif now - progress[-1][0] > STALLED_SECONDS:
            raise RuntimeError(f"{contender.name} stopped at {done} of {documents}: {contender.ended_early()}")
        if watch_memory:
            memory.append((done, contender.memory()))
        if done >= documents:
            break
        contender.raise_if_ended()
    after = contender.cpu()
    spool.check()
    ended = spool.ended()
    progress[-1] = (ended, documents)
    return DrainRun(
        contender=contender.name,
        documents=documents,
        seconds=ended - began,
        steady=steady_rate(progress),
        cpu={role: seconds - before.get(role, 0.0) for role, seconds in after.items()},
        memory=memory,
    )


def steady_rate(progress: Sequence[tuple[float, int]]) -> float:
    """Documents per second between a tenth and nine tenths of them: without the start and the tail.

    `progress`: (seconds, documents done), both rising.
    """
    total = progress[-1][1]
    first, last = _time_of(progress, total * 0.1), _time_of(progress, total * 0.9)
    return total * 0.8 / (last - first) if last > first else float("nan")


def _time_of(progress: Sequence[tuple[float, int]], count: float) -> float:
    """When `count` were done, by linear interpolation between two samples."""
    for (earlier, low), (later, high) in pairwise(progress):
        if high >= count:
            return earlier + (later - earlier) * (count - low) / (high - low)
    return progress[-1][0]
