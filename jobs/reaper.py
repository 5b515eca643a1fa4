"""Finding the work of dead workers, and giving it to living ones.

A worker's lease is its RQ key, renewed every two seconds. Work is abandoned when its worker's lease has been gone
for a while (after an outage of Redis all leases are gone for a moment), or when a job has hung between its queue and
its beginning. An abandoned job of several documents is split, so that the one that killed the worker, if one did, is
alone next time; a document that has killed `MAX_CRASHES` workers by itself is rejected.
"""

import logging
from collections.abc import Iterable

from msgspec.structs import replace
from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.intermediate_queue import IntermediateQueue

from jobs import outcome, submission
from jobs.clock import Clock
from jobs.codes import Code
from jobs.connection import AWAY
from jobs.document import Packet, Status
from jobs.outcome import Outcome
from jobs.rq_job import DocumentJob
from jobs.submission import queue_key

GRACE_SECONDS = 3.0
MAX_CRASHES = 3


def is_away(error: Exception) -> bool:
    """Whether `error` means that Redis is away; a key of another type than it should have is no such thing."""
    return isinstance(error, AWAY) and not str(error).startswith("WRONGTYPE")


class Reaper:
    """Takes only what it has seen abandoned for a while. The scheduler's lock sees to it that there is one of it."""

    def __init__(self, redis: Redis, queues: Iterable[str], clock: Clock, log: logging.Logger) -> None:
        self._redis = redis
        self._queues = list(queues)
        self._clock = clock
        self._log = log
        self._suspects: dict[str, float] = {}

    def reap(self) -> int:
        """Look once; returns how many jobs were taken from the dead."""
        now = self._clock.monotonic()
        found = {name: held for queue in self._queues for name, held in self._abandoned(queue)}
        self._suspects = {name: self._suspects.get(name, now) for name in found}
        taken = 0
        for name, (queue, job_id, execution) in found.items():
            if now - self._suspects[name] >= GRACE_SECONDS:
                del self._suspects[name]
                try:
                    self._take(queue, job_id, execution)
                except Exception as error:
                    if is_away(error):
                        raise
                    self._log.exception("Job %s of %s cannot be read; it is dropped", job_id, queue)
                    self._drop(queue, job_id, execution)
                taken += 1
        return taken

    def _abandoned(self, queue: str) -> Iterable[tuple[str, tuple[str, str, str]]]:
        """(suspect's name, (queue, job id, execution id or "")) of each job that seems to be nobody's."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zrange(f"rq:wip:{queue}", 0, -1)
        pipeline.lrange(IntermediateQueue.get_intermediate_queue_key(queue_key(queue)), 0, -1)
        registered, between = (self._readable(queue, members) for members in pipeline.execute())
        running = [member.rpartition(":")[::2] for member in registered]
        for job_id, execution in running:
            pipeline.hget(f"rq:execution:{job_id}:{execution}", "worker_name")
        names = [(name or b"").decode() for name in pipeline.execute()] if running else []
        for name in names:
            pipeline.hmget(f"rq:worker:{name}", "birth", "death")
        alive = [birth is not None and death is None for birth, death in pipeline.execute()] if running else []
        for (job_id, execution), lives in zip(running, alive, strict=True):
            if not lives:
                yield f"{job_id}:{execution}", (queue, job_id, execution)
        begun = {job_id for job_id, _ in running}
        for job_id in between:
            if job_id not in begun:
                yield job_id, (queue, job_id, "")

    def _readable(self, queue: str, members: Iterable[bytes]) -> list[str]:
        """`members` as names. What is no name of ours was put there by somebody else, and goes."""
        names = []
        for member in members:
            try:
                names.append(member.decode())
            except UnicodeDecodeError:
                self._log.error("%r is no job's id; it is dropped from %s", member, queue)
                self._redis.zrem(f"rq:wip:{queue}", member)
                between = IntermediateQueue.get_intermediate_queue_key(queue_key(queue))
                self._redis.lrem(between, 0, member)  # type: ignore[arg-type]  # bytes are fine
        return names

    def _take(self, queue: str, job_id: str, execution: str) -> None:
        fields = self._redis.hgetall(DocumentJob.key_for(job_id))
        packets: list[Packet] = []
        if fields:
            job = DocumentJob(job_id, self._redis)
            job.restore(fields)
            packets = job.packets
        now = self._clock.now()
        alone = len(packets) == 1 and bool(execution)
        with self._redis.pipeline() as pipeline:
            pipeline.zrem(f"rq:wip:{queue}", f"{job_id}:{execution}")
            pipeline.lrem(IntermediateQueue.get_intermediate_queue_key(queue_key(queue)), 0, job_id)
            pipeline.delete(f"rq:execution:{job_id}:{execution}", f"rq:executions:{job_id}")
            if not execution and packets:
                # Taken from the queue and never begun: it goes back as it is.
                pipeline.lpush(queue_key(queue), job_id)
            else:
                pipeline.delete(DocumentJob.key_for(job_id))
                for packet in packets:
                    self._again(pipeline, packet, now, alone)
            pipeline.sadd(Queue.redis_queues_keys, queue_key(queue))
            pipeline.execute()
        if packets:
            self._log.warning(
                "Job %s of %s had lost its worker: its %d document(s) run again", job_id, queue, len(packets)
            )

    def _drop(self, queue: str, job_id: str, execution: str) -> None:
        """Take an unreadable job off the lists. Its documents, if any, are on disk: ingest submits them again."""
        with self._redis.pipeline() as pipeline:
            pipeline.zrem(f"rq:wip:{queue}", f"{job_id}:{execution}")
            pipeline.lrem(IntermediateQueue.get_intermediate_queue_key(queue_key(queue)), 0, job_id)
            pipeline.delete(
                DocumentJob.key_for(job_id), f"rq:execution:{job_id}:{execution}", f"rq:executions:{job_id}"
            )
            pipeline.execute()

    def _again(self, pipeline: Pipeline, packet: Packet, now: float, alone: bool) -> None:
        crashes = packet.crashes + 1 if alone else packet.crashes
        packet = replace(packet, crashes=crashes, attempts=packet.attempts + 1)
        if crashes >= MAX_CRASHES:
            lost = Outcome(
                kind="rejected",
                id=packet.id,
                claim=packet.claim,
                attempts=packet.attempts,
                completed_at=now,
                priority=packet.route.priority,
                queue=packet.route.queue,
                handler=packet.route.handler,
                reasons=packet.route.reasons,
                code=Code.WORKER_LOST.value,
                message=f"{crashes} workers died with this document in hand.",
            )
            pipeline.xadd(outcome.STREAM, {outcome.FIELD: outcome.encode([lost])})
            return
        job_id = f"{packet.id}-c{packet.attempts}"
        submission.enqueue(pipeline, self._redis, job_id, packet.route.queue, [packet], at_front=True)
        submission.resubmitted(pipeline, Status.QUEUED, now, [packet], job_id)
