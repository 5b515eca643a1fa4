"""What the policy needs to know about queues and this host: a few round trips to Redis, and psutil.

A document's id contains the time of its arrival, and the ledger's sets are sorted by id: so the arrivals since a moment
can be counted. The seconds that a document keeps a worker busy are the working time of all workers between two
observations, divided by the documents finished in between (the utilisation law: P. J. Denning and J. P. Buzen, The
Operational Analysis of Queueing Network Models, ACM Computing Surveys 10(3), 1978).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import psutil  # type: ignore[import-untyped]
from redis import Redis
from rq.worker import WorkerStatus

from llm_scheduler.api.scaling.policy import HostLoad
from llm_scheduler.api.state.processes import read_workers
from llm_scheduler.jobs.document import FINAL, IN_FLIGHT, Status, id_prefix_at
from llm_scheduler.jobs.store import waiting_documents
from llm_scheduler.jobs.store.keys import keys_of

JOB_SECONDS = 0.003  # that RQ and Redis take for a job, measured: a worker does some 300 empty jobs a second
HALF_LIFE = 300.0  # seconds after which an observation counts half
_MIN_SECONDS = 1e-6


class QueueReading(NamedTuple):
    """One queue in Redis. `worked`: (jobs, seconds) of each live worker since its start, by name."""

    waiting: int
    jobs: int
    oldest: float
    arrivals: float
    finished: int
    busy: int
    hosts: dict[str, int]
    worked: dict[str, tuple[int, float]]


class Pace(msgspec.Struct, frozen=True):
    """How long documents of a queue take: `work` seconds for `done` documents, older ones counting less.

    `finished` and `worked` are the counts of the last observation.
    """

    at: float
    finished: int
    worked: dict[str, tuple[int, float]]
    work: float = 0.0
    done: float = 0.0

    @property
    def seconds(self) -> float | None:
        """How long a document keeps a worker busy; None before the first is finished."""
        return max(_MIN_SECONDS, self.work / self.done) if self.done else None


def updated_pace(now: float, reading: QueueReading, before: Pace | None) -> Pace:
    """The pace after one more observation."""
    if before is None:
        return Pace(now, reading.finished, reading.worked)
    done = reading.finished - before.finished
    work = 0.0
    for name, (jobs, seconds) in reading.worked.items():
        known_jobs, known_seconds = before.worked.get(name, (0, 0.0))
        work += max(0.0, seconds - known_seconds) + JOB_SECONDS * max(0, jobs - known_jobs)
    if done < 0 or not (done or work):  # the ledger was trimmed or emptied, or nothing is new
        return Pace(now, reading.finished, reading.worked, before.work, before.done)
    weight = 0.5 ** (min(max(0.0, now - before.at), HALF_LIFE) / HALF_LIFE)
    return Pace(now, reading.finished, reading.worked, before.work * weight + work, before.done * weight + done)


class Observation(NamedTuple):
    """Each queue, and whether all workers are suspended (`rq suspend`)."""

    queues: dict[str, QueueReading]
    suspended: bool


def observe(redis: Redis, levels: Sequence[str], now: float, window: float) -> Observation:
    """Observe every queue. Rates are those of the last `window` seconds before `now` (epoch seconds)."""
    pipeline = redis.pipeline(transaction=False)
    keys = keys_of(redis)
    pipeline.exists(keys.suspended)
    waiting_documents.ask(pipeline, levels)
    since = f"[{id_prefix_at(now - window)}"
    for level in levels:
        pipeline.llen(keys.queue(level))
        pipeline.zcard(keys.status_set(Status.QUEUED, level))
        for status in FINAL:
            pipeline.zcard(keys.status_set(status, level))
        for status in (*IN_FLIGHT, *FINAL):
            pipeline.zlexcount(keys.status_set(status, level), since, "+")
    answers = iter(pipeline.execute())
    suspended = bool(next(answers))
    oldest = waiting_documents.parse(next(answers), levels)
    workers = read_workers(redis)
    queues = {}
    for level in levels:
        queued = oldest[level].queued
        own = [worker for worker in workers if worker.queue == level]
        queues[level] = QueueReading(
            jobs=next(answers),
            waiting=next(answers),
            finished=sum(next(answers) for _ in FINAL),
            arrivals=sum(next(answers) for _ in (*IN_FLIGHT, *FINAL)) / window,
            oldest=max(0.0, now - queued.since) if queued else 0.0,
            busy=sum(worker.state == WorkerStatus.BUSY for worker in own),
            hosts=dict(Counter(worker.host for worker in own)),
            worked={worker.name: (worker.jobs_done, worker.working_seconds) for worker in own},
        )
    return Observation(queues, suspended)


def is_idle(redis: Redis, levels: Sequence[str]) -> bool:
    """Whether no document waits on a queue or is being processed; one round trip."""
    keys = keys_of(redis)
    pipeline = redis.pipeline(transaction=False)
    for level in levels:
        pipeline.zcard(keys.status_set(Status.QUEUED, level))
        pipeline.zcard(keys.status_set(Status.STARTED, level))
    return not any(pipeline.execute())


# Measures the load of this host. The argument: how many of its workers are busy.
HostProbe = Callable[[int], HostLoad]


class SystemProbe:
    """Measures with psutil; CPU is the mean since the last call."""

    def __init__(self, seconds: float = 0.0) -> None:
        """`seconds`: how long each call measures the CPU; 0: since the call before it."""
        self._seconds = seconds
        psutil.cpu_percent()

    def __call__(self, busy: int) -> HostLoad:
        cpu = psutil.cpu_percent(self._seconds or None)
        memory = psutil.virtual_memory()
        return HostLoad(cpu=cpu, memory=memory.percent, memory_bytes=memory.total, busy=busy)
