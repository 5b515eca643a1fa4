"""Waiting in Redis for work, in a way that another thread can end: so one may wait long, and stop at once."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.process.startup import Stop

PROD_SECONDS = 0.05  # a wait that is about to begin is not there yet to be ended: it is tried again so soon
_LONG_SECONDS = 3600.0


class Wait:
    """One thread's connection for commands that block. Raises what `AWAY` lists where Redis is away."""

    def __init__(self, redis: Redis) -> None:
        """`redis` lends the connection, and ends the wait."""
        self._redis = redis
        self._waits = False
        self._closed = threading.Event()
        self.client: Redis = redis.client()  # type: ignore[no-untyped-call]
        self._learn_id(self.client.connection)
        # It connects anew by itself, and is another to the server then.
        self.client.connection.register_connect_callback(self._learn_id)

    _id: int | None = None

    def _learn_id(self, connection: Any) -> None:
        self._id = None
        with contextlib.suppress(ResponseError):  # by its access rules: then the wait ends when its time is over
            connection.send_command("CLIENT", "ID")
            self._id = int(connection.read_response())

    @property
    def goes_on(self) -> bool:
        """Whether the thread waits, or is just about to."""
        return self._waits

    @contextlib.contextmanager
    def begin(self) -> Iterator[Redis]:
        """For a block with one blocking command. Whether to wait at all has to be looked at inside of it: who wants
        the wait to end says so first, and ends it then."""
        self._waits = True
        try:
            connection: Any = self.client.connection
            if not connection.is_connected:
                connection.connect()  # the client's own way to connect anew doesn't ask the sentinels for the master
            yield self.client
        finally:
            self._waits = False

    def end(self) -> None:
        """End the wait as if its time were over; a job that comes at that moment comes whole, or stays where it was."""
        client = self._id
        if self._waits and client is not None:
            with contextlib.suppress(*AWAY):
                self._redis.client_unblock(client)

    def end_when_asked(self, stop: Stop) -> None:
        """Once `stop` is asked for, end this wait and every later one until `close`. For a thread of its own."""
        while not stop.wait(_LONG_SECONDS):
            pass
        while not self._closed.wait(PROD_SECONDS):
            self.end()

    def close(self) -> None:
        self._closed.set()
        self.client.close()
