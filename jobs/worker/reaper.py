"""Finding the work of dead workers, and giving it to living ones.

A worker's lease is its RQ key, renewed all the time. Work is abandoned when its worker's lease has been gone for a
while (after an outage of Redis all leases are gone for a moment), or when a job has hung between its queue and its
beginning; at once when the worker's keeper saw it die, or when its processes are known to be gone from this machine.
So it is when its worker lives and has moved on: a failover lost the job's end, and Redis believes what was true before.
An abandoned job of several documents is split, so that the one that killed the worker, if one did, is alone next time;
a document that has killed `MAX_CRASHES` workers by itself is rejected, with what is known of their ends.
"""

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from msgspec.structs import replace
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError
from rq import Queue
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE
from rq.intermediate_queue import IntermediateQueue
from rq.utils import now as rq_now
from rq.utils import utcformat
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.crash import Evidence, verdict
from llm_scheduler.jobs.document import Payload, Status
from llm_scheduler.jobs.process import liveness
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.store import outcomes, submission
from llm_scheduler.jobs.store.outcomes import Outcome
from llm_scheduler.jobs.store.rq_job import DocumentJob
from llm_scheduler.jobs.store.submission import queue_key

GRACE_SECONDS = 3.0
MAX_CRASHES = 3
_DEATH_KNOWN_SECONDS = 60  # how long a dead worker's key stays, as with RQ
# The field of a worker's key in which it says with each beat which jobs it has in hand.
IN_HAND = "in_hand"
# How often a worker has to be heard without a job before the job is not its own. What was said first may be from before
# the job began, and the second may have been on its way then; a worker that can't speak is not heard at all.
_HEARD = 3


def is_away(error: Exception) -> bool:
    """Whether `error` means that Redis is away; a key of another type than it should have is no such thing."""
    return isinstance(error, AWAY) and not str(error).startswith("WRONGTYPE")


def in_hand(clock: Clock, job_ids: Iterable[str]) -> str:
    """What a worker says under `IN_HAND`. It begins with the time, so that one saying can be told from the next."""
    return " ".join([f"{clock.monotonic():.3f}", *job_ids])


class _Abandoned(NamedTuple):
    """A job that seems to be nobody's. Without an `execution` it hangs between queue and worker; `gone`: its worker's
    processes are known to have ended; `said`: its worker lives, and says this, which doesn't name the job."""

    queue: str
    job_id: str
    execution: str = ""
    worker: str = ""
    gone: bool = False
    said: str = ""


