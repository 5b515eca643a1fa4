"""Who is there: the daemons by their own word, the workers by their leases, read in few round trips."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from redis import Redis

from jobs.clock import rfc3339

ROLES = ("ingest", "collector")

_WORKERS = "rq:workers"
_PREFIX = "rq:worker:"
_FIELDS = (
    *("hostname", "pid", "queues", "state", "birth", "last_heartbeat", "death"),
    *("successful_job_count", "total_working_time"),
)


class Word(msgspec.Struct):
    """What a daemon says of itself."""

    pid: int = 0
    host: str = ""
    state: str = ""
    message: str = ""
    at: float = 0.0


def words(redis: Redis) -> dict[str, Word]:
    """Each daemon's own word, by role; a daemon that is not running has none."""
    found: dict[str, Word] = {}
    for role, raw in zip(ROLES, redis.mget([f"llm:process:{role}" for role in ROLES]), strict=True):
        if raw is not None:
            try:
                found[role] = msgspec.json.decode(raw, type=Word)
            except msgspec.DecodeError:
                found[role] = Word(state="unknown", message="its word in Redis can't be read")
    return found


def living_workers(redis: Redis) -> list[dict[str, Any]]:
    """Every worker whose key is there and that hasn't died, in two round trips, sorted by queue and name.

    RQ's own `Worker.all` makes several round trips a worker.
    """
    keys = sorted(member.decode() for member in redis.smembers(_WORKERS) if isinstance(member, bytes))
    pipeline = redis.pipeline(transaction=False)
    for key in keys:
        pipeline.hmget(key, *_FIELDS)
    workers = []
    for key, values in zip(keys, pipeline.execute(), strict=True):
        texts = [value.decode("utf-8", "replace") if value is not None else "" for value in values]
        fields = dict(zip(_FIELDS, texts, strict=True))
        if fields["birth"] and not fields["death"]:
            workers.append(_worker(key.removeprefix(_PREFIX), fields))
    return sorted(workers, key=lambda worker: (worker["queue"], worker["name"]))


def missing(redis: Redis, levels: Sequence[str]) -> list[str]:
    """Which of the parts that a document needs on its way are not running, by the names of their programs."""
    said = words(redis)
    manned = {worker["queue"] for worker in living_workers(redis)}
    absent = [f"llm-{role}" for role in ROLES if role not in said]
    return absent + [f"llm-worker {level}" for level in levels if level not in manned]


def _worker(name: str, fields: dict[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "host": fields["hostname"],
        "pid": int(fields["pid"]) if fields["pid"].isdigit() else None,
        "queue": fields["queues"],
        "state": fields["state"],
        "last_heartbeat": _time(fields["last_heartbeat"]),
        "birth": _time(fields["birth"]),
        "jobs_done": int(fields["successful_job_count"] or 0),
        "working_seconds": round(float(fields["total_working_time"] or 0), 3),
    }


def _time(text: str) -> str | None:
    """RQ's way of writing a time, as everywhere else in the API."""
    try:
        return rfc3339(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return None
