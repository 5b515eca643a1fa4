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
from llm_scheduler.jobs.process.outage import Outage
from llm_scheduler.jobs.process.runtime import Runtime, daemon_runtime
from llm_scheduler.jobs.sealing import seal_of_originals
from llm_scheduler.jobs.store.full_redis import FinishingRedis
from llm_scheduler.jobs.store.keys import keys_of

GROUP = 512  # documents that share one sync, at most, and the bytes of their results
GROUP_BYTES = 32 * 1024 * 1024
WAIT_SECONDS = 5.0  # for outcomes, at most
_RETRY_SECONDS = 1.0  # until a failed commit is tried again


class OutcomeGroup(NamedTuple):
    """Outcomes that are committed together. The group grows while they come faster than they can be synced."""

    entries: list[OutcomeEntry]
    written: WrittenGroup


class Collector:
    """The daemon: `run` is its loop. While a thread syncs one group, the next is written.

    A group is closed when it is full, or when it has all outcomes of its most urgent level: an urgent document does not
    wait for others.
    """

    def __init__(self, runtime: Runtime, at: faults.FaultPoint = faults.no_faults) -> None:
        config, redis = runtime.config, runtime.redis
        self._runtime = runtime
        self._folders = Folders.of(config.directories)
        claims = Claims(self._folders.temp)
        self._commit = Commit(self._folders, claims, at, seal=seal_of_originals(config.security))
        self._item_counts = ItemCounts(config.intake.min_items)
        self._outage = Outage(runtime.log, report=runtime.notify.alive)
        self._acknowledger = Acknowledger(runtime, claims, self._outage, at)
        self._streams = [keys_of(redis).outcomes(level) for level in config.queue.priority_levels]
        self._reader = OutcomeReader(redis, self._streams, runtime.stop, runtime.log)
        self._access = SpoolAccess(runtime, "collector", self._folders)
        self._open: OutcomeGroup | None = None
        self._syncing: tuple[OutcomeGroup, Future[None]] | None = None
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
                    self._runtime.notify.alive(
                        f"Collects: {self._acknowledger.committed:,} documents committed since its start"
                    )
                    if not entries and self._runtime.stop:
                        return
                    self._settle(entries)
                    self._access.trouble = ""
                except FolderError as error:
                    self._reader.restart()
                    self._access.wait(error)
                except RedisError as error:
                    self._runtime.stop.wait(self._outage.failed(error))
                if self._runtime.stop and (self._access.trouble or self._outage.seconds):
                    return  # the outcomes stay in the streams
        finally:
            self._runtime.notify.stopping()
            self._reader.close()
            self._sync_thread.shutdown()
            self._access.close()

    def _read(self) -> list[OutcomeEntry]:
        """The next outcomes; it waits for them only while no group is unfinished. If there are none, finish all."""
        heartbeat = self._access.heartbeat
        if heartbeat.is_due():
            heartbeat.send("working", "")
            self._access.check_restart()
        is_idle = not (self._open or self._syncing or self._has_failed or self._runtime.stop)
        try:
            entries = self._reader.read(min(WAIT_SECONDS, heartbeat.due_in()) if is_idle else 0.0)
        except RedisError:
            self._finish_all()  # written results can be placed; only the ledger has to wait
            raise
        if not entries:
            self._finish_all()
            if self._has_failed:
                self._has_failed = False
                self._runtime.stop.wait(_RETRY_SECONDS)
            self._reader.restart()
        return entries

    def _settle(self, entries: list[OutcomeEntry]) -> None:
        """Write outcomes to the open group, and close it when it need not wait for more."""
        first = min((entry.stream for entry in self._open.entries), key=self._streams.index) if self._open else None
        if first is not None and all(entry.stream != first for entry in entries):
            self._close()
        part: list[OutcomeEntry] = []
        size = 0
        if self._syncing is not None and self._syncing[1].done():
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
        self._open = OutcomeGroup(entries, written)
        if len(written.documents) >= GROUP or written.bytes >= GROUP_BYTES:
            self._close()

    def _close(self) -> None:
        """Begin to sync the open group. The group before it is finished first."""
        if self._open is None:
            return
        closed, self._open = self._open, None
        try:
            self._finish()
        except BaseException:
            self._commit.undo(closed.written)
            raise
        self._syncing = closed, self._sync_thread.submit(self._commit.sync, closed.written)

    def _finish_all(self) -> None:
        self._close()
        self._finish()

    def _finish(self) -> None:
        """Wait for the group that is being synced, place its files and record it."""
        if self._syncing is None:
            return
        (entries, written), sync = self._syncing
        self._syncing = None
        try:
            sync.result()
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
        self._runtime.log.warning("%s Trying the %d documents one by one.", error, count)
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
            self._runtime.log.error("%s The other documents go on.", failure)


def main() -> None:
    purpose = "Put results and rejected documents where they belong."
    with daemon_runtime("collector", purpose, FinishingRedis) as runtime:
        runtime.log.info("Collecting into %s", runtime.config.directories.output_directory)
        Collector(runtime, faults.from_environment(os.environ)).run()


if __name__ == "__main__":
    main()
