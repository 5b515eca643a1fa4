"""Following what happens: one reader of the streams for all who follow, and `GET /events`, which is for anybody.

The reader is a thread with the client that everything else uses, so that it finds its server as they do: over a unix
socket, TLS, or by asking the sentinels. It lives while somebody follows. What it reads is kept for a while in one list
that all followers share, each at a place of its own: a follower costs no memory for being slow, and one that falls out
of the list is told so and sent away. It comes back with the id of what it heard last, and is given the rest from Redis.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, NamedTuple

import msgspec
from anyio import CapacityLimiter, to_thread
from msgspec import Meta
from redis import Redis
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llm_scheduler.api.access.access_control import gatehouse
from llm_scheduler.api.access.credentials import Refusal, identify
from llm_scheduler.api.endpoints.jobs import Id
from llm_scheduler.api.events.streams import (
    GAP,
    KINDS,
    PATTERN,
    REDIS,
    Kind,
    Page,
    Position,
    Told,
    TransitionShown,
    ends,
    parse,
    read,
)
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.api.http.query import refuse
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.process.blocking_wait import PROD_SECONDS, Wait
from llm_scheduler.jobs.process.connection import AWAY, explain

RETRY_SECONDS = 2  # after which a client comes back, as it is told at the beginning
HEADER = "Last-Event-ID"
LAGGING = "lagging"

_FIRST_WORD_SECONDS = 2.5  # for the reader to find the ends of the streams before a follower is answered
_END_SECONDS = 5.0  # for the reader to end; it waits for an answer of Redis for 2 s at most
_AT_ONCE = 100  # things that a follower is given at a time
_CHUNK_BYTES = 64 << 10
_CATCHING_UP = 4  # threads in which followers who came back read on


@dataclass(frozen=True)
class Bounds:
    """How much is kept for slow followers, and the times of following in seconds."""

    entries: int = 4000
    bytes: int = 8 << 20
    block: float = 1.0  # how long one read waits; less than a client waits for an answer
    pause: float = 0.05  # between two reads: what comes in it is told together
    linger: float = 5.0  # how long the reader stays when the last has left
    ping: float = 15.0  # of silence, after which a follower is sent a comment
    send: float = 30.0  # for a client to take what is sent


class Lagging(Exception):
    """A follower was so slow that what comes next for it is not kept any more."""


class RedisShown(msgspec.Struct, frozen=True):
    """Whether Redis can be followed at the moment. Nothing is skipped because it couldn't."""

    reachable: bool
    message: str


BACK = msgspec.json.encode(RedisShown(True, "Redis is back."))


class Words(msgspec.Struct, frozen=True):
    message: str


class Heard(NamedTuple):
    """What a follower was told, and where it stands now."""

    told: Told
    position: Position | None


