"""After the commit: the ledger, the counters and the log learn of it, and the outcomes are deleted."""

import os
from collections import Counter
from collections.abc import Sequence

from redis.exceptions import RedisError

from llm_scheduler.ingest.outcome_reader import OutcomeEntry
from llm_scheduler.ingest.spool import Claims
from llm_scheduler.ingest.spool.commit import CommitResult
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.faults import FaultPoint
from llm_scheduler.jobs.process.outage import Outage
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.receipt import Quality
from llm_scheduler.jobs.store import counters, ledger, producers


class Acknowledger:
    """Records committed documents. `committed` counts them."""

    def __init__(self, runtime: Runtime, claims: Claims, outage: Outage, at: FaultPoint) -> None:
        self.committed = 0
        self._runtime = runtime

        self._claims = claims
        self._outage = outage
        self._at = at

    def run(self, entries: Sequence[OutcomeEntry], committed: list[CommitResult]) -> None:
        """Record `committed` and delete `entries`. Waits while Redis is away.

        If it is interrupted, the outcomes come again, which is harmless. Raises RedisError when asked to stop.
        """
        self.committed += len(committed)
        redis, now = self._runtime.redis, self._runtime.clock.now()
        keep_days = self._runtime.config.monitoring.metrics_retention_days
        committed = [each for each in committed if each.claim or not self._is_claimed_again(each)]
        by_stream: dict[str, list[bytes]] = {}
        for entry in entries:
            by_stream.setdefault(entry.stream, []).append(entry.id)
        by_status: dict[Status, list[CommitResult]] = {}
        counts: Counter[producers.ProducerCount] = Counter()
        ends = counters.OutcomeCounts()
        for each in committed:
            by_status.setdefault(each.status, []).append(each)
            if each.claim:  # no late duplicate
                counts[producers.classify(each.outcome, each.claim.source)] += 1
                ends.add(each.outcome, each.status, now - each.claim.received_at)
        first = next(((entry.stream, entry.id) for entry in entries), None)
        while True:
            try:
                with redis.pipeline() as pipeline:
                    for status, group in by_status.items():
                        ledger.move(pipeline, status, now, [(each.outcome.id, _new_fields(each)) for each in group])
                    counters.count_ended(pipeline, now, ends, first)
                    for stream, entry_ids in by_stream.items():
                        pipeline.xdel(stream, *entry_ids)
                    producers.count(pipeline, now, counts, keep_days)
                    moved = pipeline.execute()
                for (status, group), count in zip(by_status.items(), moved, strict=False):
                    if count < len(group):  # some are unknown because Redis was emptied, or were final already
                        ledger.move(redis, status, now, [(each.outcome.id, _all_fields(each)) for each in group])
            except RedisError as error:
                if self._runtime.stop.wait(self._outage.failed(error)):
                    raise
            else:
                break
        self._at("collector.acknowledged")
        for each in committed:
            self._log_end(each)

    def _is_claimed_again(self, late: CommitResult) -> bool:
        """Whether the document of a late duplicate was claimed again for a retry. Its status must stay as it is."""
        return any(os.path.lexists(self._claims.path(group, late.outcome.id)) for group in self._claims.groups())

    def _log_end(self, committed: CommitResult) -> None:
        outcome = committed.outcome
        if committed.claim is None:
            self._runtime.log.debug("A late duplicate outcome of document %s was dropped", outcome.id)
            return
        source, seconds = committed.claim.source, round(outcome.seconds, 6)
        extra = {"document_id": outcome.id, "source": source, "seconds": seconds, "attempts": outcome.attempts}
        if committed.status == Status.DONE:
            self._runtime.log.info(
                "Task completed: %s (%s, %s). Processing time: %.3f s",
                source,
                outcome.id,
                outcome.route.priority,
                outcome.seconds,
                extra=extra,
            )
        elif committed.status == Status.REJECTED:
            # A handler's own message may quote the document, so it is only in the report.
            by_handler = outcome.code in ("handler_rejected", "handler_failed")
            self._runtime.log.warning(
                "Task failed: %s (%s, %s) after %d attempt(s): %s. Processing time: %.3f s",
                source,
                outcome.id,
                outcome.code,
                outcome.attempts,
                "see the error report" if by_handler else outcome.message.rstrip("."),
                outcome.seconds,
                extra={**extra, "code": outcome.code},
            )
        else:
            self._runtime.log.warning("%s: %s", source, committed.message, extra=extra)


def _new_fields(committed: CommitResult) -> ledger.Fields:
    """What the end of a document adds to the ledger."""
    outcome = committed.outcome
    fields: dict[str, str | int] = {"attempts": outcome.attempts}
    if outcome.kind == "done":
        fields["quality"] = outcome.read.quality if outcome.read else Quality.VALID.value
    if outcome.attempts:
        fields["started_at"] = int((outcome.completed_at - outcome.seconds) * 1000)
    if outcome.rq_job_id:
        fields["rq_job_id"] = outcome.rq_job_id
    if committed.status == Status.REJECTED or outcome.kind == "cancelled":
        fields |= {"code": outcome.code, "message": outcome.message[:500]}
    if committed.message:
        fields["message"] = committed.message
    return fields


def _all_fields(committed: CommitResult) -> ledger.Fields:
    """Everything that the ledger keeps of a document, for one that it may have lost."""
    fields, claim = _new_fields(committed), committed.claim
    if claim is None:
        return fields
    route = committed.outcome.route
    return {**fields, **ledger.document_fields(route, claim.source, claim.received_at, size=claim.stamp.size)}
