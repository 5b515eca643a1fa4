"""Which processes run: the daemons by their heartbeats, the workers by RQ's registry, in three round trips."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec
from redis import Redis

from llm_scheduler.api.state import Count
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.process.heartbeat import HeartbeatRecord
from llm_scheduler.jobs.process.vitals import HostVitals
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.worker.reaper import CURRENT_JOBS

ROLES = ("ingest", "collector", "scheduler")
T = TypeVar("T")

_decode_vitals = msgspec.json.Decoder(HostVitals).decode

_FIELDS = (
    *("hostname", "pid", "queues", "state", "birth", "last_heartbeat", "death"),
    *("successful_job_count", "total_working_time"),
    *("llm_version", "rss", "cpu", "vitals", CURRENT_JOBS),
)


class WorkerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a live worker reports. `queue` is a comma-separated list if it helps several; `current_job` is an RQ job's
    id. `rss` is its memory in bytes, `cpu` its processor time in percent of one core; both are up to about 15 s old.
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


class LiveWorker(WorkerFigures, frozen=True, kw_only=True):
    """A live worker, as of its last heartbeat; `version` and `vitals` are up to about 15 s old."""

    version: str
    vitals: HostVitals | None

    @property
    def queues(self) -> list[str]:
        return self.queue.split(",")


class Processes(NamedTuple):
    """The daemons that run, by role, and the live workers, sorted by queue and name."""

    daemons: dict[str, HeartbeatRecord]
    workers: list[LiveWorker]

    def missing(self, levels: Sequence[str]) -> list[str]:
        """The programs that a document needs on its way and that don't run, by name."""
        served = workers_by_queue(self.workers)
        absent = [f"llm-{role}" for role in ROLES if role not in self.daemons]
        return absent + [f"llm-worker {level}" for level in levels if not served[level]]

    @property
    def hosts(self) -> list[str]:
        """The hosts on which they run, sorted."""
        names = {worker.host for worker in self.workers} | {daemon.host for daemon in self.daemons.values()}
        return sorted(names - {""})

    def on_host(self, name: str) -> "Processes":
        """Those on one host."""
        daemons = {role: daemon for role, daemon in self.daemons.items() if daemon.host == name}
        return Processes(daemons, [worker for worker in self.workers if worker.host == name])

    @property
    def versions(self) -> list[str]:
        """The version of each process, "" where it is unknown."""
        return [worker.version for worker in self.workers] + [daemon.version for daemon in self.daemons.values()]


def read_processes(redis: Redis) -> Processes:
    """Raises RedisError."""
    return Processes(_daemons(redis), read_workers(redis))


def read_workers(redis: Redis) -> list[LiveWorker]:
    """Every registered worker that has not died, sorted by queue and name, in two round trips. Raises RedisError.

    RQ's own `Worker.all` makes several round trips for each worker.
    """
    registry = keys_of(redis)
    members = sorted(member.decode() for member in redis.smembers(registry.workers) if isinstance(member, bytes))
    pipeline = redis.pipeline(transaction=False)
    for member in members:
        pipeline.hmget(member, *_FIELDS)
    found = []
    for member, values in zip(members, pipeline.execute(), strict=True):
        texts = [value.decode("utf-8", "replace") if value is not None else "" for value in values]
        fields = dict(zip(_FIELDS, texts, strict=True))
        if fields["birth"] and not fields["death"]:
            found.append(_worker(member.removeprefix(registry.worker("")), fields))
    return sorted(found, key=lambda worker: (worker.queue, worker.name))


def workers_by_queue(workers: Iterable[LiveWorker]) -> Counter[str]:
    """How many workers take jobs from each queue. A worker that helps several queues counts for each of them."""
    return Counter(queue for worker in workers for queue in worker.queues)


def _daemons(redis: Redis) -> dict[str, HeartbeatRecord]:
    found: dict[str, HeartbeatRecord] = {}
    keys = keys_of(redis)
    for role, raw in zip(ROLES, redis.mget([keys.heartbeat(role) for role in ROLES]), strict=True):
        if raw is not None:
            try:
                found[role] = msgspec.json.decode(raw, type=HeartbeatRecord)
            except msgspec.DecodeError:
                found[role] = HeartbeatRecord(state="unknown", message="its heartbeat in Redis can't be read")
    return found


def _worker(name: str, fields: Mapping[str, str]) -> LiveWorker:
    in_hand = fields[CURRENT_JOBS].split()[1:] if fields["state"] == "busy" else []
    return LiveWorker(
        name=name,
        host=fields["hostname"],
        pid=int(fields["pid"]) if fields["pid"].isdigit() else None,
        queue=fields["queues"],
        state=fields["state"],
        last_heartbeat=_parsed(fields["last_heartbeat"], _rfc3339),
        birth=_parsed(fields["birth"], _rfc3339),
        jobs_done=int(fields["successful_job_count"] or 0),
        working_seconds=round(float(fields["total_working_time"] or 0), 3),
        rss=int(fields["rss"]) if fields["rss"].isdigit() else None,
        cpu=_parsed(fields["cpu"], float),
        version=fields["llm_version"],
        current_job=in_hand[0] if in_hand else None,
        vitals=_parsed(fields["vitals"], _decode_vitals),
    )


def _parsed(text: str, parse: Callable[[str], T]) -> T | None:
    """None for a text that is empty or malformed."""
    try:
        return parse(text)
    except (ValueError, msgspec.DecodeError):
        return None


def _rfc3339(text: str) -> str:
    """RQ's notation of a time, converted."""
    return rfc3339(datetime.fromisoformat(text).timestamp())
