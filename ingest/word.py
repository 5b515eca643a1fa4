"""What a daemon says of itself in Redis, for `llmctl status`: alive, and doing what."""

import os
import socket

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from jobs.clock import Clock

EVERY_SECONDS = 2.0
BELIEVED_SECONDS = 10


class Word:
    """The key `llm:process:<role>`. It runs out by itself when the daemon stops renewing it."""

    def __init__(self, redis: Redis, role: str, clock: Clock) -> None:
        self._redis = redis
        self._key = f"llm:process:{role}"
        self._clock = clock
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
        word = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "state": state,
            "message": message,
            "at": self._clock.now(),
        }
        self._redis.set(self._key, msgspec.json.encode(word), ex=BELIEVED_SECONDS)

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