class _Suspicion:
    """Since when (monotonic) a job has seemed abandoned, and what its worker has said meanwhile."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.heard: set[str] = set()

    def is_certain(self, each: _Abandoned, now: float) -> bool:
        return each.gone or (now - self.since >= GRACE_SECONDS and (not each.said or len(self.heard) >= _HEARD))


class Reaper:
    """Takes what it has seen abandoned for a while. The scheduler's lock sees to it that there is one that looks at
    everything; keepers and workers take by name. Two that take the same job get it once."""

    def __init__(self, redis: Redis, queues: Iterable[str], clock: Clock, log: logging.Logger) -> None:
        self._redis = redis
        self._queues = list(queues)
        self._clock = clock
        self._log = log
        self._suspects: dict[str, _Suspicion] = {}

    def reap(self) -> int:
        """Look once; returns how many jobs were taken from the dead, and from those that have moved on."""
        now = self._clock.monotonic()
        found = {f"{each.job_id}:{each.execution}": each for queue in self._queues for each in self._abandoned(queue)}
        self._suspects = {name: self._suspects.get(name) or _Suspicion(now) for name in found}
        taken = 0
        for name, each in found.items():
            self._suspects[name].heard.add(each.said)
            if self._suspects[name].is_certain(each, now):
                del self._suspects[name]
                taken += self._take_readable(each)
        return taken

    def take_from(self, worker: str, evidence: Evidence | None) -> int:
        """Take at once all that `worker` had in hand, since it is known to have died so; returns how many jobs."""
        taken = 0
        for queue in self._queues:
            for each in self._running(queue):
                if each.worker == worker:
                    taken += self._take_readable(each, evidence)
        self._bury(worker)
        return taken

    def take_from_the_gone(self) -> int:
        """Take at once the work of workers whose processes are known to be gone from this machine."""
        gone = [each for queue in self._queues for each in self._abandoned(queue) if each.gone]
        taken = sum(self._take_readable(each) for each in gone)
        for worker in {each.worker for each in gone}:
            self._bury(worker)
        return taken

    def _running(self, queue: str) -> list[_Abandoned]:
        """Every job that a worker has begun, abandoned or not."""
        members: list[Any] = list(self._redis.zrange(f"rq:wip:{queue}", 0, -1))
        running = [member.rpartition(":")[::2] for member in self._readable(queue, members)]
        pipeline = self._redis.pipeline(transaction=False)
        for job_id, execution in running:
            pipeline.hget(f"rq:execution:{job_id}:{execution}", "worker_name")
        names = [(name or b"").decode() for name in pipeline.execute()] if running else []
        return [
            _Abandoned(queue, job_id, execution, name) for (job_id, execution), name in zip(running, names, strict=True)
        ]

    def _abandoned(self, queue: str) -> Iterable[_Abandoned]:
        """Each job that seems to be nobody's."""
        # The list first: a job that is begun meanwhile is then seen as running, not as stuck.
        members: list[Any] = list(self._redis.lrange(_between(queue), 0, -1))
        running = self._running(queue)
        pipeline = self._redis.pipeline(transaction=False)
        for each in running:
            pipeline.hmget(f"rq:worker:{each.worker}", "birth", "death", "place", "processes", IN_HAND)
        words = pipeline.execute() if running else []
        for each, (birth, death, place, processes, said) in zip(running, words, strict=True):
            if birth is None or death is not None:
                yield each
            elif liveness.is_gone((place or b"").decode(), (processes or b"").decode()):
                yield each._replace(gone=True)
            elif said and each.job_id not in said.decode(errors="replace").split()[1:]:
                yield each._replace(said=said.decode(errors="replace"))
        begun = {each.job_id for each in running}
        for job_id in self._readable(queue, members):
            if job_id not in begun:
                yield _Abandoned(queue, job_id)

    def _readable(self, queue: str, members: Iterable[bytes]) -> list[str]:
        """`members` as names. What is no name of ours was put there by somebody else, and goes."""
        names = []
        for member in members:
            try:
                names.append(member.decode())
            except UnicodeDecodeError:
                self._log.error("%r is no job's id; it is dropped from %s", member, queue)
                self._redis.zrem(f"rq:wip:{queue}", member)
                self._redis.lrem(_between(queue), 0, member)  # type: ignore[arg-type]  # bytes are fine
        return names

    def _take_readable(self, abandoned: _Abandoned, evidence: Evidence | None = None) -> bool:
        """Take a job, or drop it when it can't be read. False when somebody else was faster."""
        try:
            return self._take(abandoned, evidence)
        except Exception as error:
            if is_away(error):
                raise
            self._log.exception("Job %s of %s cannot be read; it is dropped", abandoned.job_id, abandoned.queue)
            self._drop(abandoned)
            return True

    def _take(self, abandoned: _Abandoned, evidence: Evidence | None) -> bool:
        queue, job_id, execution, *_ = abandoned
        job_key = DocumentJob.key_for(job_id)
        with self._redis.pipeline() as pipeline:
            # Its worker may be ending it just now after all, or another reaper be taking it: both touch one of these.
            pipeline.watch(job_key, f"rq:execution:{job_id}:{execution}")  # type: ignore[no-untyped-call]
            if not self._is_there(pipeline, abandoned):
                return False
            job = DocumentJob(job_id, self._redis)
            fields = pipeline.hgetall(job_key)
            if fields:
                job.restore(fields)
            payloads = job.payloads
            pipeline.multi()
            _strike_off(pipeline, abandoned)
            if not execution and payloads:
                # Taken from the queue and never begun: it goes back as it is.
                pipeline.lpush(queue_key(queue), job_id)
            else:
                pipeline.delete(job_key)
                # Who moved on did not die of it.
                alone = len(payloads) == 1 and bool(execution) and not abandoned.said
                for payload in payloads:
                    self._again(pipeline, _crashed(payload, evidence) if alone else payload)
            pipeline.sadd(Queue.redis_queues_keys, queue_key(queue))
            try:
                pipeline.execute()
            except WatchError:
                return False
        if payloads:
            why = "had lost its worker" if not abandoned.said else "is not in hand, and its end is not known"
            self._log.warning("Job %s of %s %s: its %d document(s) run again", job_id, queue, why, len(payloads))
        return True

    def _is_there(self, pipeline: Pipeline, abandoned: _Abandoned) -> bool:
        if abandoned.execution:
            member = f"{abandoned.job_id}:{abandoned.execution}"
            return pipeline.zscore(f"rq:wip:{abandoned.queue}", member) is not None
        return pipeline.lpos(_between(abandoned.queue), abandoned.job_id) is not None

    def _drop(self, abandoned: _Abandoned) -> None:
        """Take an unreadable job off the lists. Its documents, if any, are on disk: ingest submits them again."""
        with self._redis.pipeline() as pipeline:
            _strike_off(pipeline, abandoned)
            pipeline.delete(DocumentJob.key_for(abandoned.job_id))
            pipeline.execute()

    def _again(self, pipeline: Pipeline, payload: Payload) -> None:
        now = self._clock.now()
        payload = replace(payload, attempts=payload.attempts + 1, losses=payload.losses + 1)
        if payload.crashes >= MAX_CRASHES:
            pipeline.xadd(
                outcomes.stream(payload.route.queue), {outcomes.FIELD: outcomes.encode([_lost(payload, now)])}
            )
            return
        job_id = f"{payload.id}-c{payload.attempts}"
        submission.enqueue(pipeline, self._redis, job_id, payload.route.queue, [payload], at_front=True)
        submission.resubmitted(pipeline, Status.QUEUED, now, [payload], job_id)

    def _bury(self, worker: str) -> None:
        """Say in RQ's keys that `worker` is dead, as it would have itself."""
        key = f"rq:worker:{worker}"
        with self._redis.pipeline() as pipeline:
            pipeline.srem(REDIS_WORKER_KEYS, key)
            for queue in self._queues:
                pipeline.srem(WORKERS_BY_QUEUE_KEY % queue, key)
            pipeline.hset(key, "death", utcformat(rq_now()))
            pipeline.expire(key, _DEATH_KNOWN_SECONDS)
            pipeline.delete(WORKER_EXECUTIONS_KEY_TEMPLATE.format(worker))
            pipeline.execute()


