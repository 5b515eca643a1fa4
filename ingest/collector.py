"""`llm-collector`: takes outcomes from the stream, commits them to disk in groups, tells the ledger, forgets them."""

import logging
import os
from collections.abc import Sequence

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from ingest.spool import Claims, Folders, SpoolLock, Trouble, explain
from ingest.spool.committing import Commit, Committed
from ingest.word import Word
from jobs import faults, ledger, outcome
from jobs.clock import Clock, SystemClock
from jobs.config import Config
from jobs.connection import connect
from jobs.document import Status
from jobs.faults import FaultPoint
from jobs.outcome import Outcome
from jobs.process import URL_VARIABLE, Outage, Stop, start

GROUP = 128  # documents that share one sync
ENTRIES = 64  # stream entries read at once
WAIT_MILLISECONDS = 1000

Entry = tuple[bytes, list[Outcome]]  # a stream entry's id, and what it says


class Collector:
    """The daemon's state and its steps."""

    def __init__(
        self,
        config: Config,
        redis: Redis,
        clock: Clock,
        stop: Stop,
        log: logging.Logger,
        at: FaultPoint = faults.no_faults,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._stop = stop
        self._log = log
        self._at = at
        self._folders = Folders.of(config.directories)
        self._commit = Commit(self._folders, Claims(self._folders.temp), at)
        self._lock = SpoolLock(self._folders.temp, "collector")
        self._outage = Outage(log)
        self._after = "0"
        self._stuck = False
        self._word = Word(redis, "collector", clock)
        self._trouble = ""

    def run(self) -> None:
        """Work until told to stop, and until what is in the stream by then is committed."""
        try:
            while True:
                try:
                    self._ready()
                    entries = self._read()
                    self._outage.over()
                    if not entries and self._stop:
                        return
                    self._settle(entries)
                    self._trouble = ""
                except Trouble as trouble:
                    self._wait_out(str(trouble))
                except RedisError as error:
                    self._stop.wait(self._outage.failed(error))
                if self._stop and (self._trouble or self._outage.seconds):
                    return  # the outcomes stay in the stream
        finally:
            self._lock.release()
            self._word.take_back()

    def _ready(self) -> None:
        """The folders and the lock. Raises `Trouble`."""
        if self._trouble or self._after == "0":
            self._folders.prepare()
        try:
            if not self._lock.take():
                raise Trouble(
                    f"Another llm-collector (process {self._lock.holder()}) works on {self._folders.temp}. "
                    "This one waits until it stops."
                )
        except OSError as error:
            raise Trouble(explain(error, self._folders.temp)) from None

    def _wait_out(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._log.error("%s", trouble)
            self._trouble = trouble
        self._after = "0"
        self._word.try_say("waiting", trouble)
        self._stop.wait(1.0)

    def _read(self) -> list[Entry]:
        """The oldest outcomes that are not committed, waiting a little for the first."""
        if self._word.is_due():
            self._word.say("working", "")
        block = None if self._stop or self._stuck else WAIT_MILLISECONDS
        answer = self._redis.xread({outcome.STREAM: self._after}, count=ENTRIES, block=block)
        if not answer:
            if self._stuck:  # what could not be committed is tried again, slowly
                self._stuck = False
                self._stop.wait(1.0)
            self._after = "0"
            return []
        entries: list[Entry] = []
        for entry_id, fields in _entries_of(answer):
            try:
                entries.append((entry_id, outcome.decode(fields[outcome.FIELD.encode()])))
            except (KeyError, msgspec.DecodeError):
                self._log.error("An entry of the stream %s is not an outcome and was passed over", outcome.STREAM)
                entries.append((entry_id, []))
        return entries

    def _settle(self, entries: list[Entry]) -> None:
        """Commit entries in groups of documents; what fails as a group is tried one by one, so that one bad place
        holds up no neighbour."""
        group: list[Entry] = []
        size = 0
        for entry in entries:
            group.append(entry)
            size += len(entry[1])
            if size >= GROUP:
                self._settle_group(group)
                group, size = [], 0
        if group:
            self._settle_group(group)

    def _settle_group(self, group: Sequence[Entry]) -> None:
        try:
            committed = self._commit.group(each for _, outcomes in group for each in outcomes)
        except Trouble as trouble:
            if len(group) == 1 and len(group[0][1]) == 1:
                raise
            self._log.warning("%s Trying the %d documents one by one.", trouble, sum(len(each) for _, each in group))
            self._settle_singly(group)
            return
        self._acknowledge([entry_id for entry_id, _ in group], committed)

    def _settle_singly(self, group: Sequence[Entry]) -> None:
        failed: Trouble | None = None
        any_done = False
        for entry_id, outcomes in group:
            committed: list[Committed] = []
            whole = True
            for each in outcomes:
                try:
                    committed += self._commit.group([each])
                except Trouble as trouble:
                    failed, whole = trouble, False
            any_done = any_done or bool(committed)
            self._acknowledge([entry_id] if whole else [], committed)
            self._after = entry_id.decode()
        if failed is not None:
            if not any_done:
                raise failed
            self._stuck = True
            self._log.error("%s The other documents go on.", failed)

    def _acknowledge(self, entry_ids: list[bytes], committed: list[Committed]) -> None:
        """Tell the ledger, and let go of the entries. Until this is through they are told again, which is harmless."""
        now = self._clock.now()
        while True:
            try:
                with self._redis.pipeline() as pipeline:
                    for status in (Status.DONE, Status.REJECTED, Status.CANCELLED):
                        entries = [(each.outcome.id, _particulars(each)) for each in committed if each.status == status]
                        if entries:
                            ledger.move(pipeline, status, now, entries)
                    if entry_ids:
                        pipeline.xdel(outcome.STREAM, *entry_ids)
                    pipeline.execute()
            except RedisError as error:
                if self._stop.wait(self._outage.failed(error)):
                    raise
            else:
                break
        self._at("collector.acknowledged")
        for each in committed:
            self._report(each)

    def _report(self, committed: Committed) -> None:
        """One line in the log for a document's end."""
        done = committed.outcome
        if committed.claim is None:
            self._log.debug("A late duplicate outcome of document %s was dropped", done.id)
            return
        source = committed.claim.source
        extra = {"document_id": done.id, "source": source, "seconds": round(done.seconds, 6), "attempts": done.attempts}
        if committed.status == Status.DONE:
            self._log.info(
                "Task completed: %s (%s, %s). Processing time: %.3f s",
                source,
                done.id,
                done.priority,
                done.seconds,
                extra=extra,
            )
        elif committed.status == Status.REJECTED:
            self._log.warning(
                "Task failed: %s (%s, %s) after %d attempt(s): %s. Processing time: %.3f s",
                source,
                done.id,
                done.code,
                done.attempts,
                _quiet(done),
                done.seconds,
                extra={**extra, "code": done.code},
            )
        else:
            self._log.warning("%s: %s", source, committed.message, extra=extra)


def _entries_of(answer: object) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries in an XREAD answer, which redis-py gives as a list or (RESP3) as a dict."""
    if isinstance(answer, dict):
        nested = next(iter(answer.values()))
        return list(nested[0]) if nested and isinstance(nested[0], list) else list(nested)
    assert isinstance(answer, list)
    return list(answer[0][1])


def _particulars(committed: Committed) -> ledger.Fields:
    done = committed.outcome
    fields: dict[str, str | int] = {"attempts": done.attempts}
    if done.rq_job_id:
        fields["rq_job_id"] = done.rq_job_id
    if committed.status == Status.REJECTED:
        fields |= {"code": done.code, "message": done.message[:500]}
    if committed.message:
        fields["message"] = committed.message
    if committed.claim is not None:
        # All that the ledger would need if Redis had been emptied in between.
        fields |= {
            "priority": done.priority,
            "queue": done.queue,
            "handler": done.handler,
            "source": committed.claim.source,
            "size": committed.claim.seen.size,
            "received_at": int(committed.claim.received_at * 1000),
            "reasons": msgspec.json.encode(done.reasons).decode(),
        }
    return fields


def _quiet(done: Outcome) -> str:
    """The reason for the log. A handler's own message may quote the document, so it stays in the error report."""
    return done.message if done.code not in ("handler_rejected", "handler_failed") else "see the error report"


def main() -> None:
    """Entry point of `llm-collector`."""
    config, log = start("collector")
    stop = Stop()
    stop.on_signals()
    redis = connect(os.environ.get(URL_VARIABLE, config.queue.redis_url))
    try:
        log.info("Collecting into %s", config.directories.output_directory)
        Collector(config, redis, SystemClock(), stop, log, faults.from_environment(os.environ)).run()
        log.info("Collector has stopped")
    finally:
        redis.close()


if __name__ == "__main__":
    main()
