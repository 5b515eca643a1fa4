"""Handing documents to RQ: as jobs on a queue, as members of a batch, or as jobs for later.

Every function only adds commands to the caller's pipeline, so that jobs and ledger change in one transaction
and one round trip.
"""

from collections.abc import Iterable, Sequence

from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.job import JobStatus

from llm_scheduler.jobs.document import Payload, Status
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.ledger import Fields
from llm_scheduler.jobs.store.rq_job import DocumentJob

# rq-scheduler's own key: a sorted set of job ids by the epoch second at which they are due.
SCHEDULE = "rq:scheduler:scheduled_jobs"
# The originals of one job have no more bytes than this, unless it is a single document: a worker may parse all at once.
JOB_BYTES = 32 * 1024 * 1024


def queue_key(queue: str) -> str:
    return f"{Queue.redis_queue_namespace_prefix}{queue}"


def particulars(payload: Payload, size: int | None = None) -> dict[str, str | int | list[str]]:
    """What the ledger keeps of a document from its submission on."""
    route = payload.route
    fields: dict[str, str | int | list[str]] = {
        "priority": route.priority,
        "queue": route.queue,
        "handler": route.handler,
        "source": payload.source,
        "received_at": int(payload.received_at * 1000),
        "reasons": route.reasons,
    }
    for name in ("country", "industry", "language"):
        if known := getattr(route, name):
            fields[name] = known
    if size is not None:
        fields["size"] = size
    return fields


def enqueue(
    pipeline: Pipeline, redis: Redis, job_id: str, queue: str, payloads: Sequence[Payload], *, at_front: bool = False
) -> None:
    """Put `payloads` on `queue` as one job."""
    job = DocumentJob.carrying(job_id, payloads, queue, redis)
    job.save(pipeline=pipeline)
    pipeline.sadd(Queue.redis_queues_keys, queue_key(queue))
    push = pipeline.lpush if at_front else pipeline.rpush
    push(queue_key(queue), job_id)


def enqueue_at(pipeline: Pipeline, redis: Redis, job_id: str, payload: Payload, at: float) -> None:
    """Hand `payload` to rq-scheduler, to be put on its queue at epoch seconds `at`."""
    job = DocumentJob.carrying(job_id, [payload], payload.route.queue, redis)
    job.set_status(JobStatus.SCHEDULED, pipeline=pipeline)
    job.save(pipeline=pipeline)
    pipeline.zadd(SCHEDULE, {job_id: at})


def record(
    pipeline: Pipeline, status: Status, at: float, payloads: Iterable[Payload], sizes: Iterable[int], job_id: str = ""
) -> None:
    """Tell the ledger of newly submitted documents. `sizes` are those of the originals, in bytes."""
    extra: Fields = {"rq_job_id": job_id} if job_id else {}
    entries = [
        (payload.id, {**particulars(payload, size), **extra}) for payload, size in zip(payloads, sizes, strict=True)
    ]
    ledger.move(pipeline, status, at, entries)


def resubmitted(pipeline: Pipeline, status: Status, at: float, payloads: Iterable[Payload], job_id: str) -> None:
    """Tell the ledger where documents it already knows are now."""
    fields: Fields = {"rq_job_id": job_id}
    ledger.move(
        pipeline,
        status,
        at,
        [(payload.id, {**particulars(payload), **fields, "attempts": payload.attempts}) for payload in payloads],
    )
