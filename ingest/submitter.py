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
from llm_scheduler.jobs.store.ledger import Load
from llm_scheduler.jobs.store.outcomes import Outcome

JOB_SECONDS = 0.25  # the most work that a job of several real-time documents is made for
_UNKNOWN_PACE = 4  # documents a job at most, while nobody knows how long one takes


@dataclass(frozen=True)
class Submitted:
    """A claim with its bytes and its route, ready to go."""

    group: str
    claim: Claim
    raw: bytes
    route: Route


class Submitter:
    """Submits claims by the mode of the configuration."""

    def __init__(self, config: Config, redis: Redis, clock: Clock) -> None:
        self._config = config
        self._redis = redis
        self._clock = clock
        self._sealing = sealing_of(config.security)

    def submit(self, documents: Sequence[Submitted], load: Load) -> None:
        """Hand `documents` to RQ and record them. Raises RedisError; then all or nothing of it has happened.

        `load` says what waits already: the longer the queue, the more documents share a job.
        """
        now = self._clock.now()
        refused: list[Outcome] = []
        rejected_payloads: list[tuple[Payload, int]] = []
        by_queue: dict[str, list[tuple[Payload, int]]] = {}
        ids: dict[str, list[str]] = {}
        for document in documents:
            payload = self._payload(document, now)
            sized = (payload, document.claim.seen.size)
            ids.setdefault(payload.route.queue, []).append(payload.id)
            if document.claim.code:
                refused.append(_refusal(document.claim, payload, now))
                rejected_payloads.append(sized)
            else:
                by_queue.setdefault(payload.route.queue, []).append(sized)
        size = self._config.processing.batch_size
        joined: dict[str, int] = {}  # queue: the place of its batch's length among the pipeline's answers
        with self._redis.pipeline() as pipeline:
            counters.received(pipeline, now, ids)
            if refused:
                payloads, sizes = zip(*rejected_payloads, strict=True)
                submission.record(pipeline, Status.RECEIVED, now, payloads, sizes)
                for queue, told in _by_queue(refused).items():
                    pipeline.xadd(outcomes.stream(queue), {outcomes.FIELD: outcomes.encode(told)})
            for queue, group in by_queue.items():
                waits = self._waits(queue)
                counts = whole(len(group), size) if waits else self._shared(len(group), queue, load)
                for count in counts:
                    part, group = group[:count], group[count:]
                    self._enqueue(pipeline, queue, part, now)
                if group:
                    self._join(pipeline, queue, group, now)
                    joined[queue] = len(pipeline) - 1
            answers = pipeline.execute()
        for queue, place in joined.items():
            if answers[place] >= size:
                batches.flush(self._redis, queue, self._config.processing, self._clock)

    def record_split(self, claim: Claim, route: Route, count: int) -> None:
        """Tell the ledger of a file that has become `count` documents: it is done, they are still to come."""
        fields: ledger.Fields = {
            "priority": route.priority,
            "queue": route.queue,
            "handler": route.handler,
            "source": claim.source,
            "received_at": int(claim.received_at * 1000),
            "reasons": [f"taken apart into {count} documents"],
            "message": f"taken apart into {count} documents, which are below {claim.source}/",
        }
        ledger.move(self._redis, Status.DONE, self._clock.now(), [(claim.id, fields)])

    def flush_all(self) -> None:
        """Submit what waits in the batches, due or not."""
        batches.flush_all(self._redis, self._config.queue.priority_levels, self._config.processing, self._clock)

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

    def _join(self, pipeline: Pipeline, queue: str, group: list[tuple[Payload, int]], now: float) -> None:
        payloads, sizes = zip(*group, strict=True)
        submission.record(pipeline, Status.BATCHED, now, payloads, sizes)
        batches.add(pipeline, queue, payloads, self._config.processing, now)

    def _waits(self, queue: str) -> bool:
        """Whether documents of `queue` wait for company."""
        mode = self._config.processing.mode
        return mode == "batch" or (mode == "hybrid" and queue != self._config.queue.priority_levels[0])

    def _payload(self, document: Submitted, now: float) -> Payload:
        claim = document.claim
        body, packed = pack_body(document.raw)
        if self._sealing:
            body = self._sealing.seal.lock(body)
        return Payload(
            id=claim.id,
            claim=document.group,
            source=claim.source,
            received_at=claim.received_at,
            submitted_at=now,
            route=document.route,
            body=body,
            packed=packed,
            sealed=self._sealing is not None,
        )


def whole(count: int, size: int) -> Iterator[int]:
    """The sizes of jobs for `count` documents that wait for company: full ones only, the rest goes on waiting."""
    return repeat(size, count // size)


def shared(count: int, waiting: int, limit: int) -> Iterator[int]:
    """The sizes of jobs for `count` real-time documents behind `waiting` others, none above `limit`.

    A job is no larger than the queue ahead of it: on an idle system a document goes alone and at once, and where it
    shares a job it has to wait longer for its turn than for its company.
    """
    while count > 0:
        size = max(1, min(count, waiting, limit))
        yield size
        waiting += size
        count -= size


def _by_queue(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    queues: dict[str, list[Outcome]] = {}
    for each in outcomes:
        queues.setdefault(each.route.queue, []).append(each)
    return queues


def _refusal(claim: Claim, payload: Payload, now: float) -> Outcome:
    return Outcome(
        kind="rejected",
        id=claim.id,
        claim=payload.claim,
        attempts=0,
        completed_at=now,
        route=payload.route,
        code=claim.code or "",
        message=claim.message or "",
    )
