"""The beginning and the end of a job in Redis: one transaction each."""

import re

from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import JobStatus
from rq.utils import now as rq_now
from rq.utils import utcformat
from rq.worker import WorkerStatus

from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.store import ledger, outcomes, submission
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.rq_job import DocumentJob
from llm_scheduler.jobs.worker.lease import Lease, record_start
from llm_scheduler.jobs.worker.runner import JobResult

# For how long RQ's registries hold a running job before RQ's own tools call it abandoned. The lease tells much sooner.
_REGISTERED_SECONDS = 7 * 86400
_ENTRY_BYTES = 8 * 1024 * 1024  # results in one entry of the stream
_TRANSACTION_BYTES = 256 * 1024 * 1024  # results in one transaction


def begin(
    worker: SimpleWorker, job: DocumentJob, queue: Queue, attempts: list[Execution], started_at: float | None
) -> Execution:
    """Register `job` as run by `worker`, and drop its cancelled documents.

    `attempts`: executions of earlier calls, which the server may or may not know. They are undone, and the new one is
    added. `started_at`: when the documents started, for the ledger; None leaves the ledger as it is.
    """
    keys = keys_of(worker.connection)
    with worker.connection.pipeline() as pipeline:
        if job.payloads:
            pipeline.zmscore(keys.cancelled, [payload.id for payload in job.payloads])
        for unknown in attempts:
            unknown.delete(job=job, pipeline=pipeline)
        execution = Execution.create(job, _REGISTERED_SECONDS, pipeline, worker.name)
        attempts.append(execution)
        job.prepare_for_execution(worker.name, pipeline=pipeline)
        pipeline.persist(job.key)
        pipeline.lrem(keys.intermediate(queue.name), 1, job.id)
        pipeline.hset(worker.key, "state", WorkerStatus.BUSY.value)
        if started_at is not None:
            record_start(pipeline, job, started_at)
        answers = pipeline.execute()
    if job.payloads and any(cancelled := answers[0]):
        job.payloads = [payload for payload, at in zip(job.payloads, cancelled, strict=True) if at is None]
    return execution


def finish(
    worker: SimpleWorker, job: DocumentJob, execution: Execution, result: JobResult, pace: float | None, at: float
) -> None:
    """Send the outcomes, schedule the retries, queue what was not begun, and delete the job."""
    redis, queue = worker.connection, worker.queues[0].name
    keys = keys_of(redis)
    parts = list(outcomes.parts(result.outcomes, _ENTRY_BYTES))
    # Some batches are larger than a transaction can be. What is sent before it is sent again if the transaction fails.
    while sum(each.size for part in parts for each in part) > _TRANSACTION_BYTES and len(parts) > 1:
        redis.xadd(keys.outcomes(queue), {outcomes.FIELD: outcomes.encode(parts.pop(0))})
    with redis.pipeline() as pipeline:
        for part in parts:
            pipeline.xadd(keys.outcomes(queue), {outcomes.FIELD: outcomes.encode(part)})
        for retry in result.retries:
            payload = retry.payload
            job_id = f"{payload.id}-r{payload.attempts}"  # sent twice, it is scheduled once
            submission.enqueue_at(pipeline, redis, job_id, payload, retry.at)
            fields = {"rq_job_id": job_id, "message": retry.reason[:500]}
            ledger.move(pipeline, Status.RETRYING, at, [(payload.id, fields)])
        if result.not_begun:
            job_id = rest_id(job.id)
            submission.enqueue(pipeline, redis, job_id, queue, result.not_begun, at_front=True)
            submission.record_again(pipeline, Status.QUEUED, at, result.not_begun, job_id)
        pipeline.hincrby(worker.key, "successful_job_count", 1)
        pipeline.hincrbyfloat(worker.key, "total_working_time", sum(outcome.seconds for outcome in result.outcomes))
        pipeline.expire(worker.key, Lease.SECONDS)
        if pace is not None:
            pipeline.hset(keys.pace, queue, f"{pace:.6g}")
        execution.delete(job=job, pipeline=pipeline)
        pipeline.delete(job.key, keys.executions(job.id))
        pipeline.execute()


def fail(worker: SimpleWorker, job: DocumentJob, execution: Execution, message: str) -> None:
    """Put a job that is not this project's work into RQ's failed registry, where `rq info` shows it."""
    with worker.connection.pipeline() as pipeline:
        job.set_status(JobStatus.FAILED, pipeline=pipeline)
        worker.cleanup_execution(job, pipeline=pipeline, execution=execution)
        pipeline.hset(job.key, "ended_at", utcformat(rq_now()))
        job.failed_job_registry.add(job, ttl=86400, exc_string=message, pipeline=pipeline)
        pipeline.hincrby(worker.key, "failed_job_count", 1)
        pipeline.execute()


def rest_id(job_id: str) -> str:
    """The id of the job for the documents that a job did not begin: `<id>-rest`, then `-rest2` and so on."""
    rest = re.fullmatch(r"(.+)-rest([0-9]*)", job_id)
    return f"{rest[1]}-rest{int(rest[2] or 1) + 1}" if rest else f"{job_id[:40]}-rest"