class Following:
    """Whoever follows the streams in one process. All its methods belong to the event loop."""

    def __init__(self, redis: Redis, bounds: Bounds = Bounds()) -> None:
        """`redis` waits at least `bounds.block` and a second for an answer."""
        self.bounds = bounds
        self.stopping = False
        self.trouble: str | None = None  # why Redis can't be followed now
        self.gaps = 0
        self.position: Position | None = None  # of the reader; None until it has reached Redis
        self._redis = redis
        self._kept: list[Told] = []
        self._first = 0  # the number of the first that is kept
        self._bytes = 0
        # Whoever stands at `base`, or farther, gets all the rest from number `_joint` on.
        self.base: Position | None = None
        self._joint = 0
        self._followers = 0
        self._reader: _Reader | None = None
        self._readers: set[_Reader] = set()  # those that are about to end, too
        self._idle: asyncio.TimerHandle | None = None
        self._bell = asyncio.Event()
        self._limiter = CapacityLimiter(_CATCHING_UP)

    # For the application

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For the lifespan of an application. When the server is told to stop, whoever follows is let go at once:
        uvicorn waits for them, and says nothing to an application before."""
        loop = asyncio.get_running_loop()
        self.stopping = False
        try:
            with _in_front_of_signals(lambda: loop.is_closed() or loop.call_soon_threadsafe(self.stop)):
                yield
        finally:
            self.stop()
            for reader in list(self._readers):
                reader.end()
                await to_thread.run_sync(reader.join)

    def stop(self) -> None:
        """Let go of everybody."""
        self.stopping = True
        self._ring()

    # For followers

    async def follow(self, since: Position | None = None) -> "Follower":
        """Follow from `since`, or from now on: what comes after this is not missed. To be closed. Raises a 503."""
        if self.stopping:
            raise ProblemError(503, "The server is stopping.", retry_after=RETRY_SECONDS)
        self._begin()
        follower = Follower(self, since)
        try:
            if since is None and self.position is None and self.trouble is None:
                await self.bell(_FIRST_WORD_SECONDS)
            if since is None:
                follower.skip()
        except BaseException:
            follower.close()
            raise
        return follower

    async def bell(self, seconds: float) -> bool:
        """Wait for something to be told, or for the end. Whether that was, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()
            return True
        return False

    def rest(self) -> Sequence[Told]:
        """What whoever stands at `base` has not been told of the streams."""
        start = max(self._joint, self._first) - self._first
        return [told for told in self._kept[start:] if told.place is not None]

    def end(self) -> int:
        """The number of what will be told next."""
        return self._first + len(self._kept)

    def since(self, number: int) -> Sequence[Told]:
        """The next few from `number` on. Raises Lagging."""
        if number < self._first:
            raise Lagging
        start = number - self._first
        return self._kept[start : start + _AT_ONCE]

    async def page(self, since: Position) -> Page:
        """The same from Redis. Raises what `AWAY` lists."""
        return await to_thread.run_sync(read, self._redis, since, limiter=self._limiter)

    def leave(self) -> None:
        """One follower less. When it was the last, the reader goes on for a moment: there may be another."""
        self._followers -= 1
        if self._followers == 0:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self.bounds.linger, self._end_if_idle)

    def _begin(self) -> None:
        self._followers += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._reader is None:
            self._first = self._joint = self.end()
            self._kept, self._bytes = [], 0
            self.position = self.base = self.trouble = None
            self._reader = _Reader(self, self._redis, asyncio.get_running_loop())
            self._readers.add(self._reader)
            self._reader.start()

    def _end_if_idle(self) -> None:
        self._idle = None
        if self._followers == 0 and self._reader is not None:
            self._reader.end()
            self._reader = None

    # For the reader

    def begun(self, reader: "_Reader", position: Position) -> None:
        """The reader has found the ends of the streams, and reads on from there."""
        if reader is self._reader:
            self.base = self.position = position
            self._is_back()
            self._ring()

    def take(self, reader: "_Reader", page: Page) -> None:
        """The reader has read a page."""
        if reader is not self._reader:
            return
        self._is_back()
        for told in page.told:
            self._keep(told)
        self.position = page.position  # beyond what could not be read as anything
        if page.told:
            self._forget()
            self._ring()

    def lost(self, reader: "_Reader", words: str) -> None:
        """The reader can't reach Redis."""
        if reader is self._reader and self.trouble is None:
            self.trouble = words
            self._keep(self.away(words))
            self._ring()

    def ended(self, reader: "_Reader") -> None:
        self._readers.discard(reader)

    def away(self, trouble: str) -> Told:
        """The word that Redis can't be followed."""
        words = f"Redis is unreachable ({trouble}). It is asked again and again, and nothing will be skipped."
        return Told(REDIS, msgspec.json.encode(RedisShown(False, words)), self.position)

    def back(self) -> Told:
        """The word that it can be again."""
        return Told(REDIS, BACK, self.position)

    def _is_back(self) -> None:
        if self.trouble is not None:
            self.trouble = None
            self._keep(self.back())
            self._ring()

    def _keep(self, told: Told) -> None:
        self._kept.append(told)
        self._bytes += len(told.body)
        if told.kind == GAP:
            # Who comes back with a place before this has to be told of the gap, too.
            self.gaps += 1
            self.base = told.after
            self._joint = self.end()

    def _forget(self) -> None:
        """Keep within the bounds; a quarter at a time, since the beginning of a list is dear to take away."""
        if len(self._kept) <= self.bounds.entries and self._bytes <= self.bounds.bytes:
            return
        gone = 0
        while gone < len(self._kept) and (
            len(self._kept) - gone > self.bounds.entries * 3 // 4 or self._bytes > self.bounds.bytes * 3 // 4
        ):
            self._bytes -= len(self._kept[gone].body)
            gone += 1
        last = self._kept[gone - 1]
        del self._kept[:gone]
        self._first += gone
        if self._first > self._joint:
            self.base = last.after

    def _ring(self) -> None:
        self._bell.set()
        self._bell = asyncio.Event()


