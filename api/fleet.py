"""`GET /queues` and `GET /workers`, from RQ's own keys in few round trips (`Worker.all` makes several a worker)."""

from datetime import datetime
from typing import Any

from redis import Redis
from starlette.requests import Request
from starlette.responses import Response

from api.query import parameters
from api.site import answer, asks_redis, site
from jobs import batch, ledger
from jobs.clock import rfc3339
from jobs.document import ACTIVE
from jobs.submission import queue_key

_WORKERS = "rq:workers"
_PREFIX = "rq:worker:"
_FIELDS = (
    *("hostname", "pid", "queues", "state", "birth", "last_heartbeat", "death"),
    *("successful_job_count", "total_working_time"),
)


@asks_redis
def list_queues(request: Request) -> Response:
    """Each priority level: what waits, what runs, who works on it."""
    parameters(request)
    here = site(request)
    pipeline = here.redis.pipeline(transaction=False)
    for level in here.levels:
        pipeline.llen(queue_key(level))
        pipeline.llen(batch.key(level))
    lengths = iter(pipeline.execute())
    counts = ledger.counts(here.redis, here.levels)
    workers = living_workers(here.redis)
    return answer(
        {
            "queues": [
                {
                    "name": level,
                    "jobs_waiting": next(lengths),
                    "batched": next(lengths),
                    "documents": {status.value: counts[status.value][level] for status in ACTIVE},
                    "workers": sum(level in worker["queue"].split(",") for worker in workers),
                }
                for level in here.levels
            ]
        }
    )


@asks_redis
def list_workers(request: Request) -> Response:
    """The workers that live."""
    parameters(request)
    return answer({"workers": living_workers(site(request).redis)})


def living_workers(redis: Redis) -> list[dict[str, Any]]:
    """Every worker whose key is there and that hasn't died, in two round trips, sorted by queue and name."""
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
