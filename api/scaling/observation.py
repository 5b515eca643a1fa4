"""What the policy needs to know, read in a few round trips from Redis and from the operating system.

A document's id has the time of its arrival in it, and the ledger's sets lie in the order of their ids: so how many
arrived since a moment is counted, not remembered. How long a document keeps a worker busy is what all workers say they
have worked between two looks, over the documents that were finished in between (the utilisation law: P. J. Denning
and J. P. Buzen, The Operational Analysis of Queueing Network Models, ACM Computing Surveys 10(3), 1978).
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec
import psutil  # type: ignore[import-untyped]
from redis import Redis
from rq.suspension import WORKERS_SUSPENDED
from rq.worker import WorkerStatus
from ulid_transform import ulid_at_time

from llm_scheduler.api.scaling.policy import HostSeen
from llm_scheduler.api.state.rollcall import living_workers
from llm_scheduler.jobs.document import FINAL, IN_FLIGHT, Status
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.submission import queue_key

JOB_SECONDS = 0.003  # what RQ and Redis add to a job's handlers, measured: a worker ends some 300 empty jobs a second
HALF_LIFE = 300.0  # seconds of work after which what was seen before counts half
_FIRST = 8  # documents that are asked since when they wait: a retry keeps its old id, so the first may be the last
_MIN_SECONDS = 1e-6

# KEYS: a set of queued documents. ARGV: how many of the first to look at. When the first of them was queued (ms), or 0.
_SINCE = (
    ledger.LUA
    + """
local since = 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)) do
  local record = ledger.get(id)
  local queued = record and record.tq
  if queued and (since == 0 or queued < since) then since = queued end
end
return since
"""
)


class Reading(NamedTuple):
    """One queue as Redis has it. `worked` holds (jobs, seconds) of each living worker, by its name."""

    waiting: int
    jobs: int
    oldest: float
    arrivals: float
    finished: int
    busy: int
    hosts: dict[str, int]
    worked: dict[str, tuple[int, float]]


class Pace(msgspec.Struct, frozen=True):
    """How long documents of a queue take, as far as it has been seen: `work` seconds over `done` documents.

    `finished` and `worked` are the last look's counts, from which the next one's are told.
    """

    at: float
    finished: int
    worked: dict[str, tuple[int, float]]
    work: float = 0.0
    done: float = 0.0

    @property
    def seconds(self) -> float | None:
        """What a document keeps a worker busy for; None before the first was finished."""
        return max(_MIN_SECONDS, self.work / self.done) if self.done else None


def paced(now: float, reading: Reading, before: Pace | None) -> Pace:
    """The pace after another look."""
    if before is None:
        return Pace(now, reading.finished, reading.worked)
    done = reading.finished - before.finished
    work = 0.0
    for name, (jobs, seconds) in reading.worked.items():
        known_jobs, known_seconds = before.worked.get(name, (0, 0.0))
        work += max(0.0, seconds - known_seconds) + JOB_SECONDS * max(0, jobs - known_jobs)
    if done < 0 or not (done or work):  # the ledger has been trimmed or emptied; or there is nothing new
        return Pace(now, reading.finished, reading.worked, before.work, before.done)
    fading = 0.5 ** (min(max(0.0, now - before.at), HALF_LIFE) / HALF_LIFE)
    return Pace(now, reading.finished, reading.worked, before.work * fading + work, before.done * fading + done)


class Looked(NamedTuple):
    """A look at Redis: each queue, and whether all workers are suspended."""

    queues: dict[str, Reading]
    suspended: bool


def look(redis: Redis, levels: Sequence[str], now: float, window: float) -> Looked:
    """Read every queue; rates are those of the last `window` seconds before `now` (epoch seconds)."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.exists(WORKERS_SUSPENDED)
    since = f"[{ulid_at_time(max(0.0, now - window))[:10]}"
    for level in levels:
        pipeline.llen(queue_key(level))
        pipeline.zcard(_set(Status.QUEUED, level))
        pipeline.eval(_SINCE, 1, _set(Status.QUEUED, level), _FIRST)
        for status in FINAL:
            pipeline.zcard(_set(status, level))
        for status in (*IN_FLIGHT, *FINAL):
            pipeline.zlexcount(_set(status, level), since, "+")
    answers = iter(pipeline.execute())
    suspended = bool(next(answers))
    counted = [
        (
            level,
            next(answers),
            next(answers),
            next(answers),
            sum(next(answers) for _ in FINAL),
            sum(next(answers) for _ in (*IN_FLIGHT, *FINAL)),
        )
        for level in levels
    ]
    workers = living_workers(redis)
    queues = {}
    for level, jobs, waiting, since_ms, finished, arrived in counted:
        own = [worker for worker in workers if worker["queue"] == level]
        queues[level] = Reading(
            waiting=waiting,
            jobs=jobs,
            oldest=max(0.0, now - since_ms / 1000) if since_ms else 0.0,
            arrivals=arrived / window,
            finished=finished,
            busy=sum(worker["state"] == WorkerStatus.BUSY for worker in own),
            hosts=dict(Counter(worker["host"] for worker in own)),
            worked={worker["name"]: (worker["jobs_done"], worker["working_seconds"]) for worker in own},
        )
    return Looked(queues, suspended)


def is_idle(redis: Redis, levels: Sequence[str]) -> bool:
    """Whether no document waits on a queue or is worked on; one round trip."""
    pipeline = redis.pipeline(transaction=False)
    for level in levels:
        pipeline.zcard(_set(Status.QUEUED, level))
        pipeline.zcard(_set(Status.STARTED, level))
    return not any(pipeline.execute())


def _set(status: Status, level: str) -> str:
    return f"llm:ledger:{status.value}:{level}"


class Vitals(Protocol):
    """How to look at this host."""

    def __call__(self, busy: int) -> HostSeen:
        """The host, with `busy` as the number of its busy workers."""
        ...


class SystemVitals:
    """The machine's own figures; CPU is that since the last look."""

    def __init__(self, first_seconds: float = 0.0) -> None:
        """`first_seconds`: how long to watch the CPU now, where no second look will come."""
        self._first = first_seconds
        psutil.cpu_percent()

    def __call__(self, busy: int) -> HostSeen:
        cpu = psutil.cpu_percent(self._first or None)
        memory = psutil.virtual_memory()
        return HostSeen(cpu=cpu, memory=memory.percent, memory_bytes=memory.total, busy=busy)


def memory_bytes() -> int:
    """All the memory that this host has."""
    return int(psutil.virtual_memory().total)
