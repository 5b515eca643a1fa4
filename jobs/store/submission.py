"""Handing documents to RQ: as jobs on a queue, as members of a batch, or as jobs for later.

Every function only adds commands to the caller's pipeline, so that jobs and ledger change in one transaction
and one round trip.
"""

from collections.abc import Iterable, Sequence

from redis import Redis
from redis.client import Pipeline
from rq.job import JobStatus

from llm_scheduler.jobs.document import Payload, Status
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.ledger import document_fields
from llm_scheduler.jobs.store.rq_job import DocumentJob

# Most bytes of the originals in one job of several documents: a worker may parse all of them at once.
JOB_BYTES = 32 * 1024 * 1024


def enqueue(
    pipeline: Pipeline, redis: Redis, job_id: str, queue: str, payloads: Sequence[Payload], *, at_front: bool = False
) -> None:
    """Put `payloads` on `queue` as one job."""
    job = DocumentJob.carrying(job_id, payloads, queue, redis)
    job.save(pipeline=pipeline)
    keys = keys_of(pipeline)
    pipeline.sadd(keys.queues, keys.queue(queue))
    push = pipeline.lpush if at_front else pipeline.rpush
    push(keys.queue(queue), job_id)


def enqueue_at(pipeline: Pipeline, redis: Redis, job_id: str, payload: Payload, at: float) -> None:
    """Hand `payload` to rq-scheduler, to be put on its queue at epoch seconds `at`."""
    job = DocumentJob.carrying(job_id, [payload], payload.route.queue, redis)
    job.set_status(JobStatus.SCHEDULED, pipeline=pipeline)
    job.save(pipeline=pipeline)
    pipeline.zadd(keys_of(pipeline).schedule, {job_id: at})


def record(
    pipeline: Pipeline, status: Status, at: float, payloads: Iterable[Payload], sizes: Iterable[int], job_id: str = ""
) -> None:
    """Add newly submitted documents to the ledger. `sizes`: those of the originals, in bytes."""
    entries = [
        (payload.id, document_fields(payload.route, payload.source, payload.received_at, size=size, rq_job_id=job_id))
        for payload, size in zip(payloads, sizes, strict=True)
    ]
    ledger.move(pipeline, status, at, entries)


def record_again(pipeline: Pipeline, status: Status, at: float, payloads: Iterable[Payload], job_id: str) -> None:
    """Tell the ledger where documents that it knows are now."""
    entries = []
    for payload in payloads:
        fields = document_fields(payload.route, payload.source, payload.received_at, rq_job_id=job_id)
        entries.append((payload.id, {**fields, "attempts": payload.attempts}))
    ledger.move(pipeline, status, at, entries)
