"""How the system is: whether Redis answers, since when it doesn't, and how many files are safe on disk."""

import contextlib
import os
import threading
from collections.abc import Iterator

import msgspec
from redis import ConnectionPool, Redis

from llm_scheduler.api.state.checks import Check, checks
from llm_scheduler.ingest.finder import is_ignored
from llm_scheduler.ingest.spool.claims import MANIFEST
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config, Directories
from llm_scheduler.jobs.document import is_id
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.store import ledger, server_state

MAX_COUNTED = 100_000
COUNT_KEPT_SECONDS = 2.0
CHECKS_KEPT_SECONDS = 1.0
PATIENCE_SECONDS = 2.0
OUTAGE_FILE = "redis-outage.json"  # written by ingest, see ingest/outage_note.py


class RedisHealth(msgspec.Struct, frozen=True):
    reachable: bool
    unreachable_seconds: float | None


class Health(msgspec.Struct, frozen=True):
    """`status` is ok or degraded, `message` says it to a person.

    `files_on_disk` counts the documents in the watch folders and those claimed, up to `MAX_COUNTED`.
    `counts` holds documents by status and priority; None while Redis is away.
    """

    status: str
    message: str
    redis: RedisHealth
    files_on_disk: int
    counts: dict[str, dict[str, int]] | None


class _Outage(msgspec.Struct):
    since: float


def look(config: Config, redis: Redis, clock: Clock) -> Health:
    """Look once. Never raises because of Redis or a folder being away, and doesn't wait long for either."""
    impatient = made_impatient(redis)
    try:
        return Lookout(config, impatient, clock).look()
    finally:
        impatient.close()


def made_impatient(redis: Redis) -> Redis:
    """A client to the same place that waits `PATIENCE_SECONDS` for an answer, for who blocks a person meanwhile."""
    pool = redis.connection_pool
    settings = {
        **pool.connection_kwargs,
        "socket_timeout": PATIENCE_SECONDS,
        "socket_connect_timeout": PATIENCE_SECONDS,
    }
    own = ConnectionPool(connection_class=pool.connection_class, **settings)
    return Redis.from_pool(own)


class Lookout:
    """Looks again and again: remembers since when Redis is away, and counts files no more often than is worth it."""

    def __init__(self, config: Config, redis: Redis, clock: Clock) -> None:
        self._config = config
        self._redis = redis
        self._clock = clock
        self._away_since: float | None = None
        self._lock = threading.Lock()  # one request counts, the others wait for its number
        self._counted_at = float("-inf")
        self._waiting = 0
        self._claimed = 0
        self._checking = threading.Lock()
        self._checked_at = float("-inf")
        self._checks: list[Check] = []

    def look(self) -> Health:
        waiting, claimed = self.files()
        files = min(waiting + claimed, MAX_COUNTED)
        held = f"{MAX_COUNTED}+ files" if files >= MAX_COUNTED else f"{files} file{'' if files == 1 else 's'}"
        try:
            counts = ledger.counts(self._redis, self._config.queue.priority_levels)
            trouble = server_state.look(self._redis).trouble()
        except AWAY:
            seconds = self.failed()
            return Health(
                "degraded",
                f"Redis unreachable for {seconds:.0f} s; {held} safe on disk",
                RedisHealth(False, round(seconds, 1)),
                files,
                None,
            )
        self.answered()
        if trouble:
            return Health("degraded", f"{trouble} {held} safe on disk", RedisHealth(True, None), files, counts)
        return Health("ok", f"Redis answers; {held} waiting or in work", RedisHealth(True, None), files, counts)

    def failed(self) -> float:
        """Note that Redis did not answer. Returns for how long it has been away, as far as anyone knows."""
        now = self._clock.now()
        if self._away_since is None:
            self._away_since = now
        noted = _noted_outage(self._config.directories.temp_directory)
        since = self._away_since if noted is None else min(noted, self._away_since)
        return max(0.0, now - since)

    def answered(self) -> None:
        """Note that Redis did answer."""
        self._away_since = None

    def files(self) -> tuple[int, int]:
        """(documents in the watch folders, documents claimed), each counted up to a bound and at most 2 s old."""
        with self._lock:
            now = self._clock.monotonic()
            if now - self._counted_at >= COUNT_KEPT_SECONDS:
                # The bound on the watch folders leaves room to notice ten times the largest queue.
                most = max(MAX_COUNTED, 10 * self._config.queue.max_queue_size + 1)
                self._waiting = _count(_waiting(self._config.directories), most)
                self._claimed = _count(_claimed(self._config.directories.temp_directory), MAX_COUNTED)
                self._counted_at = now
            return self._waiting, self._claimed

    def checks(self) -> list[Check]:
        """What has to be well for documents to be worked on, at most 1 s old, since anybody may ask at any time."""
        with self._checking:
            now = self._clock.monotonic()
            if now - self._checked_at >= CHECKS_KEPT_SECONDS:
                self._checks = checks(self._config, self._redis)
                self._checked_at = self._clock.monotonic()
            return self._checks


def _count(found: Iterator[object], most: int) -> int:
    number = 0
    for _ in found:
        number += 1
        if number >= most:
            break
    return number


def _waiting(directories: Directories) -> Iterator[object]:
    pending = list(directories.watch)
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if is_ignored(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry


def _claimed(temp: str) -> Iterator[object]:
    with contextlib.suppress(OSError), os.scandir(temp) as groups:
        for group in groups:
            if not (is_id(group.name) and group.is_dir(follow_symlinks=False)):
                continue
            with contextlib.suppress(OSError), os.scandir(group.path) as entries:
                yield from (entry for entry in entries if entry.name != MANIFEST)


def _noted_outage(temp: str) -> float | None:
    try:
        with open(os.path.join(temp, OUTAGE_FILE), "rb") as file:
            return msgspec.json.decode(file.read(1000), type=_Outage).since
    except (OSError, msgspec.DecodeError):
        return None
