"""From claims to Redis: payloads, jobs, batches and ledger entries of a group in one transaction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from redis import Redis
from redis.client import Pipeline

from llm_scheduler.ingest.spool.claims import Claim
from llm_scheduler.jobs import groups
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import Payload, Route, Status, new_id, pack_body
from llm_scheduler.jobs.sealing import sealing_of
from llm_scheduler.jobs.store import batches, counters, ledger, outcomes, submission
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.load import Load

JOB_SECONDS = 0.25  # the most work in a job of several real-time documents
_UNKNOWN_PACE = 4  # documents in a job at most, while the time for one is unknown


@dataclass(frozen=True)
class Submission:
    """A claim with its bytes and its route."""

    group: str
    claim: Claim
    raw: bytes
    route: Route


class Submitter:
    """Submits claims as `processing.mode` says."""

    def __init__(self, config: Config, redis: Redis, clock: Clock) -> None:
        self._config = config
        self._redis = redis
        self._clock = clock
        self._sealing = sealing_of(config.security)

    def submit(self, documents: Sequence[Submission], load: Load) -> None:
        """Submit `documents`: all, or none when it raises RedisError. The longer the queue, the more share a job."""
        now = self._clock.now()
        rejected: dict[str, list[outcomes.Outcome]] = {}
        rejected_payloads: list[tuple[Payload, int]] = []
        by_queue: dict[str, list[tuple[Payload, int]]] = {}
        ids: dict[str, list[str]] = {}
        for document in documents:
            payload = self._payload(document, now)
            queue = payload.route.queue
            sized = (payload, document.claim.stamp.size)
            ids.setdefault(queue, []).append(payload.id)
            if document.claim.code:
                rejected.setdefault(queue, []).append(_rejection(document.claim, payload, now))
                rejected_payloads.append(sized)
            else:
                by_queue.setdefault(queue, []).append(sized)
        batch_size = self._config.processing.batch_size
        joined: dict[str, int] = {}  # by queue: the index of its batch's length in the pipeline's answers
        with self._redis.pipeline() as pipeline:
            counters.count_received(pipeline, now, ids)
            if rejected:
                payloads, sizes = zip(*rejected_payloads, strict=True)
                submission.record(pipeline, Status.RECEIVED, now, payloads, sizes)
                for queue, found in rejected.items():
                    pipeline.xadd(keys_of(pipeline).outcomes(queue), {outcomes.FIELD: outcomes.encode(found)})
            for queue, group in by_queue.items():
                batched = self._is_batched(queue)
                counts = whole(len(group), batch_size) if batched else self._shared(len(group), queue, load)
                for count in counts:
                    part, group = group[:count], group[count:]
                    self._enqueue(pipeline, queue, part, now)
                if group:
                    payloads, sizes = zip(*group, strict=True)
                    submission.record(pipeline, Status.BATCHED, now, payloads, sizes)
                    batches.add(pipeline, queue, payloads, self._config.processing, now)
                    joined[queue] = len(pipeline) - 1
            answers = pipeline.execute()
        for queue, index in joined.items():
            if answers[index] >= batch_size:
                batches.flush(self._redis, queue, self._config.processing, self._clock)

    def record_split(self, claim: Claim, route: Route, count: int) -> None:
        """Record a file that was split into `count` documents: it is done, they are still to come."""
        text = f"split into {count} documents"
        route = Route(priority=route.priority, queue=route.queue, handler=route.handler, reasons=[text])
        message = f"{text}, which are below {claim.source}/"
        fields = ledger.document_fields(route, claim.source, claim.received_at, message=message)
        ledger.move(self._redis, Status.DONE, self._clock.now(), [(claim.id, fields)])

    def _shared(self, count: int, queue: str, load: Load) -> Iterator[int]:
        pace = load.pace.get(queue)
        limit = _UNKNOWN_PACE if pace is None else int(JOB_SECONDS / max(pace, 1e-6))
        return shared(count, load.queued.get(queue, 0), max(1, min(limit, self._config.processing.batch_size)))

    def _enqueue(self, pipeline: Pipeline, queue: str, group: list[tuple[Payload, int]], now: float) -> None:
        for count in groups.bounded([size for _, size in group], submission.JOB_BYTES):
            part, group = group[:count], group[count:]
            payloads, sizes = zip(*part, strict=True)
            job_id = new_id(now)
            submission.enqueue(pipeline, self._redis, job_id, queue, payloads)
            submission.record(pipeline, Status.QUEUED, now, payloads, sizes, job_id)

    def _is_batched(self, queue: str) -> bool:
        """Whether documents of `queue` wait in a batch."""
        mode = self._config.processing.mode
        return mode == "batch" or (mode == "hybrid" and queue != self._config.queue.priority_levels[0])

    def _payload(self, document: Submission, now: float) -> Payload:
        claim = document.claim
        body, packed = pack_body(document.raw)
        if self._sealing:
            body = self._sealing.seal.lock(body)
        return Payload(
            id=claim.id,
            group=document.group,
            source=claim.source,
            received_at=claim.received_at,
            submitted_at=now,
            route=document.route,
            body=body,
            packed=packed,
            sealed=self._sealing is not None,
        )


def whole(count: int, size: int) -> Iterator[int]:
    """The sizes of jobs for `count` batched documents: only full batches; the rest stays in the batch."""
    return repeat(size, count // size)


def shared(count: int, waiting: int, limit: int) -> Iterator[int]:
    """The sizes of jobs for `count` real-time documents behind `waiting` others, none above `limit`.

    A job is no larger than the queue before it. So on an idle system each document goes alone and at once. In a shared
    job, a document waits longer for the queue than for the other documents of the job.
    """
    while count > 0:
        size = max(1, min(count, waiting, limit))
        yield size
        waiting += size
        count -= size


def _rejection(claim: Claim, payload: Payload, now: float) -> outcomes.Outcome:
    return outcomes.Outcome(
        kind="rejected",
        id=claim.id,
        group=payload.group,
        attempts=0,
        completed_at=now,
        route=payload.route,
        code=claim.code or "",
        message=claim.message or "",
    )
