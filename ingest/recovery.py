"""Reconcile: the disk is the record, so whatever claim Redis doesn't know of is submitted (again).

Run at start, when Redis turns out to have been emptied, and now and then. What Redis knows of, but nobody will bring to
an end (jobs/store/job_locations.py), is submitted, too. So is what waits at a level that the configuration no longer
has.
Submitting a document that is being worked on all the same is harmless, since it is committed once, but it costs: what
seems to be in nobody's hands is looked at again first.
"""

import logging
from collections.abc import Iterator
from typing import NamedTuple

from redis import Redis

from llm_scheduler.ingest.router import Router
from llm_scheduler.ingest.splitter import Splitter, parts_of
from llm_scheduler.ingest.spool import Claim, Claims
from llm_scheduler.ingest.submitter import Submitted, Submitter
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import FINAL, Status
from llm_scheduler.jobs.store import job_locations, ledger
from llm_scheduler.jobs.store.job_locations import Whereabouts
from llm_scheduler.jobs.store.ledger import Entry
from llm_scheduler.jobs.store.rq_job import DocumentJob

# How long a claim whose RQ job has gone may be without a commit before it is submitted again:
# its outcome may be on its way through the collector.
GRACE_SECONDS = 10.0
# And how long while outcomes as old as that wait for the collector (it was stopped, say): its own may be among them.
PATIENCE_SECONDS = 600.0
_AT_ONCE = 200
_BYTES_AT_ONCE = 32 * 1024 * 1024


class _Suspicion(NamedTuple):
    """Since when a claim has seemed to be in nobody's hands: monotonic, and in milliseconds of the server's clock."""

    since: float
    at: int
    status: Status
    job_id: str | None

    @property
    def place(self) -> tuple[Status, str | None]:
        return self.status, self.job_id

    def is_certain(self, now: float, untold: int | None) -> bool:
        """`untold`: the time of the oldest outcome of its queue that waits."""
        waited = now - self.since
        may_be_told = untold is not None and untold <= self.at
        return waited >= (PATIENCE_SECONDS if may_be_told else GRACE_SECONDS)


class Reconcile:
    """Compares claims with the ledger. Belongs to ingest, the only one who claims."""

    def __init__(
        self,
        config: Config,
        redis: Redis,
        claims: Claims,
        router: Router,
        submitter: Submitter,
        splitter: Splitter,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._levels = config.queue.priority_levels
        self._redis = redis
        self._claims = claims
        self._router = router
        self._submitter = submitter
        self._splitter = splitter
        self._most_lines = config.intake.max_lines
        self._clock = clock
        self._log = log
        self._limits = intake.Limits(config.processing.max_document_bytes, config.processing.max_depth)
        self._suspects: dict[str, _Suspicion] = {}

    def run(self) -> int:
        """Look at every claim once. Returns how many were submitted. Raises RedisError when Redis is away."""
        suspects: dict[str, _Suspicion] = {}
        orphans: dict[str, set[str]] = {}
        submitted = 0
        self._splitter.recover(self._all_held)
        seen = job_locations.look(self._redis, self._levels)
        for group in self._claims.groups():
            held = self._claims.held(group)
            if not held:
                self._claims.remove_group(group)
                continue
            lost = list(self._lost(held, seen, suspects, orphans))
            for part in self._parts(group, lost):
                self._submitter.submit(part, ledger.load(self._redis, self._levels))
                submitted += len(part)
        self._suspects = suspects
        for queue, job_ids in orphans.items():
            self._log.warning(
                "Documents waited at the level %s, which is no longer in queue.priority_levels; they were routed anew",
                queue,
            )
            job_locations.discard(self._redis, queue, job_ids)
        if submitted:
            self._log.info("Reconciled: %d claim(s) that Redis did not know were submitted", submitted)
        return submitted

    def _all_held(self) -> set[str]:
        return {document_id for group in self._claims.groups() for document_id in self._claims.held(group)}

    def _apart(self, raw: bytes, claim: Claim, *, complete: bool) -> list[bytes]:
        """The documents that a claim is to be taken apart into, which a crash kept ingest from doing."""
        if complete and b'"custom_id"' not in raw:
            return []
        try:
            return parts_of(raw, claim.source, self._limits, self._most_lines)
        except intake.Refused:
            return []  # the worker says so

    def _lost(
        self,
        held: dict[str, Claim],
        seen: Whereabouts,
        suspects: dict[str, _Suspicion],
        orphans: dict[str, set[str]],
    ) -> Iterator[Claim]:
        """The claims of a group that nobody will bring to an end."""
        now = self._clock.monotonic()
        unsure: list[Entry] = []
        for claim, entry in zip(held.values(), ledger.entries(self._redis, list(held)), strict=True):
            if entry is None:
                yield claim
            elif entry.queue and entry.queue not in self._levels and entry.status not in FINAL:
                jobs = orphans.setdefault(entry.queue, set())
                if entry.rq_job_id and entry.status in (Status.QUEUED, Status.STARTED, Status.RETRYING):
                    jobs.add(entry.rq_job_id)
                yield claim
            elif entry.status == Status.RECEIVED and not claim.code:
                yield claim  # the API's word about a document that had only been dropped then
            elif entry.id not in seen.batched:
                unsure.append(entry)
        for entry in self._unattended(unsure, seen):
            found = _Suspicion(now, seen.at, entry.status, entry.rq_job_id)
            before = self._suspects.get(entry.id, found)
            # Only when it is where it was is it known to have been there when `seen` was seen.
            suspicion = before if before.place == found.place else found
            if suspicion.is_certain(now, seen.untold.get(entry.queue)):
                yield held[entry.id]
            else:
                suspects[entry.id] = suspicion

    def _unattended(self, entries: list[Entry], seen: Whereabouts) -> list[Entry]:
        """Those of `entries` whose job has gone or is in nobody's hands."""
        jobs = [job_id for job_id in {entry.rq_job_id for entry in entries} if job_id in seen.jobs]
        pipeline = self._redis.pipeline(transaction=False)
        for job_id in jobs:
            pipeline.exists(DocumentJob.key_for(job_id))
        there = {job_id for job_id, exists in zip(jobs, pipeline.execute(), strict=True) if exists} if jobs else set()
        return [entry for entry in entries if entry.rq_job_id not in there]

    def _parts(self, group: str, lost: list[Claim]) -> Iterator[list[Submitted]]:
        """`lost` with its bytes, a bounded part at a time."""
        part: list[Submitted] = []
        size = 0
        for claim in lost:
            raw, value, complete = b"", None, True
            if not claim.code:
                try:
                    raw = self._claims.read(group, claim.id)
                except OSError:
                    continue  # committed meanwhile
                complete, value = intake.glance(raw, claim.source, self._limits)
                value = value if complete else intake.guess(raw, self._limits)
            route = self._router.route(value, claim.source, claim.seen.size)
            if not claim.code and (parts := self._apart(raw, claim, complete=complete)):
                self._splitter.take_apart(group, claim, parts)
                self._submitter.record_split(claim, route, len(parts))
                continue
            part.append(Submitted(group, claim, raw, route))
            size += len(raw)
            if len(part) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
                yield part
                part, size = [], 0
        if part:
            yield part
