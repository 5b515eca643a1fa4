"""Recovery: the disk is the record, so a claim that Redis has lost is submitted again (invariant 1).

It runs at start, when Redis turns out to have been emptied, and every 30 s. It submits claims that the ledger does not
know, whose level is no longer in the configuration, or whose job is gone (jobs/store/job_locations.py). Submitting a
document twice is harmless, because it is committed once, but it costs work. So a job has to be missing for a while.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from llm_scheduler.ingest.router import Router
from llm_scheduler.ingest.splitter import Splitter
from llm_scheduler.ingest.spool import Claim, Claims
from llm_scheduler.ingest.submitter import Submission, Submitter
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.document import FINAL, Status
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.store import job_locations, ledger
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.load import read_load

# How long the job of a claim has to be missing: the outcome may be on its way through the collector.
GRACE_SECONDS = 10.0
# The same while the collector has outcomes that are as old (it was stopped, for example): this one may be among them.
PATIENCE_SECONDS = 600.0
_MAX_GROUP = 200
_MAX_GROUP_BYTES = 32 * 1024 * 1024


class _MissingJob(NamedTuple):
    """A claim's job that seems to be lost. `since` is monotonic, `at` in milliseconds of the server's clock."""

    since: float
    at: int
    status: Status
    job_id: str | None

    def is_lost(self, now: float, oldest_outcome: int | None) -> bool:
        """`oldest_outcome`: the time in ms of the oldest outcome of its queue that waits for the collector."""
        may_have_outcome = oldest_outcome is not None and oldest_outcome <= self.at
        return now - self.since >= (PATIENCE_SECONDS if may_have_outcome else GRACE_SECONDS)


class Recovery:
    """Compares claims with Redis. Only ingest uses it."""

    def __init__(
        self, runtime: Runtime, claims: Claims, router: Router, submitter: Submitter, splitter: Splitter
    ) -> None:
        config = runtime.config
        self._redis, self._clock, self._log = runtime.redis, runtime.clock, runtime.log
        self._claims = claims
        self._router = router
        self._submitter = submitter
        self._splitter = splitter
        self._levels = config.queue.priority_levels
        self._max_lines = config.intake.max_lines
        self._limits = intake.IntakeLimits.from_config(config.processing)
        self._missing: dict[str, _MissingJob] = {}  # by document

    def run(self) -> int:
        """Check every claim once. Returns how many were submitted. Raises RedisError when Redis is away."""
        missing: dict[str, _MissingJob] = {}
        orphans: dict[str, set[str]] = {}  # job ids by a level that is no longer configured
        submitted = 0
        self._splitter.recover(self._claims.all_ids)
        locations = job_locations.read_locations(self._redis, self._levels)
        for group in self._claims.groups():
            held = self._claims.held(group)
            if not held:
                self._claims.remove_group(group)
                continue
            lost = list(self._lost(held, locations, missing, orphans))
            for part in self._submissions(group, lost):
                self._submitter.submit(part, read_load(self._redis, self._levels))
                submitted += len(part)
        self._missing = missing
        for queue, job_ids in orphans.items():
            self._log.warning(
                "Documents waited at the level %s, which is no longer in queue.priority_levels. They are routed again.",
                queue,
            )
            job_locations.discard(self._redis, queue, job_ids)
        if submitted:
            self._log.info("Recovery: %d claim(s) that Redis had lost were submitted", submitted)
        return submitted

    def _lost(
        self,
        held: dict[str, Claim],
        locations: job_locations.JobLocations,
        missing: dict[str, _MissingJob],
        orphans: dict[str, set[str]],
    ) -> Iterator[Claim]:
        """The claims of a group that nobody will bring to an end."""
        now = self._clock.monotonic()
        unsure: list[ledger.Entry] = []
        for claim, entry in zip(held.values(), ledger.entries(self._redis, list(held)), strict=True):
            if entry is None:
                yield claim
            elif entry.queue and entry.queue not in self._levels and entry.status not in FINAL:
                jobs = orphans.setdefault(entry.queue, set())
                if entry.rq_job_id and entry.status in (Status.QUEUED, Status.STARTED, Status.RETRYING):
                    jobs.add(entry.rq_job_id)
                yield claim
            elif entry.status == Status.RECEIVED and not claim.code:
                yield claim  # the API recorded it when it was dropped; it was never submitted
            elif entry.id not in locations.batched:
                unsure.append(entry)
        for entry in self._without_job(unsure, locations):
            found = _MissingJob(now, locations.at, entry.status, entry.rq_job_id)
            known = self._missing.get(entry.id, found)
            # The time counts only while the entry is the same: otherwise it had a job in the meantime.
            job = known if (known.status, known.job_id) == (found.status, found.job_id) else found
            if job.is_lost(now, locations.oldest_outcomes.get(entry.queue)):
                yield held[entry.id]
            else:
                missing[entry.id] = job

    def _without_job(self, entries: list[ledger.Entry], locations: job_locations.JobLocations) -> list[ledger.Entry]:
        """The entries whose job is in no location or has no hash."""
        jobs = [job_id for job_id in {entry.rq_job_id for entry in entries} if job_id in locations.jobs]
        if not jobs:
            return entries
        pipeline = self._redis.pipeline(transaction=False)
        for job_id in jobs:
            pipeline.exists(keys_of(self._redis).job(job_id))
        existing = {job_id for job_id, exists in zip(jobs, pipeline.execute(), strict=True) if exists}
        return [entry for entry in entries if entry.rq_job_id not in existing]

    def _submissions(self, group: str, lost: list[Claim]) -> Iterator[list[Submission]]:
        """The lost claims with their bytes, in parts of bounded size. Files of several documents are split instead."""
        part: list[Submission] = []
        size = 0
        for claim in lost:
            raw, value = b"", None
            parts: list[bytes] = []
            if not claim.code:
                try:
                    raw = self._claims.read(group, claim.id)
                except OSError:
                    continue  # it was committed meanwhile
                preview = intake.Preview(raw, claim.source, self._limits)
                value = preview.value
                with contextlib.suppress(intake.IntakeRejection):  # the worker rejects the file
                    parts = preview.parts(self._max_lines)
            route = self._router.decide(value, claim.source, claim.stamp.size).route
            if parts:
                self._splitter.split(group, claim, parts)
                self._submitter.record_split(claim, route, len(parts))
                continue
            part.append(Submission(group, claim, raw, route))
            size += len(raw)
            if len(part) >= _MAX_GROUP or size >= _MAX_GROUP_BYTES:
                yield part
                part, size = [], 0
        if part:
            yield part
