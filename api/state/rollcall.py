"""Who is there: the daemons by their own word, the workers by their leases, read in few round trips."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from redis import Redis

from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.process.heartbeat import Said, key
from llm_scheduler.jobs.process.vitals import HostVitals
from llm_scheduler.jobs.worker.reaper import IN_HAND

ROLES = ("ingest", "collector", "scheduler")

_WORKERS = "rq:workers"
_PREFIX = "rq:worker:"
_FIELDS = (
    *("hostname", "pid", "queues", "state", "birth", "last_heartbeat", "death"),
    *("successful_job_count", "total_working_time"),
    *("llm_version", "rss", "cpu", "vitals", IN_HAND),
)


class WorkerSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that lives, as it said at its last heartbeat.

    `rss` is its memory in bytes, `cpu` its processor time in percent of one core; both, `version` and `vitals` are up
    to some 15 s old. `current_job` is the RQ job that it has in hand.
    """

    name: str
    host: str
    pid: int | None
    queue: str
    state: str
    last_heartbeat: str | None
    birth: str | None
    jobs_done: int
    working_seconds: float
    rss: int | None
    cpu: float | None
    version: str
    current_job: str | None
    vitals: HostVitals | None


def words(redis: Redis) -> dict[str, Said]:
    """Each daemon's own word, by role; a daemon that is not running has none."""
    found: dict[str, Said] = {}
    for role, raw in zip(ROLES, redis.mget([key(role) for role in ROLES]), strict=True):
        if raw is not None:
            try:
                found[role] = msgspec.json.decode(raw, type=Said)
            except msgspec.DecodeError:
                found[role] = Said(state="unknown", message="its word in Redis can't be read")
    return found


def workers(redis: Redis) -> list[WorkerSeen]:
    """Every worker whose key is there and that hasn't died, in two round trips, sorted by queue and name.

    RQ's own `Worker.all` makes several round trips a worker.
    """
    keys = sorted(member.decode() for member in redis.smembers(_WORKERS) if isinstance(member, bytes))
    pipeline = redis.pipeline(transaction=False)
    for each in keys:
        pipeline.hmget(each, *_FIELDS)
    found = []
    for each, values in zip(keys, pipeline.execute(), strict=True):
        texts = [value.decode("utf-8", "replace") if value is not None else "" for value in values]
        fields = dict(zip(_FIELDS, texts, strict=True))
        if fields["birth"] and not fields["death"]:
            found.append(_worker(each.removeprefix(_PREFIX), fields))
    return sorted(found, key=lambda worker: (worker.queue, worker.name))


def living_workers(redis: Redis) -> list[dict[str, Any]]:
    """The same as dictionaries, without what they say of their hosts."""
    found = [msgspec.structs.asdict(worker) for worker in workers(redis)]
    for each in found:
        del each["vitals"]
    return found


def missing(redis: Redis, levels: Sequence[str]) -> list[str]:
    """Which of the parts that a document needs on its way are not running, by the names of their programs."""
    said = words(redis)
    manned = {worker.queue for worker in workers(redis)}
    absent = [f"llm-{role}" for role in ROLES if role not in said]
    return absent + [f"llm-worker {level}" for level in levels if level not in manned]


def _worker(name: str, fields: Mapping[str, str]) -> WorkerSeen:
    in_hand = fields[IN_HAND].split()[1:] if fields["state"] == "busy" else []
    return WorkerSeen(
        name=name,
        host=fields["hostname"],
        pid=int(fields["pid"]) if fields["pid"].isdigit() else None,
        queue=fields["queues"],
        state=fields["state"],
        last_heartbeat=_time(fields["last_heartbeat"]),
        birth=_time(fields["birth"]),
        jobs_done=int(fields["successful_job_count"] or 0),
        working_seconds=round(float(fields["total_working_time"] or 0), 3),
        rss=int(fields["rss"]) if fields["rss"].isdigit() else None,
        cpu=_number(fields["cpu"]),
        version=fields["llm_version"],
        current_job=in_hand[0] if in_hand else None,
        vitals=_vitals(fields["vitals"]),
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _vitals(text: str) -> HostVitals | None:
    try:
        return msgspec.json.decode(text, type=HostVitals) if text else None
    except msgspec.DecodeError:
        return None


def _time(text: str) -> str | None:
    """RQ's way of writing a time, as everywhere else in the API."""
    try:
        return rfc3339(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return None
