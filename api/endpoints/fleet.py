"""`GET /queues`, `/workers`, `/hosts`, `/schedules` and `/producers`, in few round trips."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.http.context import answer, asks_redis, site
from llm_scheduler.api.http.operation import Answer, Nothing, Operation
from llm_scheduler.api.state import backlog
from llm_scheduler.api.state.backlog import Waiting
from llm_scheduler.api.state.rollcall import WorkerSeen, words, workers
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.process.heartbeat import Said
from llm_scheduler.jobs.process.vitals import HostVitals
from llm_scheduler.jobs.store import batches, counters, ledger, producers
from llm_scheduler.jobs.store.counters import Tally
from llm_scheduler.jobs.store.submission import SCHEDULE

RATE_SECONDS = 60.0  # over which the rates of the queues are taken
_SCHEDULER_LOCK = "rq:scheduler_lock"  # rq-scheduler's; its value begins with the name of the process that holds it

Count = Annotated[int, Meta(ge=0)]


class QueueShown(msgspec.Struct, frozen=True, kw_only=True):
    """A priority level: what waits, what runs, who works on it.

    `depth` counts the documents that wait for a worker, in RQ jobs (`jobs_waiting`) or in a batch (`batched`);
    `oldest_seconds` is for how long the first of them has waited, null when none does. The rates are documents a second
    over the last one to two minutes. `drain_seconds` is how long what waits now takes at that rate, or at the pace of
    the workers while none was finished; null when neither is known, and while the queue is paused: then its workers
    take no jobs.
    """

    name: str
    depth: Count
    oldest_seconds: float | None
    received_per_second: float
    finished_per_second: float
    drain_seconds: float | None
    paused: bool
    jobs_waiting: Count
    batched: Count
    documents: dict[str, Count]
    workers: Count


class Queues(msgspec.Struct, frozen=True):
    queues: list[QueueShown]


class WorkerShown(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that lives, as of its last heartbeat.

    `rss` is the memory of its process in bytes and `cpu` its processor time in percent of one core; both are told every
    15 s. `version_skew`: it runs another version of the project than this API. `current_job` is an RQ job's id.
    """

    name: str
    host: str
    pid: int | None
    queue: str
    state: str
    current_job: str | None
    last_heartbeat: str | None
    birth: str | None
    jobs_done: Count
    working_seconds: float
    rss: Count | None
    cpu: float | None
    version: str | None
    version_skew: bool


class Workers(msgspec.Struct, frozen=True):
    workers: list[WorkerShown]


class DiskShown(msgspec.Struct, frozen=True):
    """The file system that holds the spool."""

    free_bytes: Count
    total_bytes: Count


class DaemonShown(msgspec.Struct, frozen=True):
    """A daemon: ingest, collector or scheduler. `message` says what it waits for, or how much it holds."""

    role: str
    pid: Count
    state: str
    message: str
    version: str | None


class HostShown(msgspec.Struct, frozen=True, kw_only=True):
    """A host on which a worker or a daemon runs. What it doesn't tell is null.

    `cpu` and `memory` are percent of all it has, `load` is the average number of processes of the last minute that ran
    or wanted to. `disk` is there where ingest or the collector runs. `workers` are counted by state.
    """

    name: str
    cpu: float | None
    memory: float | None
    load: float | None
    disk: DiskShown | None
    workers: dict[str, Count]
    daemons: list[DaemonShown]
    last_seen: str | None
    versions: list[str]
    version_skew: bool


class Hosts(msgspec.Struct, frozen=True):
    hosts: list[HostShown]


class FlushShown(msgspec.Struct, frozen=True):
    """The flush of a queue's batch; `next_at` is null while nothing waits."""

    queue: str
    batched: Count
    next_at: str | None


class RetriesShown(msgspec.Struct, frozen=True):
    """Documents that wait for their next attempt, and when the first of them is due."""

    count: Count
    next_at: str | None