class Follower:
    """One who follows: hears all from its position on, each once. Made by `Following.follow`."""

    def __init__(self, following: Following, since: Position | None) -> None:
        self.position = since
        self._following = following
        self._number: int | None = None  # of what is heard next; None while Redis has to be asked for it
        self._away = False  # whether it has to hear that Redis is away, or has heard so from here
        self._knows_away = False  # whether the last word of Redis that it was told is that it is away
        self._closed = False

    @property
    def is_behind(self) -> bool:
        """Whether there may be more at once, from the time before it came."""
        return self._number is None

    def skip(self) -> None:
        """Go on from now, whatever was not heard."""
        self.position = self._following.position
        self._number = self._following.end()
        self._away = self._following.trouble is not None

    async def hear(self, seconds: float) -> Sequence[Heard]:
        """What comes next, as soon as there is anything; empty when nothing has for `seconds`, or it is nothing new
        for this one, or everybody is let go. Raises Lagging."""
        if self._number is None:
            return await self._catch_up(seconds)
        following = self._following
        if self._away:  # when it came; when it ends everybody is told
            self._away = False
            if following.trouble is not None:
                return self._news(following.away(following.trouble))
        if self._number == following.end() and seconds > 0 and not following.stopping:
            await following.bell(seconds)
        told = following.since(self._number)
        self._number += len(told)
        return list(self._heard(told))

    async def _catch_up(self, seconds: float) -> Sequence[Heard]:
        following = self._following
        assert self.position is not None
        gaps = following.gaps
        try:
            page = await following.page(self.position)
        except AWAY as error:
            if not self._away:
                self._away = True
                return self._news(following.away(explain(error)))
            await following.bell(min(seconds, following.bounds.block))
            return []
        heard: list[Heard] = []
        if self._away:
            self._away = False
            heard += self._news(following.back())
        heard += self._heard(page.told)
        self.position = page.position
        if page.more:
            return heard
        # What was read here reaches what is kept for all, and no gap is between the two.
        if following.base is not None and page.position.reaches(following.base) and gaps == following.gaps:
            heard += self._heard(following.rest())
            self._number = following.end()
        elif not heard:
            await following.bell(min(seconds, following.bounds.pause))
        return heard

    def _heard(self, told: Sequence[Told]) -> Iterator[Heard]:
        for each in told:
            here, after = self.position, each.after
            if after is not None:
                if here is None or each.kind == GAP:
                    self.position = after
                elif each.place is not None and after[each.place] <= here[each.place]:
                    continue  # it was heard from Redis
                else:
                    self.position = here.joined(after)
            if each.kind != REDIS or self._news(each):
                yield Heard(each, self.position)

    def _news(self, told: Told) -> list[Heard]:
        """A word of Redis, unless it saw that for itself before the reader for all did."""
        is_away = told.body != BACK
        if is_away == self._knows_away:
            return []
        self._knows_away = is_away
        return [Heard(told, self.position)]

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._following.leave()


