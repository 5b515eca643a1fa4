"""The reaper: finds the jobs of dead workers, and returns them to the queue.

A job is abandoned when its worker's lease has been missing for a while (an outage of Redis removes all leases for
a moment), or when it stays between its queue and its beginning. It is abandoned at once when the supervisor saw the
worker die, or when the worker's processes are known to have ended on this machine. It is also abandoned when its worker
lives and no longer has it: a failover lost the job's end.

An abandoned job of several documents is split, so that a document that kills its worker is alone the next time. A
document that has killed `MAX_CRASHES` workers by itself is rejected, with the crash reports.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec.structs import replace
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError
from rq.utils import now as rq_now
from rq.utils import utcformat

from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.crash import CrashReport, verdict
from llm_scheduler.jobs.document import Payload, Status
from llm_scheduler.jobs.process import liveness
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.store import outcomes, submission
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.outcomes import Outcome
from llm_scheduler.jobs.store.rq_job import DocumentJob

GRACE_SECONDS = 3.0
MAX_CRASHES = 3
_DEATH_SECONDS = 60  # how long a dead worker's key stays, as with RQ
# The field of a worker's key with its current jobs. Each renewal of the lease writes it.
CURRENT_JOBS = "in_hand"
# So many different values of that field must lack a job before it counts as lost. The first may be older than the job,
# and the second may have been on its way when the job began.
_MIN_VALUES = 3


def is_away(error: Exception) -> bool:
    """Whether `error` means that Redis is away. A key of the wrong type does not."""
    return isinstance(error, AWAY) and not str(error).startswith("WRONGTYPE")


def current_jobs_field(clock: Clock, job_ids: Iterable[str]) -> str:
    """The value of `CURRENT_JOBS`. It begins with the time, so each value differs from the one before."""
    return " ".join([f"{clock.monotonic():.3f}", *job_ids])


class _Abandoned(NamedTuple):
    """A job that seems to be abandoned.

    Without an `execution` it is between queue and worker. `ended`: its worker's processes are known to have ended.
    `current_jobs`: what its living worker has in `CURRENT_JOBS`, which does not name the job.
    """

    queue: str
    job_id: str
    execution: str = ""
    worker: str = ""
    ended: bool = False
    current_jobs: str = ""


@dataclass
class _Suspect:
    """Since when (monotonic) a job has seemed abandoned, and the values of its worker's `CURRENT_JOBS` meanwhile."""

    since: float
    values: set[str] = field(default_factory=set)

    def is_certain(self, job: _Abandoned, now: float) -> bool:
        is_old = now - self.since >= GRACE_SECONDS
        return job.ended or (is_old and (not job.current_jobs or len(self.values) >= _MIN_VALUES))


