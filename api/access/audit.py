"""The record of what callers changed and of who was turned away: in the log, and for `GET /audit` in Redis.

No call waits for it: entries are collected, and written together by a thread. While Redis is away they are in the log
only. The log's line is written first, and always.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec
from redis import Redis

from llm_scheduler.api.access.roles import Role
from llm_scheduler.jobs.process.connection import AWAY, explain

STREAM = "llm:audit"
KEPT = 100_000
GROUP_SECONDS = 0.25
MAX_WAITING = 10_000  # entries that Redis has not taken yet; beyond it the oldest are in the log alone

_FIELD = b"e"
_AT_ONCE = 500
_MAX_SCANNED = 20_000  # by one question with a filter; the answer's cursor goes on from there
_MAX_LOGGED = 500

_log = logging.getLogger("llm.audit")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call: who, what, from where, and what came of it. `who`, `role` and `how` are null where nobody was known.

    `facts` is what the endpoint says of it, as the ids of jobs. Never a body, a query or a key.
    """

    at: str
    who: str | None
    role: Role | None
    how: Literal["key", "token", "local"] | None
    address: str
    method: str
    path: str
    status: int
    seconds: float
    facts: dict[str, Any]


class Page(NamedTuple):
    """Calls with their ids, newest first, and what to ask on with."""

    calls: list[tuple[str, Call]]
    cursor: str | None


class Audit:
    """Keeps the record. `redis`: None keeps it in the log alone."""

    def __init__(self, redis: Redis | None) -> None:
        self._redis = redis
        self._waiting: deque[Call] = deque(maxlen=MAX_WAITING)
        self._roused = threading.Event()
        self._ending = threading.Event()
        self._starting = threading.Lock()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._away = False
        _log.setLevel(logging.INFO)  # whatever logging.level says: that is about the system, this about people

    def record(self, call: Call) -> None:
        """Note a call. Takes no time, whatever Redis does."""
        _log_line(call)
        if self._redis is None:
            return
        self._waiting.append(call)
        self._roused.set()
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write what waits, and return once it is written, or once Redis has turned out to be away."""
        with self._writing:
            while self._waiting and self._redis is not None:
                group = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
                try:
                    _write(self._redis, group)
                except AWAY as error:
                    self._failed(error)
                    return
                self._away = False

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._ending.set()
        self._roused.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _work(self) -> None:
        while not self._ending.is_set():
            self._roused.wait()
            self._ending.wait(GROUP_SECONDS)  # for more to come: one round trip carries them all
            self._roused.clear()
            self.flush()

    def _failed(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            _log.warning("GET /audit will lack calls, which this log has: Redis is away (%s).", explain(error))


def page(
    redis: Redis, *, who: str | None, method: str | None, status: int | None, limit: int, cursor: str | None
) -> Page:
    """Calls, newest first, from before `cursor` on. A page may be short of `limit`: the cursor tells of more."""
    filtered = any(each is not None for each in (who, method, status))
    step = _AT_ONCE if filtered else limit
    calls: list[tuple[str, Call]] = []
    for _ in range(max(1, _MAX_SCANNED // step)):
        found: Any = redis.xrevrange(STREAM, max=f"({cursor}" if cursor else "+", count=step)
        for entry_id, call in _decoded(found):
            cursor = entry_id
            if call is not None and _fits(call, who, method, status):
                calls.append((entry_id, call))
                if len(calls) == limit:
                    return Page(calls, cursor)
        if len(found) < step:
            return Page(calls, None)
    return Page(calls, cursor)


def _fits(call: Call, who: str | None, method: str | None, status: int | None) -> bool:
    return who in (None, call.who) and method in (None, call.method) and status in (None, call.status)


def _decoded(found: Any) -> Iterator[tuple[str, Call | None]]:
    """Entries with their ids; None for one that isn't ours to read."""
    for entry_id, fields in found:
        try:
            yield entry_id.decode(), msgspec.json.decode((fields or {}).get(_FIELD, b""), type=Call)
        except (msgspec.DecodeError, UnicodeDecodeError):
            yield entry_id.decode(), None


def _write(redis: Redis, group: list[Call]) -> None:
    pipeline = redis.pipeline(transaction=False)
    for call in group:
        entry = msgspec.json.encode(call, enc_hook=str)
        pipeline.xadd(STREAM, {_FIELD: entry}, maxlen=KEPT, approximate=True)
    pipeline.execute()


def _log_line(call: Call) -> None:
    name = f"{call.who} ({call.role})" if call.who else "nobody known"
    facts = msgspec.json.encode(call.facts, enc_hook=str).decode() if call.facts else ""
    _log.info(
        "%s %s %d by %s from %s %s",
        *(call.method, call.path, call.status, name, call.address or "a unix socket", facts[:_MAX_LOGGED]),
        extra=msgspec.structs.asdict(call),
    )
