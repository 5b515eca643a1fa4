"""`llm-collector`: reads outcomes from the streams, commits them to disk in groups, records them in the ledger."""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from redis.exceptions import RedisError

from llm_scheduler.ingest.acknowledger import Acknowledger
from llm_scheduler.ingest.item_count import ItemCounts
from llm_scheduler.ingest.outcome_reader import READ, OutcomeEntry, OutcomeReader
from llm_scheduler.ingest.spool import Claims, FolderError, Folders
from llm_scheduler.ingest.spool.commit import Commit, CommitResult, WrittenGroup
from llm_scheduler.ingest.spool_access import SpoolAccess
from llm_scheduler.jobs import faults
from llm_scheduler.jobs.faults import FaultPoint
from llm_scheduler.jobs.process.heartbeat import Heartbeat
from llm_scheduler.jobs.process.outage import Outage
from llm_scheduler.jobs.process.runtime import Runtime, daemon_runtime
from llm_scheduler.jobs.sealing import seal_of_originals
from llm_scheduler.jobs.store.commands import RestartWatch
from llm_scheduler.jobs.store.full_redis import FinishingRedis
from llm_scheduler.jobs.store.keys import keys_of

GROUP = 512  # documents that share one sync, at most, and the bytes of their results
GROUP_BYTES = 32 * 1024 * 1024
WAIT_SECONDS = 5.0  # for outcomes, at most
_RETRY_SECONDS = 1.0  # until a failed commit is tried again


class OpenGroup(NamedTuple):
    """A group that is being written. It grows while outcomes come faster than they can be synced."""

    entries: list[OutcomeEntry]
    written: WrittenGroup


class SyncingGroup(NamedTuple):
    """A written group that another thread is syncing."""

    entries: list[OutcomeEntry]
    written: WrittenGroup
    syncing: "Future[None]"


