"""What a daemon says of itself in Redis: alive, and doing what, and how its host is."""

import os
import socket

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.process.vitals import HostVitals, Vitals

EVERY_SECONDS = 2.0
BELIEVED_SECONDS = 10


class Said(msgspec.Struct, frozen=True):
    """What a daemon said last, at epoch seconds `at`. `state` is working or waiting, and `message` says why."""

    pid: int = 0
    host: str = ""
    state: str = ""
    message: str = ""
    at: float = 0.0
    version: str = ""
    vitals: HostVitals | None = None


def key(role: str) -> str:
    return f"llm:process:{role}"


class Word:
    """The key `llm:process:<role>`. It runs out by itself when the daemon stops renewing it."""

    def __init__(self, redis: Redis, role: str, clock: Clock, spool: str | None = None) -> None:
        """`spool`: a folder of the spool, for a daemon that works on it."""
        self._redis = redis
        self._key = key(role)
        self._clock = clock
        self._vitals = Vitals(clock, spool)
        self._next = float("-inf")

    def is_due(self) -> bool:
        """Whether it is time to say something again."""
        return self._clock.monotonic() >= self._next

    def due_in(self) -> float:
        """Seconds until then."""
        return max(0.0, self._next - self._clock.monotonic())

    def say(self, state: str, message: str) -> None:
        """Say `state` (working or waiting) and why. Raises RedisError."""
        self._next = self._clock.monotonic() + EVERY_SECONDS
        said = Said(
            pid=os.getpid(),
            host=socket.gethostname(),
            state=state,
            message=message,
            at=self._clock.now(),
            version=__version__,
            vitals=self._vitals.host(),
        )
        self._redis.set(self._key, msgspec.json.encode(said), ex=BELIEVED_SECONDS)

    def try_say(self, state: str, message: str) -> None:
        """The same for a daemon in trouble, to which Redis being away as well is no news."""
        try:
            self.say(state, message)
        except RedisError:
            pass

    def take_back(self) -> None:
        """The daemon stops."""
        try:
            self._redis.delete(self._key)
        except RedisError:
            pass