class Schedules(msgspec.Struct, frozen=True):
    """What llm-scheduler will do and when. `holder` is the scheduler that does it (`host-pid-…`); null: there is none,
    and what is due waits."""

    flushes: list[FlushShown]
    retries: RetriesShown
    holder: str | None


class ProducersAsked(msgspec.Struct, frozen=True):
    days: Annotated[int, Meta(ge=1, le=3650, description="Today and so many days less one before it (UTC).")] = 1


class ProducerShown(msgspec.Struct, frozen=True):
    """What came of a producer's documents. `malformed`: the share of those that were not simply valid JSON."""

    producer: str
    model: str
    documents: int
    malformed: float
    causes: dict[str, int]


class Producers(msgspec.Struct, frozen=True):
    days: int
    producers: list[ProducerShown]


@asks_redis
def list_queues(request: Request, query: Nothing) -> Response:
    """Each priority level: how much waits and for how long, how fast it goes, who works on it."""
    here = site(request)
    now = here.clock.now()
    waiting = backlog.read(here.redis, here.levels, now)
    lately = counters.lately(here.redis, here.levels, now, RATE_SECONDS)
    paces = here.redis.hmget(ledger.PACE_KEY, list(here.levels))
    manned = Counter(queue for worker in workers(here.redis) for queue in worker.queue.split(","))
    shown = [
        _queue(each, lately.queues[each.queue], lately.seconds, manned[each.queue], float(pace or 0))
        for each, pace in zip(waiting, paces, strict=True)
    ]
    return answer(Queues(shown))


def _queue(waiting: Waiting, tally: Tally, seconds: float, manned: int, pace: float) -> QueueShown:
    finished = tally.finished / seconds
    rate = 0.0 if waiting.paused else finished or (manned / pace if pace > 0 else 0.0)
    return QueueShown(
        name=waiting.queue,
        depth=waiting.depth,
        oldest_seconds=None if waiting.oldest is None else round(waiting.oldest, 3),
        received_per_second=round(tally.received / seconds, 3),
        finished_per_second=round(finished, 3),
        drain_seconds=0.0 if not waiting.depth else round(waiting.depth / rate, 1) if rate else None,
        paused=waiting.paused,
        jobs_waiting=waiting.jobs,
        batched=waiting.batched,
        documents=waiting.documents,
        workers=manned,
    )


@asks_redis
def list_workers(request: Request, query: Nothing) -> Response:
    """The workers that live."""
    return answer(Workers([_worker(worker) for worker in workers(site(request).redis)]))


def _worker(worker: WorkerSeen) -> WorkerShown:
    fields = msgspec.structs.asdict(worker)
    del fields["vitals"]
    fields["version"] = worker.version or None
    return WorkerShown(**fields, version_skew=worker.version != __version__)


@asks_redis
def list_hosts(request: Request, query: Nothing) -> Response:
    """The hosts on which workers and daemons run, and how they are."""
    redis = site(request).redis
    return answer(Hosts(hosts(workers(redis), words(redis))))


def hosts(manned: Sequence[WorkerSeen], said: Mapping[str, Said]) -> list[HostShown]:
    """What workers and daemons say of their hosts, together, by name."""
    names = {worker.host for worker in manned} | {word.host for word in said.values()}
    return [
        _host(
            name,
            [worker for worker in manned if worker.host == name],
            {role: word for role, word in said.items() if word.host == name},
        )
        for name in sorted(names)
        if name
    ]


