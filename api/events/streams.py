"""The two streams that clients of `/events` follow, read as one: transitions of documents, and events.

A `StreamPosition` is a place in both streams. A reader that goes on from a position gets each later entry once. It gets
a gap first if a stream no longer reaches back to the position (it was trimmed, or Redis was emptied).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.store import alerts, transitions
from llm_scheduler.jobs.store.keys import Keys

PAGE_ENTRIES = 100  # of each stream, at most, in one page

Kind = Literal["transition", "event"]
KINDS: tuple[Kind, Kind] = ("transition", "event")
GAP, REDIS = "gap", "redis"
PATTERN = r"^[0-9]{1,18}-[0-9]{1,18}\.[0-9]{1,18}-[0-9]{1,18}$"

# An entry's id in Redis: milliseconds, and a number that counts the entries of the same millisecond.
EntryId = tuple[int, int]
_START: EntryId = (0, 0)


class StreamPosition(NamedTuple):
    """A place in both streams: behind the entry of each that has this id."""

    transitions: EntryId
    events: EntryId

    def __str__(self) -> str:
        return ".".join(map(_text, self))

    def moved(self, stream: int, to: EntryId) -> "StreamPosition":
        """The same position, but at `to` in one stream."""
        return self._replace(**{self._fields[stream]: to})


class StreamEntry(NamedTuple):
    """What a follower is sent: an entry of a stream, a gap in one, or the state of Redis.

    `content` is its JSON object. `after` is the follower's position once it has this; None: not known yet. `stream` is
    an index of `KINDS`; None: the entry belongs to neither stream.
    """

    kind: str
    content: dict[str, Any]
    after: StreamPosition | None
    stream: int | None = None

    def is_about(self, document_id: str) -> bool:
        """Whether this is a transition of that document."""
        return self.kind == KINDS[0] and document_id in self.content["ids"]


class Page(NamedTuple):
    """Entries, and the position behind them. `more`: a stream holds further entries."""

    entries: list[StreamEntry]
    position: StreamPosition
    more: bool


def parse(text: str) -> StreamPosition:
    """The position whose str() is `text`, which has to match PATTERN."""
    first, _, second = text.partition(".")
    return StreamPosition(_id(first), _id(second))


class Streams:
    """Reads the two streams of the spool whose key names are `keys`. All methods raise what `AWAY` lists."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._names = (keys.transitions, keys.events)

    async def close(self) -> None:
        await self._redis.aclose()

    async def ends(self) -> StreamPosition:
        """The present end of both streams."""
        return StreamPosition(*map(_end, await self.infos()))

    async def read(self, since: StreamPosition, seconds: float = 0.0) -> Page:
        """What came after `since`, in the order of time. If there is nothing, wait `seconds` for it."""
        answers, held = await self._read_after(since, seconds)
        entries: list[StreamEntry] = []
        position = since
        if not all(held):
            for stream, info in enumerate(await self.infos()):
                resume = None if held[stream] else _resume_at(since[stream], info)
                if resume is not None:
                    position = position.moved(stream, resume)
                    entries.append(_gap(stream, position))
        if entries:  # what came meanwhile belongs to the same gap
            answers, _ = await self._read_after(position)
        merged = [(_id(name.decode()), index, fields) for index, found in enumerate(answers) for name, fields in found]
        full = [_id(found[-1][0].decode()) for found in answers if len(found) == PAGE_ENTRIES]
        if full and not entries:
            # Later entries of the other stream come with the next page, so that all stay in the order of time.
            merged = [entry for entry in merged if entry[0] <= min(full)]
        for at, stream, fields in sorted(merged, key=lambda entry: entry[:2]):
            position = position.moved(stream, at)
            try:
                content = _event(fields) if stream else _transition(fields)
            except (ValueError, OverflowError, OSError):  # the last two: a time that rfc3339 can't write
                continue  # the entry can't be decoded
            entries.append(StreamEntry(KINDS[stream], content, position, stream))
        return Page(entries, position, bool(full))

    async def infos(self) -> Sequence[Mapping[str, Any] | None]:
        """What XINFO says about each stream; None: the stream does not exist."""
        pipeline = self._redis.pipeline(transaction=False)
        for name in self._names:
            pipeline.xinfo_stream(name)
        found: list[Mapping[str, Any] | None] = []
        for answer in await pipeline.execute(raise_on_error=False):
            if isinstance(answer, ResponseError) and "no such key" in str(answer):
                found.append(None)
            elif isinstance(answer, Exception):
                raise answer
            else:
                found.append(answer)
        return found

    async def _read_after(self, since: StreamPosition, seconds: float = 0.0) -> tuple[list[list[Any]], list[bool]]:
        """For each stream its next entries, and whether it holds the entry at `since`.

        The second is read after the wait: the streams may be emptied and filled again while it lasts.
        """
        places: dict[Any, Any] = {name: _text(at) for name, at in zip(self._names, since, strict=True)}
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xread(places, count=PAGE_ENTRIES, block=max(1, int(seconds * 1000)) if seconds else None)
        for name, at in places.items():
            pipeline.xrange(name, at, at)
        found, *held = await pipeline.execute()
        found = dict(found or {})
        return [found.get(name.encode(), []) for name in self._names], [bool(each) for each in held]


def _transition(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    moved = transitions.decode(fields)
    return {"status": moved.status, "at": rfc3339(moved.at), "ids": moved.ids}


def _event(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    event = alerts.decode(fields.get(alerts.FIELD.encode(), b""))
    return {"kind": event.kind, "at": rfc3339(event.at), "message": event.message, "details": event.details}


def _gap(stream: int, after: StreamPosition) -> StreamEntry:
    message = f"Some {KINDS[stream]}s before this are not there any more."
    if stream == 0:
        message += " List the jobs again (GET /jobs) to know how they are."
    return StreamEntry(GAP, {"kinds": [KINDS[stream]], "message": message}, after, stream)


def _resume_at(at: EntryId, info: Mapping[str, Any] | None) -> EntryId | None:
    """Where to go on in a stream that holds no entry `at`; None: there, since nothing is missing.

    Nothing is missing if `at` is the stream's end, or its start and no entry was removed. Otherwise the stream was
    trimmed, or Redis was emptied or lost its last second of writes.
    """
    end = _end(info)
    length = info["length"] if info else 0
    if at == end or (at == _START and info and info.get("entries-added", length) == length):
        return None
    return end if at > end or not length else at


def _end(info: Mapping[str, Any] | None) -> EntryId:
    return _id(info["last-generated-id"].decode()) if info else _START


def _id(text: str) -> EntryId:
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number)


def _text(at: EntryId) -> str:
    return f"{at[0]}-{at[1]}"