class _Reader:
    """The thread that reads the streams, from where they end when it starts."""

    def __init__(self, following: Following, redis: Redis, loop: asyncio.AbstractEventLoop) -> None:
        self._following = following
        self._redis = redis
        self._loop = loop
        self._over = threading.Event()
        self._wait: Wait | None = None
        self._position: Position | None = None
        self._thread = threading.Thread(target=self._run, name="llm-following", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Let it end within a second."""
        self._over.set()

    def join(self) -> None:
        """Wait until it has ended, which is at once where Redis answers."""
        self._thread.join(PROD_SECONDS)
        for _ in range(int(_END_SECONDS / PROD_SECONDS)):
            if not self._thread.is_alive():
                return
            if self._wait is not None:
                self._wait.end()
            self._thread.join(PROD_SECONDS)

    def _run(self) -> None:
        tries = 0
        while not self._over.is_set():
            try:
                self._look()
                tries = 0
            except AWAY as error:
                self._tell(self._following.lost, explain(error))
                self._over.wait(min(2.0, 0.1 * 2**tries))
                tries = min(tries + 1, 10)
        if self._wait is not None:
            self._wait.close()
        self._tell(self._following.ended)

    def _look(self) -> None:
        if self._wait is None:
            self._wait = Wait(self._redis)
        if self._position is None:
            self._position = ends(self._redis)
            self._tell(self._following.begun, self._position)
        with self._wait.begin() as client:
            if self._over.is_set():
                return
            page = read(self._redis, self._position, self._following.bounds.block, blocking=client)
        self._position = page.position
        taken = threading.Event()
        self._tell(self._following.take, page)
        self._tell(lambda _: taken.set())
        # A loop that is busy is not given more than one page to take.
        while not taken.wait(1.0) and not self._over.is_set():
            pass
        if page.told:
            self._over.wait(self._following.bounds.pause)

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, self, *arguments)


@contextlib.contextmanager
def _in_front_of_signals(call: Callable[[], object]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call this, and then whoever handles them. In the main thread: no other may ask for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}

    def heard(signum: int, frame: FrameType | None) -> None:
        call()
        handler = handlers[signal.Signals(signum)]
        if callable(handler):
            handler(signum, frame)

    for each, handler in handlers.items():
        if callable(handler):
            signal.signal(each, heard)
    try:
        yield
    finally:
        for each, handler in handlers.items():
            if signal.getsignal(each) is heard:
                signal.signal(each, handler)


# GET /events


class EventsAsked(msgspec.Struct, frozen=True, kw_only=True):
    """Which events, from where on, and for how long."""

    kinds: Annotated[
        Kind | None,
        Meta(description="One kind only. Without it both; but transitions alone where `job` or `status` is given."),
    ] = None
    job: Annotated[Id | None, Meta(description="Transitions of this job only.")] = None
    status: Annotated[Status | None, Meta(description="Transitions to this status only.")] = None
    last_event_id: (
        Annotated[
            str,
            Meta(
                pattern=PATTERN, description="an event's id, to go on behind it (the header Last-Event-ID comes first)"
            ),
        ]
        | None
    ) = None
    seconds: (
        Annotated[
            float,
            Meta(ge=0, le=3600, description="To stay for so long; 0: for what is there already. Without it: for ever."),
        ]
        | None
    ) = None

    def shown(self, told: Told) -> bytes | None:
        """The body of what was told as it was asked for; None when it wasn't."""
        if told.place is None:
            return told.body
        kind = KINDS[told.place]
        kinds = [self.kinds] if self.kinds else KINDS[:1] if self.job or self.status else KINDS
        if kind not in kinds:
            return None
        if told.kind != KINDS[0]:  # an event, or a gap
            return told.body
        if self.status is not None and told.status is not self.status:
            return None
        if self.job is None:
            return told.body
        if not told.is_about(self.job) or told.status is None:
            return None
        return msgspec.json.encode(TransitionShown(told.status, told.at, [self.job]))


class _Stream(EventSourceResponse):
    """The answer to one follower, who is let go however it ends."""

    def __init__(self, follower: Follower, content: AsyncIterator[bytes], send_seconds: float) -> None:
        super().__init__(content, ping=0, send_timeout=send_seconds)
        self._follower = follower

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            pass  # the client takes nothing any more: uvicorn closes the connection
        finally:
            self._follower.close()


def following(request: Request) -> Following:
    """The following of the application that serves `request`."""
    found = request.app.state.following
    assert isinstance(found, Following)
    return found


async def follow_events(request: Request, query: EventsAsked) -> Response:
    """What happens, as it happens: transitions of jobs and events, as Server-Sent Events.

    Each has an id. Who sends the last one it has heard as the header `Last-Event-ID` (browsers do so by themselves) or
    as `last_event_id` gets all that came after it, each once; anybody else what comes from now on. See docs/events.md.
    """
    since = _since(request, query)
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    everybody = following(request)
    follower = await everybody.follow(since)
    return _Stream(follower, _chunks(request, query, everybody, follower), everybody.bounds.send)


def _since(request: Request, query: EventsAsked) -> Position | None:
    # A client that comes back asks for the address it was given first, its old `last_event_id` and all.
    text = request.headers.get(HEADER) or query.last_event_id
    if not text:
        return None
    try:
        msgspec.convert(text, _EventId)
    except msgspec.ValidationError:
        refuse(HEADER, text, "the id of an event, as in 1795581184000-0.1795581183000-2")
    return parse(text)


_EventId = Annotated[str, Meta(pattern=PATTERN)]


async def _chunks(
    request: Request, query: EventsAsked, everybody: Following, follower: Follower
) -> AsyncIterator[bytes]:
    """The text of the stream. Whoever gets it all stands where the last id in it says, filtered out or not."""
    now, ping = asyncio.get_running_loop().time, everybody.bounds.ping
    over = now() + query.seconds if query.seconds is not None else float("inf")
    silent_since = checked_at = now()
    named = follower.position
    yield b"".join([b"retry: %d\n" % (RETRY_SECONDS * 1000), _id_line(named), b": following\n\n"])
    while not everybody.stopping:
        try:
            heard = await follower.hear(max(0.0, min(over, silent_since + ping) - now()))
        except Lagging:
            words = "This connection was too slow. Come back with the last id, and nothing is missed."
            yield _event(LAGGING, msgspec.json.encode(Words(words)), follower.position)
            return
        for chunk, position in _texts(query, heard):
            yield chunk
            silent_since, named = now(), position
        if now() >= over and not (heard and follower.is_behind):
            break
        if now() - checked_at >= ping:
            checked_at = now()
            if isinstance(identify(request.scope, gatehouse(request.scope)), Refusal):
                yield b": the key or token that this was begun with is not good any more\n\n"
                return
        if now() - silent_since >= ping:
            yield b": ping\n%b\n" % (_id_line(follower.position) if follower.position != named else b"")
            silent_since, named = now(), follower.position
    if follower.position != named:
        yield _id_line(follower.position) + b"\n"
    if everybody.stopping:
        yield b": the server is stopping\n\n"


def _texts(query: EventsAsked, heard: Sequence[Heard]) -> Iterator[tuple[bytes, Position | None]]:
    """Events in pieces that are neither many nor long, each with the place behind it."""
    parts: list[bytes] = []
    size = 0
    position = None
    for told, after in heard:
        body = query.shown(told)
        if body is None:
            continue
        position = after
        parts.append(_event(told.kind, body, after))
        size += len(parts[-1])
        if size >= _CHUNK_BYTES:
            yield b"".join(parts), position
            parts, size = [], 0
    if parts:
        yield b"".join(parts), position


def _event(kind: str, body: bytes, position: Position | None) -> bytes:
    return b"%bevent: %b\ndata: %b\n\n" % (_id_line(position), kind.encode(), body)


def _id_line(position: Position | None) -> bytes:
    return b"" if position is None else b"id: %b\n" % str(position).encode()


OPERATIONS = (
    Operation(
        method="GET",
        path="/events",
        endpoint=follow_events,
        tag="jobs",
        query=EventsAsked,
        answers={200: Answer(None, "Events, until one of the two ends it.", media_type="text/event-stream")},
        problems=(503,),
    ),
)
