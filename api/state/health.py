"""Health: whether Redis answers, since when it has not, and how many files are safe on disk."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec
from redis import ConnectionPool, Redis

from llm_scheduler.api.state.checks import Check, checks
from llm_scheduler.ingest.outage_note import OutageNote
from llm_scheduler.ingest.spool.claims import Claims, claim_counts
from llm_scheduler.ingest.spool.watch_files import is_ignored
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.store import ledger, server_state
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.load import read_load

MAX_COUNTED = 100_000
COUNT_KEPT_SECONDS = 2.0
CHECKS_KEPT_SECONDS = 1.0
LOAD_KEPT_SECONDS = 0.5
MAX_ANSWER_SECONDS = 2.0


class RedisHealth(msgspec.Struct, frozen=True):
    reachable: bool
    unreachable_seconds: float | None


class Health(msgspec.Struct, frozen=True):
    """`status` is ok or degraded; `message` is a sentence for people.

    `files_on_disk` counts the documents in the watch folders and the claimed ones, up to 100,000. `counts` holds
    documents by status and priority; null while Redis is unreachable.
    """

    status: str
    message: str
    redis: RedisHealth
    files_on_disk: int
    counts: dict[str, dict[str, int]] | None


def read_health(config: Config, redis: Redis, clock: Clock) -> Health:
    """Read the health once, within a few seconds. Never raises because Redis or a folder is unreachable."""
    with short_timeout_client(redis) as own:
        return HealthMonitor(config, own, clock).health()


def short_timeout_client(redis: Redis) -> Redis:
    """A client for the same server that waits at most `MAX_ANSWER_SECONDS` for an answer: a person waits for it."""
    pool = redis.connection_pool
    settings = {
        **pool.connection_kwargs,
        "socket_timeout": MAX_ANSWER_SECONDS,
        "socket_connect_timeout": MAX_ANSWER_SECONDS,
    }
    own: Any = ConnectionPool(connection_class=pool.connection_class, **settings)
    own.key_prefix = keys_of(redis).prefix
    return Redis.from_pool(own)


class HealthMonitor:
    """Reads the health again and again. It remembers since when Redis is unreachable, and caches counts and checks."""

    def __init__(self, config: Config, redis: Redis, clock: Clock) -> None:
        self._config = config
        self._redis = redis
        self._clock = clock
        self._unreachable_since: float | None = None
        self._counting = threading.Lock()  # one request counts, the others wait for its result
        self._counted_at = float("-inf")
        self._counts = (0, 0)
        self._checking = threading.Lock()
        self._checked_at = float("-inf")
        self._checks: list[Check] = []
        self._load_read_at = float("-inf")
        self._in_flight = 0

    def health(self) -> Health:
        number = min(sum(self.file_counts()), MAX_COUNTED)
        held = f"{MAX_COUNTED}+ files" if number >= MAX_COUNTED else f"{number} file{'' if number == 1 else 's'}"
        try:
            counts = ledger.counts(self._redis, self._config.queue.priority_levels)
            trouble = server_state.read_state(self._redis).trouble()
        except AWAY:
            seconds = self.redis_failed()
            message = f"Redis unreachable for {seconds:.0f} s; {held} safe on disk"
            return Health("degraded", message, RedisHealth(False, round(seconds, 1)), number, None)
        self.redis_answered()
        if trouble:
            return Health("degraded", f"{trouble} {held} safe on disk", RedisHealth(True, None), number, counts)
        return Health("ok", f"Redis answers; {held} waiting or in work", RedisHealth(True, None), number, counts)

    def redis_failed(self) -> float:
        """Note that Redis did not answer. Returns for how many seconds it has been unreachable, as far as known."""
        now = self._clock.now()
        if self._unreachable_since is None:
            self._unreachable_since = now
        noted = OutageNote(self._config.directories.temp_directory).read()
        since = self._unreachable_since if noted is None else min(noted, self._unreachable_since)
        return max(0.0, now - since)

    def redis_answered(self) -> None:
        """Note that Redis answered."""
        self._unreachable_since = None

    def file_counts(self) -> tuple[int, int]:
        """(files in the watch folders, claimed documents), each counted up to a bound and at most 2 s old."""
        with self._counting:
            now = self._clock.monotonic()
            if now - self._counted_at >= COUNT_KEPT_SECONDS:
                # The bound on the watch folders is above the number at which POST /jobs answers 429.
                bound = max(MAX_COUNTED, 10 * self._config.queue.max_queue_size + 1)
                waiting = sum(1 for _ in islice(_waiting(self._config.directories.watch), bound))
                self._counts = waiting, _claimed(self._config.directories.temp_directory)
                self._counted_at = now
            return self._counts

    def documents_in_flight(self) -> int:
        """How many documents are in flight, at most 0.5 s old. Raises RedisError."""
        now = self._clock.monotonic()
        if now - self._load_read_at >= LOAD_KEPT_SECONDS:
            self._in_flight = read_load(self._redis, self._config.queue.priority_levels).documents
            self._load_read_at = now
        return self._in_flight

    def checks(self) -> list[Check]:
        """What must be well so that documents are worked on. At most 1 s old, because anybody may ask at any time."""
        with self._checking:
            now = self._clock.monotonic()
            if now - self._checked_at >= CHECKS_KEPT_SECONDS:
                self._checks = checks(self._config, self._redis)
                self._checked_at = self._clock.monotonic()
            return self._checks


def _waiting(folders: Sequence[str]) -> Iterator[os.DirEntry[str]]:
    """Every regular file that may be a document. A folder that can't be read has none."""
    pending = list(folders)
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if is_ignored(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry


def _claimed(temp: str) -> int:
    count = 0
    with contextlib.suppress(OSError):
        for size in claim_counts(Claims(temp)):
            count += size
            if count >= MAX_COUNTED:
                break
    return min(count, MAX_COUNTED)
