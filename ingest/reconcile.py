"""Reconcile: the disk is the record, so whatever claim Redis doesn't know of is submitted (again).

Run at start, when Redis turns out to have been emptied, and now and then. Submitting a document that is being worked on
all the same is harmless: it is committed once.
"""

import logging
from collections.abc import Iterator

from redis import Redis

from ingest.router import Router
from ingest.spool import Claim, Claims
from ingest.submitting import Submitted, Submitter
from jobs import batch, intake, ledger
from jobs.clock import Clock
from jobs.config import Config
from jobs.document import Status
from jobs.rq_job import DocumentJob

# How long a claim whose RQ job has gone may be without a commit before it is submitted again:
# its outcome may be waiting for the collector.
GRACE_SECONDS = 10.0
_AT_ONCE = 200
_BYTES_AT_ONCE = 32 * 1024 * 1024


class Reconcile:
    """Compares claims with the ledger. Belongs to ingest, the only one who claims."""

    def __init__(
        self,
        config: Config,
        redis: Redis,
        claims: Claims,
        router: Router,
        submitter: Submitter,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._config = config
        self._redis = redis
        self._claims = claims
        self._router = router
        self._submitter = submitter
        self._clock = clock
        self._log = log
        self._limits = intake.Limits(config.processing.max_document_bytes, config.processing.max_depth)
        self._suspects: dict[str, float] = {}

    def run(self) -> int:
        """Look at every claim once. Returns how many were submitted. Raises RedisError when Redis is away."""
        suspects: dict[str, float] = {}
        submitted = 0
        for group in self._claims.groups():
            held = self._claims.held(group)
            if not held:
                self._claims.remove_group(group)
                continue
            lost = list(self._lost(held, suspects))
            for part in self._parts(group, lost):
                self._submitter.submit(part, ledger.load(self._redis, self._config.queue.priority_levels))
                submitted += len(part)
        self._suspects = suspects
        if submitted:
            self._log.info("Reconciled: %d claim(s) that Redis did not know were submitted", submitted)
        return submitted

    def _lost(self, held: dict[str, Claim], suspects: dict[str, float]) -> Iterator[Claim]:
        """The claims of a group that nothing in Redis will bring to an end."""
        now = self._clock.monotonic()
        ids = list(held)
        unsure: list[tuple[str, str | None, str | None]] = []
        for document_id, (status, job_id) in zip(ids, ledger.known(self._redis, ids), strict=True):
            if status is None:
                yield held[document_id]
            elif status == Status.RECEIVED and not held[document_id].code:
                yield held[document_id]  # the API's word about a document that had only been dropped then
            else:
                unsure.append((document_id, status, job_id))
        for document_id in self._without_job(unsure):
            since = self._suspects.get(document_id, now)
            if now - since >= GRACE_SECONDS:
                yield held[document_id]
            else:
                suspects[document_id] = since

    def _without_job(self, documents: list[tuple[str, str | None, str | None]]) -> Iterator[str]:
        if not documents:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for queue in self._config.queue.priority_levels:
            pipeline.exists(batch.key(queue))
        for _, _, job_id in documents:
            pipeline.exists(DocumentJob.key_for(job_id or "none"))
        levels = len(self._config.queue.priority_levels)
        answers = pipeline.execute()
        any_batch = any(answers[:levels])
        for (document_id, status, _), exists in zip(documents, answers[levels:], strict=True):
            if not exists and not (status == Status.BATCHED and any_batch):
                yield document_id

    def _parts(self, group: str, lost: list[Claim]) -> Iterator[list[Submitted]]:
        """`lost` with its bytes, a bounded part at a time."""
        part: list[Submitted] = []
        size = 0
        for claim in lost:
            raw = b""
            value = None
            if not claim.code:
                try:
                    raw = self._claims.read(group, claim.id)
                except OSError:
                    continue  # committed meanwhile
                try:
                    _, value = intake.read(raw, self._limits)
                except intake.Refused:
                    value = None
            part.append(Submitted(group, claim, raw, self._router.route(value)))
            size += len(raw)
            if len(part) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
                yield part
                part, size = [], 0
        if part:
            yield part
