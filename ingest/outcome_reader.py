"""Reading outcomes from the streams, the oldest of each level, the first level's first."""

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from redis import Redis

from llm_scheduler.jobs.process.blocking_wait import Wait
from llm_scheduler.jobs.process.termination import Stop
from llm_scheduler.jobs.store import outcomes
from llm_scheduler.jobs.store.outcomes import Outcome

READ = 128  # documents read together: an urgent one waits behind no more than these
READ_BYTES = 32 * 1024 * 1024
_JOIN_SECONDS = 2.0  # longer than a command takes, unless Redis hangs


class OutcomeEntry(NamedTuple):
    """A stream entry and its outcomes."""

    stream: str
    id: bytes
    outcomes: list[Outcome]


class OutcomeReader:
    """Reads each stream in order. `emptied`: the last read returned all entries of the first level that had any."""

    def __init__(self, redis: Redis, streams: Sequence[str], stop: Stop, log: logging.Logger) -> None:
        self.emptied = True
        self._redis = redis
        self._streams = streams
        self._stop = stop
        self._log = log
        self._wait: Wait | None = None
        self._stop_thread: threading.Thread | None = None
        self._after: dict[str, str] = {}  # the last entry read, by stream
        # Averages of the last read, from which the size of the next one follows. The first one is small.
        self._entry_bytes = 1024 * 1024.0
        self._entry_documents = 1.0
        self._busy_streams = 1

    @property
    def at_start(self) -> bool:
        """Whether the next read begins with the oldest entries."""
        return not self._after

    def restart(self) -> None:
        """Read again from the oldest entries that were not deleted."""
        self._after = {}

    def read(self, wait_seconds: float = 0.0) -> list[OutcomeEntry]:
        """The next entries; if there are none, wait up to `wait_seconds` or until asked to stop. Raises RedisError."""
        count = round(READ / self._entry_documents / self._busy_streams)
        count = max(1, min(READ, count, int(READ_BYTES / self._entry_bytes)))
        after: dict[Any, Any] = {stream: self._after.get(stream, "0") for stream in self._streams}
        answer = self._wait_for(after, count, wait_seconds) if wait_seconds else self._redis.xread(after, count=count)
        found = dict(_by_stream(answer or ()))
        self._busy_streams = max(1, len(found))
        if not found:
            return []
        sizes = [sum(map(len, fields.values())) for each in found.values() for _, fields in each]
        entries = [
            OutcomeEntry(stream, entry_id, self._decode(stream, fields))
            for stream in self._streams
            for entry_id, fields in found.get(stream, [])
        ]
        self._entry_bytes = max(1.0, sum(sizes) / len(sizes))
        self._entry_documents = max(1.0, sum(len(entry.outcomes) for entry in entries) / len(entries))
        self.emptied = len(found[entries[0].stream]) < count
        self._after.update((entry.stream, entry.id.decode()) for entry in entries)
        return entries

    def close(self) -> None:
        if self._wait is not None:
            self._wait.close()
        if self._stop_thread is not None and self._stop:
            self._stop_thread.join(_JOIN_SECONDS)  # it uses connections that the caller may close next

    def _wait_for(self, after: dict[Any, Any], count: int, seconds: float) -> Any:
        if self._wait is None:
            self._wait = Wait(self._redis)
            self._stop_thread = threading.Thread(
                target=self._wait.end_on_stop, args=(self._stop,), name="stop", daemon=True
            )
            self._stop_thread.start()
        with self._wait.begin() as redis:
            block = None if self._stop else max(1, int(seconds * 1000))
            return redis.xread(after, count=count, block=block)

    def _decode(self, stream: str, fields: dict[bytes, bytes]) -> list[Outcome]:
        try:
            return outcomes.decode(fields[outcomes.FIELD.encode()])
        except (KeyError, msgspec.DecodeError):
            self._log.error("An entry of the stream %s is not an outcome. It was removed.", stream)
            return []


def _by_stream(answer: Any) -> Iterator[tuple[str, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """The entries of each stream in an answer to XREAD, which redis-py returns as a list or (RESP3) as a dict."""
    for name, entries in dict(answer).items():
        nested = entries[0] if entries and isinstance(entries[0], list) else entries
        yield name.decode(), nested
