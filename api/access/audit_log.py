"""The audit log: calls that changed something, and refused calls. It is in the log, and in Redis for `GET /audit`.

No call waits for it: a thread writes calls to Redis in groups. While Redis is unreachable they are in the log only. The
line in the log is always written first.
"""

import logging
import threading
from collections import deque
from typing import Any, Literal, NamedTuple

import msgspec
from redis import Redis

from llm_scheduler.api.access.roles import Role
from llm_scheduler.jobs.process.connection import AWAY, explain
from llm_scheduler.jobs.store.keys import keys_of

KEPT = 100_000
GROUP_SECONDS = 0.25
MAX_WAITING = 10_000  # calls that are not in Redis yet; beyond this the oldest are in the log only

_FIELD = b"e"
_AT_ONCE = 500
_MAX_SCANNED = 20_000  # entries that one filtered request reads; its cursor continues from there

_log = logging.getLogger("llm.audit")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call: who made it, from where, and how it ended. `who`, `role` and `how` are None if the caller was not
    authenticated. `facts` are details from the endpoint, such as job ids; never a body, a query or a key.
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


class CallPage(NamedTuple):
    """Calls with their ids, newest first, and the cursor of the next page."""

    calls: list[tuple[str, Call]]
    cursor: str | None


class AuditLog:
    """Writes the audit log."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: deque[Call] = deque(maxlen=MAX_WAITING)
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._starting = threading.Lock()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._away = False
        _log.setLevel(logging.INFO)  # independent of logging.level, which is about the system

    def record(self, call: Call) -> None:
        """Record a call. Never waits for Redis."""
        _log_line(call)
        self._waiting.append(call)
        self._wake.set()
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write the waiting calls. Returns once they are written, or when Redis is unreachable."""
        with self._writing:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
                try:
                    _write(self._redis, group)
                except AWAY as error:
                    if not self._away:
                        self._away = True
                        text = "GET /audit will lack calls, which this log has: Redis is unreachable (%s)."
                        _log.warning(text, explain(error))
                    return
                self._away = False

    def close(self) -> None:
        """Write the waiting calls, and end the thread."""
        self._ending.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wake.wait()
            self._ending.wait(GROUP_SECONDS)  # further calls share the round trip
            self._wake.clear()
            self.flush()


def read_calls(
    redis: Redis, *, who: str | None, method: str | None, status: int | None, limit: int, cursor: str | None
) -> CallPage:
    """Calls before `cursor`, newest first. A page with fewer than `limit` calls may have a cursor: there may be more.

    Raises RedisError.
    """
    filtered = any(each is not None for each in (who, method, status))
    step = _AT_ONCE if filtered else limit
    calls: list[tuple[str, Call]] = []
    for _ in range(max(1, _MAX_SCANNED // step)):
        found: Any = redis.xrevrange(keys_of(redis).audit, max=f"({cursor}" if cursor else "+", count=step)
        for entry_id, fields in found:
            cursor = entry_id.decode()
            try:
                call = msgspec.json.decode((fields or {}).get(_FIELD, b""), type=Call)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # an entry in an unknown format
            if who in (None, call.who) and method in (None, call.method) and status in (None, call.status):
                calls.append((cursor, call))
                if len(calls) == limit:
                    return CallPage(calls, cursor)
        if len(found) < step:
            return CallPage(calls, None)
    return CallPage(calls, cursor)


def _write(redis: Redis, group: list[Call]) -> None:
    pipeline = redis.pipeline(transaction=False)
    for call in group:
        entry = msgspec.json.encode(call, enc_hook=str)
        pipeline.xadd(keys_of(redis).audit, {_FIELD: entry}, maxlen=KEPT, approximate=True)
    pipeline.execute()


def _log_line(call: Call) -> None:
    name = f"{call.who} ({call.role})" if call.who else "an unauthenticated caller"
    facts = msgspec.json.encode(call.facts, enc_hook=str).decode() if call.facts else ""
    _log.info(
        "%s %s %d by %s from %s %s",
        *(call.method, call.path, call.status, name, call.address or "a unix socket", facts[:500]),
        extra=msgspec.structs.asdict(call),
    )