def work_keys(queue: str) -> tuple[str, str]:
    """The keys of which one is there while a worker has, or had, a job of `queue` in hand."""
    return _between(queue), f"rq:wip:{queue}"


def _between(queue: str) -> str:
    """RQ's list of what has left `queue` and not been begun."""
    return IntermediateQueue.get_intermediate_queue_key(queue_key(queue))


def _strike_off(pipeline: Pipeline, abandoned: _Abandoned) -> None:
    queue, job_id, execution, *_ = abandoned
    pipeline.zrem(f"rq:wip:{queue}", f"{job_id}:{execution}")
    pipeline.lrem(_between(queue), 0, job_id)
    pipeline.delete(f"rq:execution:{job_id}:{execution}", f"rq:executions:{job_id}")


def _crashed(payload: Payload, evidence: Evidence | None) -> Payload:
    found = [*payload.evidence, evidence] if evidence else payload.evidence
    return replace(payload, crashes=payload.crashes + 1, evidence=found)


def _lost(payload: Payload, now: float) -> Outcome:
    code, message = verdict(payload.crashes, payload.evidence)
    return Outcome(
        kind="rejected",
        id=payload.id,
        claim=payload.claim,
        attempts=payload.attempts,
        completed_at=now,
        route=payload.route,
        code=code.value,
        message=message,
        evidence=payload.evidence,
    )
