"""A daemon's heartbeat in Redis: that it is alive, what it does, and the state of its host."""

import contextlib
import os
import socket

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.process.vitals import HostVitals, Vitals

_EVERY_SECONDS = 2.0
_EXPIRE_SECONDS = 10


class HeartbeatRecord(msgspec.Struct, frozen=True):
    """A daemon's last heartbeat, at epoch seconds `at`. `state` is working or waiting; `message` says why."""

    pid: int = 0
    host: str = ""
    state: str = ""
    message: str = ""
    at: float = 0.0
    version: str = ""
    vitals: HostVitals | None = None


class Heartbeat:
    """Writes the heartbeat to `key`, which expires when the daemon stops renewing it."""

    def __init__(self, redis: Redis, key: str, clock: Clock, spool: str | None = None) -> None:
        """`spool`: a folder of the spool, if the daemon works on it; the record then has its free space."""
        self._redis = redis
        self._key = key
        self._clock = clock
        self._vitals = Vitals(clock, spool)
        self._next = float("-inf")

    def is_due(self) -> bool:
        return self._clock.monotonic() >= self._next

    def due_in(self) -> float:
        """Seconds until the next heartbeat is due."""
        return max(0.0, self._next - self._clock.monotonic())

    def send(self, state: str, message: str) -> None:
        """Write `state` (working or waiting) and the reason. Raises RedisError."""
        self._next = self._clock.monotonic() + _EVERY_SECONDS
        record = HeartbeatRecord(
            pid=os.getpid(),
            host=socket.gethostname(),
            state=state,
            message=message,
            at=self._clock.now(),
            version=__version__,
            vitals=self._vitals.host(),
        )
        self._redis.set(self._key, msgspec.json.encode(record), ex=_EXPIRE_SECONDS)

    def try_send(self, state: str, message: str) -> None:
        """The same, for a daemon that has another trouble already: nothing is raised if Redis is away too."""
        with contextlib.suppress(RedisError):
            self.send(state, message)

    def remove(self) -> None:
        """Delete the key: the daemon stops."""
        with contextlib.suppress(RedisError):
            self._redis.delete(self._key)
