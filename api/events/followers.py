"""The followers of one process: each reads the streams on a connection of its own, from its own position.

A follower reads only after its client has taken what it was sent. So a slow client delays nobody else and costs no
memory: it reads on later, or gets a gap if Redis has trimmed the streams meanwhile.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from anyio import CancelScope
from redis import Redis
from starlette.requests import Request

from llm_scheduler.api.events.async_redis import async_client
from llm_scheduler.api.events.streams import REDIS, StreamEntry, StreamPosition, Streams
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.jobs.process.connection import AWAY, explain
from llm_scheduler.jobs.store.keys import keys_of

RETRY_SECONDS = 2  # after which a client comes back
_BUSY_RETRY_SECONDS = 10
_RECONNECT_SECONDS = 1.0
_ANSWER_SECONDS = 2.0  # for Redis to answer, beyond the time that a read waits


@dataclass(frozen=True)
class Bounds:
    """Limits of following; times in seconds."""

    followers: int = 400  # at once; each takes two descriptors
    block: float = 5.0  # how long one read waits; an emptied Redis is noticed after that
    pause: float = 0.05  # between two reads: what comes in it is sent together
    pause_each: float = 0.001  # the pause is at least this long for each follower, which bounds the cost of many
    ping: float = 15.0  # of silence, after which a client is sent a comment
    send: float = 30.0  # for a client to take what is sent


class Follower:
    """Reads both streams from `position` on: each entry once. Made by `Followers.follow`; to be closed."""

    def __init__(self, followers: "Followers", streams: Streams, position: StreamPosition | None) -> None:
        self.position = position  # None: Redis could not be asked for the ends of the streams yet
        self.trouble: str | None = None  # why Redis can't be followed now
        self.has_more = False  # whether the next read finds entries at once
        self._followers = followers
        self._streams = streams
        self._scope = CancelScope()
        self._unsent: list[StreamEntry] = []  # to be returned by the next read
        self._pauses = False

    async def begin(self) -> None:
        """Start at the end of the streams, if there is no position yet."""
        if self.position is not None:
            return
        try:
            self.position = await self._streams.ends()
        except AWAY as error:
            self.position = self._followers.position
            self._unsent = self._fail(error)

    async def read(self, seconds: float) -> Sequence[StreamEntry]:
        """The next entries; waits `seconds` for them at most. Empty if there are none, or the server stops.

        An entry of the kind REDIS reports the first failure to reach Redis, and another that it is back.
        """
        if self._followers.stopping:
            return []
        with CancelScope() as self._scope:
            return await self._read(seconds)
        return []

    def interrupt(self) -> None:
        """End the present read at once; it returns nothing."""
        self._scope.cancel()

    async def close(self) -> None:
        self._followers.leave(self)
        await self._streams.close()

    async def _read(self, seconds: float) -> Sequence[StreamEntry]:
        bounds = self._followers.bounds
        if self._unsent:
            entries, self._unsent = self._unsent, []
            return entries
        if self.trouble is not None:
            await asyncio.sleep(min(seconds, _RECONNECT_SECONDS, bounds.block))
        elif self._pauses:
            await asyncio.sleep(min(seconds, max(bounds.pause, bounds.pause_each * len(self._followers))))
        try:
            if self.position is None:
                self.position = await self._streams.ends()
            # After an outage it does not wait for entries: the client has to know that Redis is back.
            page = await self._streams.read(self.position, 0.0 if self.trouble else min(seconds, bounds.block))
        except AWAY as error:
            self.has_more = False
            return self._fail(error)
        entries = page.entries
        if self.trouble is not None:
            entries = [self._redis_entry(True, "Redis is back."), *entries]
            self.trouble = None
        self.position, self.has_more = page.position, page.more
        self._pauses = bool(entries) and not page.more
        if not page.more:
            self._followers.position = page.position
        return entries

    def _fail(self, error: Exception) -> list[StreamEntry]:
        """Note that Redis can't be followed. Returns the entry that says so, if that is new."""
        is_new = self.trouble is None
        self.trouble = explain(error)
        words = f"Redis is unreachable ({self.trouble}). It is asked again and again, and nothing will be skipped."
        return [self._redis_entry(False, words)] if is_new else []

    def _redis_entry(self, reachable: bool, message: str) -> StreamEntry:
        return StreamEntry(REDIS, {"reachable": reachable, "message": message}, self.position)


class Followers:
    """All followers of one process. Its methods belong to the event loop."""

    def __init__(self, redis: Redis, bounds: Bounds = Bounds()) -> None:
        """The followers connect to the server that `redis` is connected to."""
        self.bounds = bounds
        self.stopping = False
        # The end of the streams as a follower last saw it: where a client begins that comes while Redis is away.
        self.position: StreamPosition | None = None
        self._redis = redis
        self._present: set[Follower] = set()

    def __len__(self) -> int:
        return len(self._present)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For the lifespan of an application. SIGTERM and SIGINT end all followers at once: uvicorn waits for their
        connections to end before it tells the application to stop."""
        loop = asyncio.get_running_loop()
        self.stopping = False
        try:
            with _before_signal_handlers(lambda: loop.is_closed() or loop.call_soon_threadsafe(self.stop)):
                yield
        finally:
            self.stop()

    def stop(self) -> None:
        """End all followers."""
        self.stopping = True
        for follower in self._present:
            follower.interrupt()

    async def follow(self, since: StreamPosition | None = None) -> Follower:
        """A new follower, from `since` or from now on. Raises a 503 problem if there is no room for it."""
        if self.stopping:
            raise ProblemError(503, "The server is stopping.", retry_after=RETRY_SECONDS)
        if len(self) >= self.bounds.followers:
            words = f"{len(self)} clients follow this process of the API, which is its limit. Try again later."
            raise ProblemError(503, words, retry_after=_BUSY_RETRY_SECONDS)
        client = async_client(self._redis, self.bounds.block + _ANSWER_SECONDS)
        follower = Follower(self, Streams(client, keys_of(self._redis)), since)
        self._present.add(follower)
        try:
            await follower.begin()
        except BaseException:
            await follower.close()
            raise
        return follower

    def leave(self, follower: Follower) -> None:
        self._present.discard(follower)
        if not self._present:
            self.position = None


def followers_of(request: Request) -> Followers:
    """The followers of the application that serves `request`."""
    found = request.app.state.followers
    assert isinstance(found, Followers)
    return found


@contextlib.contextmanager
def _before_signal_handlers(call: Callable[[], object]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call `call`, then their present handler. Does nothing outside the main thread, where
    Python allows no change of handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    present = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    handlers = {each: handler for each, handler in present.items() if callable(handler)}

    def handle(signum: int, frame: FrameType | None) -> None:
        call()
        handlers[signal.Signals(signum)](signum, frame)

    for each in handlers:
        signal.signal(each, handle)
    try:
        yield
    finally:
        for each, handler in handlers.items():
            if signal.getsignal(each) is handle:
                signal.signal(each, handler)