class Collector:
    """The daemon: `run` is its loop. While a thread syncs one group, the next is written.

    A group is closed when it is full, or when it has all outcomes of its most urgent level: an urgent document does not
    wait for others.
    """

    def __init__(self, runtime: Runtime, at: FaultPoint = faults.no_faults) -> None:
        config, redis = runtime.config, runtime.redis
        keys = keys_of(redis)
        self._redis = redis
        self._stop = runtime.stop
        self._log = runtime.log
        self._notify = runtime.notify
        self._folders = Folders.of(config.directories)
        claims = Claims(self._folders.temp)
        self._commit = Commit(self._folders, claims, at, seal=seal_of_originals(config.security))
        self._item_counts = ItemCounts(config.intake.min_items)
        self._outage = Outage(runtime.log, report=runtime.notify.alive)
        self._acknowledger = Acknowledger(runtime, claims, self._outage, at)
        self._streams = [keys.outcomes(level) for level in config.queue.priority_levels]
        self._reader = OutcomeReader(redis, self._streams, runtime.stop, runtime.log)
        self._heartbeat = Heartbeat(redis, keys.heartbeat("collector"), runtime.clock, self._folders.temp)
        self._access = SpoolAccess(runtime, "collector", self._folders, self._heartbeat)
        self._restart = RestartWatch()
        self._open: OpenGroup | None = None
        self._syncing: SyncingGroup | None = None
        self._sync_thread = ThreadPoolExecutor(1, "sync")
        self._has_failed = False  # a document could not be committed

    def run(self) -> None:
        """Work until told to stop and everything in the streams is committed."""
        try:
            while True:
                try:
                    if self._access.trouble or self._reader.at_start:
                        self._folders.prepare()
                    self._access.lock()
                    entries = self._read()
                    self._outage.over()
                    self._notify.alive(
                        f"Collects: {self._acknowledger.committed:,} documents committed since its start"
                    )
                    if not entries and self._stop:
                        return
                    self._settle(entries)
                    self._access.trouble = ""
                except FolderError as error:
                    self._reader.restart()
                    self._access.wait(str(error))
                except RedisError as error:
                    self._stop.wait(self._outage.failed(error))
                if self._stop and (self._access.trouble or self._outage.seconds):
                    return  # the outcomes stay in the streams
        finally:
            self._notify.stopping()
            self._reader.close()
            self._sync_thread.shutdown()
            self._access.release()
            self._heartbeat.remove()

    def _read(self) -> list[OutcomeEntry]:
        """The next outcomes; it waits for them only while no group is unfinished. If there are none, finish all."""
        if self._heartbeat.is_due():
            self._heartbeat.send("working", "")
            if self._restart.check(self._redis):
                self._log.info("A restart was asked for")
                self._stop.set()
        is_idle = not (self._open or self._syncing or self._has_failed or self._stop)
        try:
            entries = self._reader.read(min(WAIT_SECONDS, self._heartbeat.due_in()) if is_idle else 0.0)
        except RedisError:
            self._finish_all()  # written results can be placed; only the ledger has to wait
            raise
        if not entries:
            self._finish_all()
            if self._has_failed:
                self._has_failed = False
                self._stop.wait(_RETRY_SECONDS)
            self._reader.restart()
        return entries

    def _settle(self, entries: list[OutcomeEntry]) -> None:
        """Write outcomes to the open group, and close it when it need not wait for more."""
        first = min((entry.stream for entry in self._open.entries), key=self._streams.index) if self._open else None
        if first is not None and all(entry.stream != first for entry in entries):
            self._close()
        part: list[OutcomeEntry] = []
        size = 0
        if self._syncing is not None and self._syncing.syncing.done():
            self._finish()  # what is durable need not wait for the next group
        for entry in entries:
            part.append(entry)
            size += len(entry.outcomes)
            if size >= READ:
                self._write(part)
                part, size = [], 0
        if part:
            self._write(part)
        if self._reader.emptied:
            self._close()

    def _write(self, entries: list[OutcomeEntry]) -> None:
        """Write outcomes to the open group, and close it when it is full."""
        try:
            written = self._commit.write(
                self._item_counts.check(outcome) for entry in entries for outcome in entry.outcomes
            )
        except FolderError as error:
            self._finish_all()
            self._commit_singly(entries, error)
            return
        if self._open:
            entries, written = self._open.entries + entries, self._open.written.joined(written)
        self._open = OpenGroup(entries, written)
        if len(written.documents) >= GROUP or written.bytes >= GROUP_BYTES:
            self._close()

    def _close(self) -> None:
        """Begin to sync the open group. The group before it is finished first."""
        if self._open is None:
            return
        entries, written = self._open
        self._open = None
        try:
            self._finish()
        except BaseException:
            self._commit.undo(written)
            raise
        self._syncing = SyncingGroup(entries, written, self._sync_thread.submit(self._commit.sync, written))

    def _finish_all(self) -> None:
        self._close()
        self._finish()

    def _finish(self) -> None:
        """Wait for the group that is being synced, place its files and record it."""
        if self._syncing is None:
            return
        entries, written, syncing = self._syncing
        self._syncing = None
        try:
            syncing.result()
            committed = self._commit.place(written)
        except FolderError as error:
            self._commit.undo(written)
            self._commit_singly(entries, error)
            return
        self._acknowledger.run(entries, committed)

    def _commit_singly(self, entries: Sequence[OutcomeEntry], error: FolderError) -> None:
        """Commit the documents of a failed group one by one, so that one bad path does not block the others."""
        count = sum(len(entry.outcomes) for entry in entries)
        if count == 1:
            raise error
        self._log.warning("%s Trying the %d documents one by one.", error, count)
        failure: FolderError | None = None
        any_committed = False
        for entry in entries:
            committed: list[CommitResult] = []
            complete = True
            for outcome in entry.outcomes:
                try:
                    committed += self._commit.group([outcome])
                except FolderError as latest:
                    failure, complete = latest, False
            any_committed = any_committed or bool(committed)
            self._acknowledger.run([entry] if complete else [], committed)
        if failure is not None:
            if not any_committed:
                raise failure
            self._has_failed = True
            self._log.error("%s The other documents go on.", failure)


def main() -> None:
    """Entry point of `llm-collector`."""
    purpose = "Put results and rejected documents where they belong."
    with daemon_runtime("collector", purpose, FinishingRedis) as runtime:
        runtime.log.info("Collecting into %s", runtime.config.directories.output_directory)
        Collector(runtime, faults.from_environment(os.environ)).run()


if __name__ == "__main__":
    main()
