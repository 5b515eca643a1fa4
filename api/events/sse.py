"""`GET /events`: what a follower reads, as Server-Sent Events (HTML Living Standard, section 9.2)."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llm_scheduler.api.access.access_control import Refusal, access_control, identify
from llm_scheduler.api.endpoints.jobs import Id
from llm_scheduler.api.events.followers import RETRY_SECONDS, Follower, Followers, followers_of
from llm_scheduler.api.events.streams import KINDS, PATTERN, Kind, StreamEntry, StreamPosition, parse
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.http.query import refuse
from llm_scheduler.jobs.document import Status

HEADER = "Last-Event-ID"

_CHUNK_BYTES = 64 << 10
_ID_TEXT = "an event's id, to continue after it (the header Last-Event-ID comes first)"
_SECONDS_TEXT = "End after so long; 0: once everything that is there already is sent. Default: no end."


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events, from which position, and for how long."""

    kinds: Annotated[
        Kind | None,
        Meta(description="Only one kind. Default: both; only transitions if `job` or `status` is given."),
    ] = None
    job: Annotated[Id | None, Meta(description="Only transitions of this job.")] = None
    status: Annotated[Status | None, Meta(description="Only transitions to this status.")] = None
    last_event_id: Annotated[str, Meta(pattern=PATTERN, description=_ID_TEXT)] | None = None
    seconds: Annotated[float, Meta(ge=0, le=3600, description=_SECONDS_TEXT)] | None = None

    def content(self, entry: StreamEntry) -> dict[str, Any] | None:
        """The content of `entry` for this query; None if it was not asked for."""
        if entry.stream is None:
            return entry.content
        kinds = [self.kinds] if self.kinds else KINDS[:1] if self.job or self.status else KINDS
        if KINDS[entry.stream] not in kinds:
            return None
        if entry.kind != KINDS[0]:  # an event, or a gap
            return entry.content
        if self.status is not None and entry.content["status"] is not self.status:
            return None
        if self.job is None:
            return entry.content
        return {**entry.content, "ids": [self.job]} if entry.is_about(self.job) else None


class _FollowerResponse(EventSourceResponse):
    """The answer to one follower, which is closed however the answer ends."""

    def __init__(self, follower: Follower, content: AsyncIterator[bytes], send_seconds: float) -> None:
        super().__init__(content, ping=0, send_timeout=send_seconds)
        self._follower = follower

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            pass  # the client does not read any more: uvicorn closes the connection
        finally:
            await self._follower.close()


async def follow_events(request: Request, query: EventsQuery) -> Response:
    """Transitions of jobs and events, as they happen, as Server-Sent Events.

    Each has an id. A client that sends the last id it has received, as the header `Last-Event-ID` (browsers do so by
    themselves) or as `last_event_id`, gets every later one once. Without an id it gets what happens from now on. See
    docs/events.md.
    """
    since = _since(request, query)
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    followers = followers_of(request)
    follower = await followers.follow(since)
    return _FollowerResponse(follower, _chunks(request, query, followers, follower), followers.bounds.send)


def _since(request: Request, query: EventsQuery) -> StreamPosition | None:
    # The header comes first: a browser that comes back repeats its first address with the old `last_event_id`.
    text = request.headers.get(HEADER) or query.last_event_id
    if not text:
        return None
    if not re.search(PATTERN, text):
        refuse(HEADER, text, "the id of an event, as in 1795581184000-0.1795581183000-2")
    return parse(text)


async def _chunks(
    request: Request, query: EventsQuery, followers: Followers, follower: Follower
) -> AsyncIterator[bytes]:
    """The text of the answer. Its last id is the follower's position, even if entries were filtered out."""
    now, ping = asyncio.get_running_loop().time, followers.bounds.ping
    ends_at = now() + query.seconds if query.seconds is not None else float("inf")
    silent_since = checked_at = now()
    sent = follower.position
    yield b"retry: %d\n%b: following\n\n" % (RETRY_SECONDS * 1000, _id_line(sent))
    while not followers.stopping:
        entries = await follower.read(max(0.0, min(ends_at, silent_since + ping) - now()))
        for chunk, position in _texts(query, entries):
            yield chunk
            silent_since, sent = now(), position
        if now() >= ends_at and not follower.has_more:
            break
        if now() - checked_at >= ping:
            checked_at = now()
            if isinstance(identify(request.scope, access_control(request.scope)), Refusal):
                yield b": the key or token of this connection is not good any more\n\n"
                return
        if now() - silent_since >= ping:
            yield b": ping\n%b\n" % (_id_line(follower.position) if follower.position != sent else b"")
            silent_since, sent = now(), follower.position
    if follower.position != sent:
        yield _id_line(follower.position) + b"\n"
    if followers.stopping:
        yield b": the server is stopping\n\n"


def _texts(query: EventsQuery, entries: Sequence[StreamEntry]) -> Iterator[tuple[bytes, StreamPosition | None]]:
    """Events in chunks of some `_CHUNK_BYTES`, each with the position behind it."""
    parts: list[bytes] = []
    size = 0
    position = None
    for entry in entries:
        content = query.content(entry)
        if content is None:
            continue
        position = entry.after
        data = msgspec.json.encode(content)
        parts.append(b"%bevent: %b\ndata: %b\n\n" % (_id_line(position), entry.kind.encode(), data))
        size += len(parts[-1])
        if size >= _CHUNK_BYTES:
            yield b"".join(parts), position
            parts, size = [], 0
    if parts:
        yield b"".join(parts), position


def _id_line(position: StreamPosition | None) -> bytes:
    return b"" if position is None else b"id: %b\n" % str(position).encode()


_ANSWERS = {200: Answer(None, "Events, until the client or the server ends it.", media_type="text/event-stream")}
OPERATIONS = (Operation("GET", "/events", follow_events, "jobs", _ANSWERS, query=EventsQuery, problems=(503,)),)
