"""From claims to Redis: packets, jobs, batches and ledger entries of a group in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass

from redis import Redis
from redis.client import Pipeline

from ingest.router import Router
from ingest.spool.claims import Claim
from jobs import batch, outcome, submission
from jobs.clock import Clock
from jobs.config import Config
from jobs.document import Packet, Status, new_id, pack_body
from jobs.outcome import Outcome

_LATENCY_FIRST = 4  # so few documents go one a job, so that several workers share them


@dataclass(frozen=True)
class Submitted:
    """A claim with its bytes and its parsed value (None where it doesn't parse), ready to go."""

    group: str
    claim: Claim
    raw: bytes
    value: object


class Submitter:
    """Submits claims by the mode of the configuration."""

    def __init__(self, config: Config, redis: Redis, router: Router, clock: Clock) -> None:
        self._config = config
        self._redis = redis
        self._router = router
        self._clock = clock

    def submit(self, documents: Sequence[Submitted]) -> None:
        """Hand `documents` to RQ and record them. Raises RedisError; then all or nothing of it has happened."""
        now = self._clock.now()
        refused: list[Outcome] = []
        refused_packets: list[tuple[Packet, int]] = []
        by_queue: dict[str, list[tuple[Packet, int]]] = {}
        for document in documents:
            packet = self._packet(document, now)
            sized = (packet, document.claim.seen.size)
            if document.claim.code:
                refused.append(_refusal(document.claim, packet, now))
                refused_packets.append(sized)
            else:
                by_queue.setdefault(packet.route.queue, []).append(sized)
        full: list[str] = []
        with self._redis.pipeline() as pipeline:
            if refused:
                packets, sizes = zip(*refused_packets, strict=True)
                submission.record(pipeline, Status.RECEIVED, now, packets, sizes)
                pipeline.xadd(outcome.STREAM, {outcome.FIELD: outcome.encode(refused)})
            for queue, group in by_queue.items():
                self._queue(pipeline, queue, group, now, full)
            pipeline.execute()
        for queue in full:
            batch.flush(self._redis, queue, self._config.processing, self._clock)

    def _queue(
        self, pipeline: Pipeline, queue: str, group: list[tuple[Packet, int]], now: float, full: list[str]
    ) -> None:
        size = self._config.processing.batch_size
        waits = self._waits(queue)
        step = 1 if len(group) <= _LATENCY_FIRST else size
        while group and (not waits or len(group) >= size):
            part, group = group[: step if not waits else size], group[step if not waits else size :]
            packets, sizes = zip(*part, strict=True)
            job_id = new_id(now)
            submission.enqueue(pipeline, self._redis, job_id, queue, packets)
            submission.record(pipeline, Status.QUEUED, now, packets, sizes, job_id)
        if group:
            packets, sizes = zip(*group, strict=True)
            submission.record(pipeline, Status.BATCHED, now, packets, sizes)
            batch.add(pipeline, queue, packets, self._config.processing, now)
            full.append(queue)

    def _waits(self, queue: str) -> bool:
        """Whether documents of `queue` wait for company."""
        mode = self._config.processing.mode
        return mode == "batch" or (mode == "hybrid" and queue != self._config.queue.priority_levels[0])

    def _packet(self, document: Submitted, now: float) -> Packet:
        claim = document.claim
        body, deflated = pack_body(document.raw)
        return Packet(
            id=claim.id,
            claim=document.group,
            source=claim.source,
            received_at=claim.received_at,
            submitted_at=now,
            route=self._router.route(document.value),
            body=body,
            deflated=deflated,
        )


def _refusal(claim: Claim, packet: Packet, now: float) -> Outcome:
    return Outcome(
        kind="rejected",
        id=claim.id,
        claim=packet.claim,
        attempts=0,
        completed_at=now,
        priority=packet.route.priority,
        queue=packet.route.queue,
        handler=packet.route.handler,
        reasons=packet.route.reasons,
        code=claim.code or "",
        message=claim.message or "",
    )
