"""`llm-collector`: takes outcomes from the streams, commits them to disk in groups, tells the ledger, forgets them."""

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from llm_scheduler.ingest.item_count import Baselines
from llm_scheduler.ingest.spool import Claims, Folders, SpoolLock, Trouble, explain
from llm_scheduler.ingest.spool.commit import Commit, Committed, Written
from llm_scheduler.jobs import faults
from llm_scheduler.jobs.clock import Clock, SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.faults import FaultPoint
from llm_scheduler.jobs.process import arguments
from llm_scheduler.jobs.process.blocking_wait import Wait
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.process.heartbeat import Word
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.process.startup import URL_VARIABLE, Outage, Stop, start
from llm_scheduler.jobs.receipt import Quality
from llm_scheduler.jobs.sealing import seal_of_originals
from llm_scheduler.jobs.store import counters, ledger, outcomes, producers
from llm_scheduler.jobs.store.commands import RestartWatch
from llm_scheduler.jobs.store.full_redis import FinishingRedis
from llm_scheduler.jobs.store.outcomes import Outcome

GROUP = 512  # documents at most that share one sync, and the bytes of their results
GROUP_BYTES = 32 * 1024 * 1024
READ = 128  # documents read and written at once: an urgent one waits behind no more than these
WAIT_SECONDS = 5.0  # for outcomes, at most; a request to stop ends it
_ENDER_SECONDS = 2.0  # at the end of `run`: longer than a command takes, unless Redis hangs


class Entry(NamedTuple):
    """A stream entry, and what it says."""

    stream: str
    id: bytes
    outcomes: list[Outcome]


class Pending(NamedTuple):
    """A group that has been written and is being made durable."""

    entries: list[Entry]
    written: Written
    syncing: "Future[None]"


class Open(NamedTuple):
    """A group that is being written. It grows while outcomes come in faster than they can be made durable."""

    entries: list[Entry]
    written: Written