class Reaper:
    """Only the scheduler with the lock searches all jobs; supervisors and workers take those of workers that they know
    to be dead. Two reapers that take the same job return it once.
    """

    def __init__(self, redis: Redis, queues: Iterable[str], clock: Clock, log: logging.Logger) -> None:
        self._redis = redis
        self._keys = keys_of(redis)
        self._queues = list(queues)
        self._clock = clock
        self._log = log
        self._suspects: dict[str, _Suspect] = {}

    def reap(self) -> int:
        """Search once. Returns how many jobs were taken."""
        now = self._clock.monotonic()
        found = {f"{each.job_id}:{each.execution}": each for queue in self._queues for each in self._abandoned(queue)}
        self._suspects = {name: self._suspects.get(name) or _Suspect(now) for name in found}
        taken = 0
        for name, each in found.items():
            self._suspects[name].values.add(each.current_jobs)
            if self._suspects[name].is_certain(each, now):
                del self._suspects[name]
                taken += self._take_or_drop(each)
        return taken

    def take_from(self, worker: str, report: CrashReport | None) -> int:
        """Take all jobs of a `worker` that is known to be dead. Returns how many."""
        running = [each for queue in self._queues for each in self._running(queue) if each.worker == worker]
        taken = sum(self._take_or_drop(each, report) for each in running)
        self._record_death(worker)
        return taken

    def take_from_ended(self) -> int:
        """Take the jobs of workers whose processes are known to have ended on this machine. Returns how many."""
        ended = [each for queue in self._queues for each in self._abandoned(queue) if each.ended]
        taken = sum(self._take_or_drop(each) for each in ended)
        for worker in {each.worker for each in ended}:
            self._record_death(worker)
        return taken

    def _running(self, queue: str) -> list[_Abandoned]:
        """Every job of `queue` that a worker has begun."""
        members: list[Any] = list(self._redis.zrange(self._keys.begun(queue), 0, -1))
        running = [member.rpartition(":")[::2] for member in self._readable(queue, members)]
        pipeline = self._redis.pipeline(transaction=False)
        for job_id, execution in running:
            pipeline.hget(self._keys.execution(job_id, execution), "worker_name")
        names = [(name or b"").decode() for name in pipeline.execute()] if running else []
        return [
            _Abandoned(queue, job_id, execution, name) for (job_id, execution), name in zip(running, names, strict=True)
        ]

    def _abandoned(self, queue: str) -> Iterable[_Abandoned]:
        # This list first: a job that begins meanwhile is then found as running.
        members: list[Any] = list(self._redis.lrange(self._keys.intermediate(queue), 0, -1))
        running = self._running(queue)
        pipeline = self._redis.pipeline(transaction=False)
        for each in running:
            pipeline.hmget(self._keys.worker(each.worker), "birth", "death", "place", "processes", CURRENT_JOBS)
        workers = pipeline.execute() if running else []
        for each, (birth, death, place, processes, current_jobs) in zip(running, workers, strict=True):
            if birth is None or death is not None:
                yield each
            elif liveness.is_gone((place or b"").decode(), (processes or b"").decode()):
                yield each._replace(ended=True)
            elif current_jobs and each.job_id not in current_jobs.decode(errors="replace").split()[1:]:
                yield each._replace(current_jobs=current_jobs.decode(errors="replace"))
        begun = {each.job_id for each in running}
        for job_id in self._readable(queue, members):
            if job_id not in begun:
                yield _Abandoned(queue, job_id)

    def _readable(self, queue: str, members: Iterable[bytes]) -> list[str]:
        """`members` as text. Members that cannot be decoded are not ours, and are removed."""
        names = []
        for member in members:
            try:
                names.append(member.decode())
            except UnicodeDecodeError:
                self._log.error("%r is not the id of a job; it is removed from %s", member, queue)
                self._redis.zrem(self._keys.begun(queue), member)
                self._redis.lrem(self._keys.intermediate(queue), 0, member)  # type: ignore[arg-type]  # bytes are fine
        return names

    def _take_or_drop(self, abandoned: _Abandoned, report: CrashReport | None = None) -> bool:
        """Take a job, or drop it when it cannot be read. False when another reaper or the worker was faster."""
        try:
            return self._take(abandoned, report)
        except Exception as error:
            if is_away(error):
                raise
            self._log.exception("Job %s of %s cannot be read; it is dropped", abandoned.job_id, abandoned.queue)
            self._drop(abandoned)
            return True

    def _take(self, abandoned: _Abandoned, report: CrashReport | None) -> bool:
        queue, job_id, execution, *_ = abandoned
        job_key = self._keys.job(job_id)
        with self._redis.pipeline() as pipeline:
            # If the worker ends the job now, or another reaper takes it, one of these keys changes.
            pipeline.watch(job_key, self._keys.execution(job_id, execution))  # type: ignore[no-untyped-call]
            if not self._is_there(pipeline, abandoned):
                return False
            job = DocumentJob(job_id, self._redis)
            fields = pipeline.hgetall(job_key)
            if fields:
                job.restore(fields)
            payloads = job.payloads
            pipeline.multi()
            _unregister(pipeline, abandoned)
            if not execution and payloads:
                # Taken from the queue and never begun: it is returned as it is.
                pipeline.lpush(self._keys.queue(queue), job_id)
            else:
                pipeline.delete(job_key)
                # A living worker has not crashed.
                crashed = len(payloads) == 1 and bool(execution) and not abandoned.current_jobs
                for payload in payloads:
                    self._run_again(pipeline, _crashed(payload, report) if crashed else payload)
            pipeline.sadd(self._keys.queues, self._keys.queue(queue))
            try:
                pipeline.execute()
            except WatchError:
                return False
        if payloads:
            why = "is not run by its worker, and its end is unknown" if abandoned.current_jobs else "lost its worker"
            self._log.warning("Job %s of %s %s: its %d document(s) run again", job_id, queue, why, len(payloads))
        return True

    def _is_there(self, pipeline: Pipeline, abandoned: _Abandoned) -> bool:
        if abandoned.execution:
            member = f"{abandoned.job_id}:{abandoned.execution}"
            return pipeline.zscore(self._keys.begun(abandoned.queue), member) is not None
        return pipeline.lpos(self._keys.intermediate(abandoned.queue), abandoned.job_id) is not None

    def _drop(self, abandoned: _Abandoned) -> None:
        """Delete an unreadable job. Its documents, if any, are on disk: ingest submits them again."""
        with self._redis.pipeline() as pipeline:
            _unregister(pipeline, abandoned)
            pipeline.delete(self._keys.job(abandoned.job_id))
            pipeline.execute()

    def _run_again(self, pipeline: Pipeline, payload: Payload) -> None:
        now = self._clock.now()
        payload = replace(payload, attempts=payload.attempts + 1, losses=payload.losses + 1)
        if payload.crashes >= MAX_CRASHES:
            entry: dict[Any, Any] = {outcomes.FIELD: outcomes.encode([_rejection(payload, now)])}
            pipeline.xadd(self._keys.outcomes(payload.route.queue), entry)
            return
        job_id = f"{payload.id}-c{payload.attempts}"
        submission.enqueue(pipeline, self._redis, job_id, payload.route.queue, [payload], at_front=True)
        submission.record_again(pipeline, Status.QUEUED, now, [payload], job_id)

    def _record_death(self, worker: str) -> None:
        """Change RQ's keys as `worker` does itself when it stops."""
        key = self._keys.worker(worker)
        with self._redis.pipeline() as pipeline:
            pipeline.srem(self._keys.workers, key)
            for queue in self._queues:
                pipeline.srem(self._keys.workers_of(queue), key)
            pipeline.hset(key, "death", utcformat(rq_now()))
            pipeline.expire(key, _DEATH_SECONDS)
            pipeline.delete(self._keys.worker_executions(worker))
            pipeline.execute()


def _unregister(pipeline: Pipeline, abandoned: _Abandoned) -> None:
    queue, job_id, execution, *_ = abandoned
    keys = keys_of(pipeline)
    pipeline.zrem(keys.begun(queue), f"{job_id}:{execution}")
    pipeline.lrem(keys.intermediate(queue), 0, job_id)
    pipeline.delete(keys.execution(job_id, execution), keys.executions(job_id))


def _crashed(payload: Payload, report: CrashReport | None) -> Payload:
    reports = [*payload.evidence, report] if report else payload.evidence
    return replace(payload, crashes=payload.crashes + 1, evidence=reports)


def _rejection(payload: Payload, now: float) -> Outcome:
    code, message = verdict(payload.crashes, payload.evidence)
    return Outcome(
        kind="rejected",
        id=payload.id,
        group=payload.group,
        attempts=payload.attempts,
        completed_at=now,
        route=payload.route,
        code=code.value,
        message=message,
        evidence=payload.evidence,
    )
