"""A blocking command to Redis that another thread can end: a loop may wait long, and still stop at once."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.process.termination import Stop

END_AGAIN_SECONDS = 0.05  # `end` misses a wait that is about to begin, so it is repeated this soon
_LONG_SECONDS = 3600.0


class Wait:
    """One thread's connection for blocking commands. Raises what `AWAY` lists when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        """`redis` provides the connection, and sends the commands that end the wait."""
        self._redis = redis
        self.is_waiting = False  # or just about to wait
        self._closed = threading.Event()
        self.client: Redis = redis.client()  # type: ignore[no-untyped-call]
        self._read_id(self.client.connection)
        # The connection reconnects by itself, and then has another id.
        self.client.connection.register_connect_callback(self._read_id)

    def _read_id(self, connection: Any) -> None:
        self._id: int | None = None
        with contextlib.suppress(ResponseError):  # the access rules forbid it: the wait ends when its time is over
            connection.send_command("CLIENT", "ID")
            self._id = int(connection.read_response())

    @contextlib.contextmanager
    def begin(self) -> Iterator[Redis]:
        """For a block with one blocking command. Check in it whether to wait: others set a flag, then call `end`."""
        self.is_waiting = True
        try:
            connection: Any = self.client.connection
            if not connection.is_connected:
                connection.connect()  # the client's own reconnection does not ask the sentinels for the master
            yield self.client
        finally:
            self.is_waiting = False

    def end(self) -> None:
        """End the wait as if its time were over. A job that comes at that moment comes whole, or stays in its queue."""
        client = self._id
        if self.is_waiting and client is not None:
            with contextlib.suppress(*AWAY):
                self._redis.client_unblock(client)

    def end_on_stop(self, stop: Stop) -> None:
        """Once `stop` is set, end this wait and every later one until `close`. For a thread of its own."""
        while not stop.wait(_LONG_SECONDS):
            pass
        while not self._closed.wait(END_AGAIN_SECONDS):
            self.end()

    def close(self) -> None:
        self._closed.set()
        self.client.close()