class Collector:
    """The daemon's state and its steps. While one group is made durable, by a thread, the next is written.

    A group grows as long as more is read than was written, but not when that would keep an urgent document waiting.
    """

    def __init__(
        self,
        config: Config,
        redis: Redis,
        clock: Clock,
        stop: Stop,
        log: logging.Logger,
        at: FaultPoint = faults.no_faults,
        notify: Notify | None = None,
    ) -> None:
        self._notify = notify or Notify()
        self._redis = redis
        self._wait: Wait | None = None
        self._ender: threading.Thread | None = None
        self._clock = clock
        self._stop = stop
        self._log = log
        self._at = at
        self._folders = Folders.of(config.directories)
        seal = seal_of_originals(config.security)
        self._claims = Claims(self._folders.temp)
        self._commit = Commit(self._folders, self._claims, at, seal=seal)
        self._baselines = Baselines(config.intake.min_items)
        self._keep_days = config.monitoring.metrics_retention_days
        self._lock = SpoolLock(self._folders.temp, "collector")
        self._outage = Outage(log, told=self._notify.turn)
        self._committed = 0
        self._streams = [outcomes.stream(level) for level in config.queue.priority_levels]
        self._after: dict[str, str] = {}
        self._entry_bytes = 1024 * 1024.0  # on average; until it is known, so many that few are read
        self._per_entry = 1.0  # documents, on average
        self._busy = 1  # streams that had something the last time
        self._emptied = True  # the first of them had no more than was read
        self._open: Open | None = None
        self._pending: Pending | None = None
        self._syncing = ThreadPoolExecutor(1, "sync")
        self._stuck = False
        self._word = Word(redis, "collector", clock, self._folders.temp)
        self._trouble = ""
        self._restart = RestartWatch()

    def run(self) -> None:
        """Work until told to stop, and until what is in the streams by then is committed."""
        try:
            while True:
                try:
                    self._ready()
                    entries = self._read()
                    self._outage.over()
                    self._notify.turn(f"Collects: {self._committed:,} documents committed since its start")
                    if not entries and self._stop:
                        return
                    self._settle(entries)
                    self._trouble = ""
                except Trouble as trouble:
                    self._wait_out(str(trouble))
                except RedisError as error:
                    self._stop.wait(self._outage.failed(error))
                if self._stop and (self._trouble or self._outage.seconds):
                    return  # the outcomes stay in the streams
        finally:
            self._notify.stopping()
            self._end_waiting()
            self._syncing.shutdown()
            self._lock.release()
            self._word.take_back()

    def _ready(self) -> None:
        """The folders and the lock. Raises `Trouble`."""
        if self._trouble or not self._after:
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
        self._after = {}
        self._notify.turn(f"Waits: {trouble}")
        self._word.try_say("waiting", trouble)
        self._stop.wait(1.0)

    def _read(self) -> list[Entry]:
        """The oldest outcomes of each level, the first level's first; waits a little when there is nothing to do."""
        if self._word.is_due():
            self._word.say("working", "")
            if self._restart.look(self._redis):
                self._log.info("A restart was asked for")
                self._stop.set()
        idle = self._open is None and self._pending is None and not self._stuck and not self._stop
        count = max(1, min(READ, round(READ / self._per_entry / self._busy), int(GROUP_BYTES / self._entry_bytes)))
        after: dict[Any, Any] = {stream: self._after.get(stream, "0") for stream in self._streams}
        try:
            answer = self._await(after, count) if idle else self._redis.xread(after, count=count)
        except RedisError:
            self._finish_all()  # what is written can be placed; only the ledger has to wait
            raise
        found = dict(_by_stream(answer or ()))
        self._busy = max(1, len(found))
        if not found:
            self._finish_all()
            if self._stuck:  # what could not be committed is tried again, slowly
                self._stuck = False
                self._stop.wait(1.0)
            self._after = {}
            return []
        sizes = [sum(map(len, fields.values())) for each in found.values() for _, fields in each]
        self._entry_bytes = max(1.0, sum(sizes) / len(sizes))
        entries = [
            Entry(stream, entry_id, self._decoded(stream, fields))
            for stream in self._streams
            for entry_id, fields in found.get(stream, [])
        ]
        self._emptied = len(found[entries[0].stream]) < count
        self._after.update((entry.stream, entry.id.decode()) for entry in entries)
        self._per_entry = max(1.0, sum(len(entry.outcomes) for entry in entries) / len(entries))
        return entries

    def _await(self, after: dict[Any, Any], count: int) -> Any:
        """Read as soon as there is something; nothing when it takes too long."""
        if self._wait is None:
            self._wait = Wait(self._redis)
            self._ender = threading.Thread(
                target=self._wait.end_when_asked, args=(self._stop,), name="stop", daemon=True
            )
            self._ender.start()
        seconds = min(WAIT_SECONDS, self._word.due_in())
        with self._wait.begin() as redis:
            block = None if self._stop else max(1, int(seconds * 1000))
            return redis.xread(after, count=count, block=block)

    def _end_waiting(self) -> None:
        if self._wait is not None:
            self._wait.close()
        if self._ender is not None and self._stop:
            self._ender.join(_ENDER_SECONDS)  # it uses the connections that whoever called `run` may close next

    def _decoded(self, stream: str, fields: dict[bytes, bytes]) -> list[Outcome]:
        try:
            return outcomes.decode(fields[outcomes.FIELD.encode()])
        except (KeyError, msgspec.DecodeError):
            self._log.error("An entry of the stream %s is not an outcome and was passed over", stream)
            return []

    def _settle(self, entries: list[Entry]) -> None:
        """Write what was read, and close the group when it is full or holds the last there is of its first level."""
        first = min((entry.stream for entry in self._open.entries), key=self._streams.index) if self._open else None
        if first is not None and all(entry.stream != first for entry in entries):
            self._close()
        part: list[Entry] = []
        size = 0
        if self._pending is not None and self._pending.syncing.done():
            self._finish()  # what is durable needn't wait for the next group
        for entry in entries:
            part.append(entry)
            size += len(entry.outcomes)
            if size >= READ:
                self._write(part)
                part, size = [], 0
        if part:
            self._write(part)
        if self._emptied:
            self._close()

    def _write(self, entries: list[Entry]) -> None:
        """Let entries join the group that is being written."""
        try:
            written = self._commit.write(
                self._baselines.looked_at(each) for entry in entries for each in entry.outcomes
            )
        except Trouble as trouble:
            self._finish_all()
            self._settle_singly(entries, trouble)
            return
        if self._open:
            entries, written = self._open.entries + entries, self._open.written.and_then(written)
        self._open = Open(entries, written)
        if written.documents >= GROUP or written.bytes >= GROUP_BYTES:
            self._close()

    def _close(self) -> None:
        """Have the group that was written made durable; meanwhile the group before it is finished."""
        if self._open is None:
            return
        group, written = self._open
        self._open = None
        try:
            self._finish()
        except BaseException:
            self._commit.undo(written)
            raise
        self._pending = Pending(group, written, self._syncing.submit(self._commit.sync, written))

    def _finish_all(self) -> None:
        self._close()
        self._finish()

    def _finish(self) -> None:
        """Place the group that is being made durable, as soon as it is."""
        if self._pending is None:
            return
        group, written, syncing = self._pending
        self._pending = None
        try:
            syncing.result()
            committed = self._commit.place(written)
        except Trouble as trouble:
            self._commit.undo(written)
            self._settle_singly(group, trouble)
            return
        self._acknowledge(group, committed)

    def _settle_singly(self, group: Sequence[Entry], trouble: Trouble) -> None:
        """Commit a group that failed document by document, so that one bad place holds up no neighbour."""
        count = sum(len(entry.outcomes) for entry in group)
        if count == 1:
            raise trouble
        self._log.warning("%s Trying the %d documents one by one.", trouble, count)
        failed: Trouble | None = None
        any_done = False
        for entry in group:
            committed: list[Committed] = []
            whole = True
            for each in entry.outcomes:
                try:
                    committed += self._commit.group([each])
                except Trouble as again:
                    failed, whole = again, False
            any_done = any_done or bool(committed)
            self._acknowledge([entry] if whole else [], committed)
        if failed is not None:
            if not any_done:
                raise failed
            self._stuck = True
            self._log.error("%s The other documents go on.", failed)

    def _acknowledge(self, entries: Sequence[Entry], committed: list[Committed]) -> None:
        """Tell the ledger, and let go of the entries. Until this is through they are told again, which is harmless."""
        self._committed += len(committed)
        now = self._clock.now()
        committed = [each for each in committed if each.claim or not self._is_held_again(each)]
        by_stream: dict[str, list[bytes]] = {}
        for entry in entries:
            by_stream.setdefault(entry.stream, []).append(entry.id)
        by_status: dict[Status, list[Committed]] = {}
        for each in committed:
            by_status.setdefault(each.status, []).append(each)
        counts = Counter(producers.came(each.outcome, each.claim.source) for each in committed if each.claim)
        ends = counters.Ends()
        for each in committed:
            if each.claim:  # no late duplicate
                ends.add(each.outcome, each.status, now - each.claim.received_at)
        told = next(((entry.stream, entry.id) for entry in entries), None)
        while True:
            try:
                with self._redis.pipeline() as pipeline:
                    for status, group in by_status.items():
                        ledger.move(pipeline, status, now, [(each.outcome.id, _end(each)) for each in group])
                    counters.ended(pipeline, now, ends, told)
                    for stream, entry_ids in by_stream.items():
                        pipeline.xdel(stream, *entry_ids)
                    producers.count(pipeline, now, counts, self._keep_days)
                    moved = pipeline.execute()
                for (status, group), count in zip(by_status.items(), moved, strict=False):
                    if count < len(group):  # Redis was emptied in between, or they were final before
                        whole = [(each.outcome.id, {**_end(each), **_origin(each)}) for each in group]
                        ledger.move(self._redis, status, now, whole)
            except RedisError as error:
                if self._stop.wait(self._outage.failed(error)):
                    raise
            else:
                break
        self._at("collector.acknowledged")
        for each in committed:
            self._report(each)

    def _is_held_again(self, late: Committed) -> bool:
        """Whether the document of a late duplicate has been claimed anew, to be tried again: then this is no news."""
        return any(os.path.lexists(self._claims.path(group, late.outcome.id)) for group in self._claims.groups())

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
                done.route.priority,
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


