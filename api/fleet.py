"""`GET /queues`, `GET /producers` and `GET /workers`, in few round trips."""

from starlette.requests import Request
from starlette.responses import Response

from api.query import parameters, whole_number
from api.rollcall import living_workers
from api.site import answer, asks_redis, site
from jobs import batch, ledger, producers
from jobs.document import ACTIVE
from jobs.submission import queue_key


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
def list_producers(request: Request) -> Response:
    """Who wrote what came lately, and how much of it was not simply valid JSON."""
    asked = parameters(request, "days")
    here = site(request)
    most = here.config.monitoring.metrics_retention_days
    days = whole_number("days", asked.get("days"), 1, 1, most)
    shares = producers.shares(here.redis, here.clock.now(), days)
    return answer({"days": days, "producers": [share._asdict() for share in shares]})


@asks_redis
def list_workers(request: Request) -> Response:
    """The workers that live."""
    parameters(request)
    return answer({"workers": living_workers(site(request).redis)})