def _host(name: str, manned: Sequence[WorkerSeen], said: Mapping[str, Said]) -> HostShown:
    told = [*(worker.vitals for worker in manned), *(word.vitals for word in said.values())]
    known = sorted((each for each in told if each is not None), key=lambda each: each.at, reverse=True)
    disk = next((each for each in known if each.disk_free is not None and each.disk_total is not None), None)
    seen = [worker.last_heartbeat for worker in manned] + [rfc3339(word.at) for word in said.values()]
    versions = {worker.version for worker in manned} | {word.version for word in said.values()}
    return HostShown(
        name=name,
        cpu=_newest(known, "cpu"),
        memory=_newest(known, "memory"),
        load=_newest(known, "load"),
        disk=_disk(disk),
        workers=dict(sorted(Counter(worker.state for worker in manned).items())),
        daemons=[
            DaemonShown(role, word.pid, word.state, word.message, word.version or None) for role, word in said.items()
        ],
        last_seen=max((at for at in seen if at), default=None),
        versions=sorted(versions - {""}),
        version_skew=versions != {__version__},
    )


def _newest(known: Iterable[HostVitals], name: str) -> float | None:
    """The newest figure there is: a process's first look doesn't know all of them."""
    return next((figure for each in known if (figure := getattr(each, name)) is not None), None)


def _disk(vitals: HostVitals | None) -> DiskShown | None:
    if vitals is None or vitals.disk_free is None or vitals.disk_total is None:
        return None
    return DiskShown(vitals.disk_free, vitals.disk_total)


@asks_redis
def list_schedules(request: Request, query: Nothing) -> Response:
    """What is to happen later: the flushes of batches, the retries, and whose work it is."""
    here = site(request)
    flushes = [batches.flush_id(level) for level in here.levels]
    pipeline = here.redis.pipeline(transaction=False)
    pipeline.get(_SCHEDULER_LOCK)
    pipeline.zcard(SCHEDULE)
    pipeline.zmscore(SCHEDULE, flushes)
    pipeline.zrange(SCHEDULE, 0, len(flushes), withscores=True)
    for level in here.levels:
        pipeline.llen(batches.key(level))
    lock, count, times, first, *sizes = pipeline.execute()
    retries = [at for member, at in first if member.decode(errors="replace") not in flushes]
    return answer(
        Schedules(
            flushes=[
                FlushShown(level, size, None if at is None else rfc3339(at))
                for level, at, size in zip(here.levels, times, sizes, strict=True)
            ],
            retries=RetriesShown(
                count=max(0, count - sum(at is not None for at in times)),
                next_at=rfc3339(retries[0]) if retries else None,
            ),
            holder=lock.decode(errors="replace").partition(" ")[0] if lock else None,
        )
    )


@asks_redis
def list_producers(request: Request, query: ProducersAsked) -> Response:
    """Who wrote what came lately, and how much of it was not simply valid JSON.

    `days` in the answer says for how many: no more than are kept (`monitoring.metrics_retention_days`).
    """
    here = site(request)
    days = min(query.days, here.config.monitoring.metrics_retention_days)
    shares = producers.shares(here.redis, here.clock.now(), days)
    return answer(Producers(days, [ProducerShown(*share) for share in shares]))


OPERATIONS = (
    Operation(
        method="GET",
        path="/queues",
        endpoint=list_queues,
        tag="fleet",
        answers={200: Answer(Queues, "Every queue.")},
        problems=(503,),
    ),
    Operation(
        method="GET",
        path="/workers",
        endpoint=list_workers,
        tag="fleet",
        answers={200: Answer(Workers, "Every worker that lives.")},
        problems=(503,),
    ),
    Operation(
        method="GET",
        path="/hosts",
        endpoint=list_hosts,
        tag="fleet",
        answers={200: Answer(Hosts, "Every host on which something of the system runs, the API left aside.")},
        problems=(503,),
    ),
    Operation(
        method="GET",
        path="/schedules",
        endpoint=list_schedules,
        tag="fleet",
        answers={200: Answer(Schedules, "What is scheduled.")},
        problems=(503,),
    ),
    Operation(
        method="GET",
        path="/producers",
        endpoint=list_producers,
        tag="fleet",
        query=ProducersAsked,
        answers={200: Answer(Producers, "Every producer, the most documents first.")},
        problems=(503,),
    ),
)