def _by_stream(answer: object) -> Iterator[tuple[str, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """The entries of each stream in an XREAD answer, which redis-py gives as a list or (RESP3) as a dict."""
    pairs = answer.items() if isinstance(answer, dict) else answer
    assert isinstance(pairs, Iterable)
    for name, entries in pairs:
        nested = entries[0] if entries and isinstance(entries[0], list) else entries
        yield name.decode(), nested


def _end(committed: Committed) -> ledger.Fields:
    """What is new to the ledger at a document's end."""
    done = committed.outcome
    fields: dict[str, str | int] = {"attempts": done.attempts}
    if done.kind == "done":
        fields["quality"] = done.read.quality if done.read else Quality.VALID.value
    if done.attempts:
        fields["started_at"] = int((done.completed_at - done.seconds) * 1000)
    if done.rq_job_id:
        fields["rq_job_id"] = done.rq_job_id
    if committed.status == Status.REJECTED or done.kind == "cancelled":
        fields |= {"code": done.code, "message": done.message[:500]}
    if committed.message:
        fields["message"] = committed.message
    return fields


def _origin(committed: Committed) -> ledger.Fields:
    """What the ledger was told of a document before, for one that has lost it since."""
    done, claim = committed.outcome, committed.claim
    if claim is None:
        return {}
    return {
        "priority": done.route.priority,
        "queue": done.route.queue,
        "handler": done.route.handler,
        "source": claim.source,
        "size": claim.seen.size,
        "received_at": int(claim.received_at * 1000),
        "reasons": done.route.reasons,
        **{name: known for name in ("country", "industry", "language") if (known := getattr(done.route, name))},
    }


def _quiet(done: Outcome) -> str:
    """The reason for the log. A handler's own message may quote the document, so it stays in the error report."""
    own = done.code in ("handler_rejected", "handler_failed")
    return "see the error report" if own else done.message.rstrip(".")


def main() -> None:
    """Entry point of `llm-collector`."""
    config, log = start(
        "collector", arguments.read("llm-collector", "Put results and refused documents where they belong.").config
    )
    notify = Notify.of(os.environ, SystemClock())
    stop = Stop()
    stop.on_signals()
    redis = connect(os.environ.get(URL_VARIABLE, config.queue.redis_url), kind=FinishingRedis)
    try:
        log.info("Collecting into %s", config.directories.output_directory)
        Collector(config, redis, SystemClock(), stop, log, faults.from_environment(os.environ), notify).run()
        log.info("Collector has stopped")
    finally:
        redis.close()


if __name__ == "__main__":
    main()
