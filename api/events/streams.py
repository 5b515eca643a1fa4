"""The two streams that the API follows, read as one: the transitions of documents, and the events.

A place in both is a `Position`. Reading on from one, a reader gets all that came after it, each once; where the streams
don't reach back to it any more, or are not the ones they were, a gap comes first.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from redis import Redis
from redis.exceptions import ResponseError

from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.store import alerts, transitions

AT_ONCE = 500  # entries that are read of each stream

Kind = Literal["transition", "event"]
KINDS: tuple[Kind, Kind] = ("transition", "event")
GAP, REDIS = "gap", "redis"
PATTERN = r"^[0-9]{1,18}-[0-9]{1,18}\.[0-9]{1,18}-[0-9]{1,18}$"

_STREAMS = (transitions.STREAM, alerts.STREAM)
_NO_STREAM = "no such key"

# An entry's id: milliseconds, and its number among those of the same one.
At = tuple[int, int]
_START: At = (0, 0)


class Position(NamedTuple):
    """A place in both streams: behind the entry of each that has this id."""

    transitions: At
    events: At

    def __str__(self) -> str:
        return ".".join(map(_text, self))

    def reaches(self, other: "Position") -> bool:
        """Whether this is behind `other` in neither stream."""
        return self.transitions >= other.transitions and self.events >= other.events

    def joined(self, other: "Position") -> "Position":
        """The farther of the two in each stream."""
        return Position(max(self.transitions, other.transitions), max(self.events, other.events))

    def moved(self, place: int, at: At) -> "Position":
        """The same in all but one stream."""
        return self._replace(**{self._fields[place]: at})


class TransitionShown(msgspec.Struct, frozen=True):
    """Documents that came to `status` together."""

    status: Status
    at: str
    ids: list[str]


class EventShown(msgspec.Struct, frozen=True):
    """Something that people should hear of, an alert for instance; see jobs/store/alerts.py."""

    kind: str
    at: str
    message: str
    details: dict[str, str | int | float]


class GapShown(msgspec.Struct, frozen=True):
    """Something of these kinds may have been missed."""

    kinds: list[str]
    message: str


class Told(NamedTuple):
    """One thing that followers are told: an entry of a stream, or a word about following itself.

    `body` is JSON. `after` is where whoever has heard it stands; None: nowhere yet. `place` says which of the streams
    it is about; None: neither.
    """

    kind: str
    body: bytes
    after: Position | None
    place: int | None = None
    status: Status | None = None
    at: str = ""

    def is_about(self, document_id: str) -> bool:
        """Whether it is a transition of this document."""
        return self.kind == KINDS[0] and b'"%s"' % document_id.encode() in self.body


class Page(NamedTuple):
    """What was read, and from where to read on. `more`: there was more of it."""

    told: list[Told]
    position: Position
    more: bool


def parse(text: str) -> Position:
    """The position of which `text` is the str(). `text` has to fit PATTERN."""
    first, _, second = text.partition(".")
    return Position(_id(first), _id(second))


def ends(redis: Redis) -> Position:
    """Where both streams end now."""
    return Position(*(_end(info) for info in _infos(redis)))


def read(redis: Redis, since: Position, seconds: float = 0.0, *, blocking: Redis | None = None) -> Page:
    """What came after `since`. When there is nothing, wait `seconds` for it, on the connection of `blocking`."""
    pages = _entries(blocking or redis, since, seconds)
    told: list[Told] = []
    position = since
    # Only now, so that streams which were emptied while they were read are found out, too.
    for place, goes_on in enumerate(_gaps(redis, since)):
        if goes_on is not None:
            position = position.moved(place, goes_on)
            told.append(_gap(place, position))
    if told:  # what has come meanwhile belongs to the same gap
        pages = _entries(redis, position)
    merged = [(_id(name.decode()), place, fields) for place, page in enumerate(pages) for name, fields in page]
    full = [_id(page[-1][0].decode()) for page in pages if len(page) == AT_ONCE]
    if full and not told:
        # The other stream's entries beyond come with the next page, so that all keep the order of time.
        merged = [entry for entry in merged if entry[0] <= min(full)]
    for at, place, fields in sorted(merged, key=lambda entry: entry[:2]):
        position = position.moved(place, at)
        told.extend(_decoded(place, fields, position))
    return Page(told, position, bool(full))


def _entries(redis: Redis, since: Position, seconds: float = 0.0) -> list[list[Any]]:
    found: Any = redis.xread(
        {name: _text(at) for name, at in zip(_STREAMS, since, strict=True)},
        count=AT_ONCE,
        block=max(1, int(seconds * 1000)) if seconds else None,
    )
    entries = dict(found)
    return [entries.get(name.encode(), []) for name in _STREAMS]


def _decoded(place: int, fields: Mapping[bytes, bytes], after: Position) -> Iterator[Told]:
    """The entry, unless it is none."""
    try:
        if place == 0:
            moved = transitions.decode(fields)
            at = rfc3339(moved.at)
            body = msgspec.json.encode(TransitionShown(moved.status, at, moved.ids))
            yield Told(KINDS[0], body, after, place, moved.status, at)
        else:
            event = alerts.decode(fields.get(alerts.FIELD.encode(), b""))
            shown = EventShown(event.kind, rfc3339(event.at), event.message, event.details)
            yield Told(KINDS[1], msgspec.json.encode(shown), after, place)
    except (ValueError, OverflowError, OSError):  # what is no entry, or of no time that there is
        return


def _gap(place: int, after: Position) -> Told:
    words = (
        "Some transitions before this are not there any more. List the jobs again (GET /jobs) to know how they are."
        if place == 0
        else "Some events before this are not there any more."
    )
    return Told(GAP, msgspec.json.encode(GapShown([KINDS[place]], words)), after, place)


def _gaps(redis: Redis, since: Position) -> Sequence[At | None]:
    """For each stream None when it still holds what `since` names and so all behind that; else where to go on.

    A place that no entry has is the end, or the beginning of a stream of which nothing was taken away; anything else
    was trimmed, or is of a time before the stream was emptied, or before a server lost its last second.
    """
    pipeline = redis.pipeline(transaction=False)
    for name, at in zip(_STREAMS, since, strict=True):
        pipeline.xrange(name, _text(at), _text(at))
    held = pipeline.execute()
    if all(held):
        return [None, None]
    return [
        None if there else _place_to_go_on(at, info) for at, there, info in zip(since, held, _infos(redis), strict=True)
    ]


def _place_to_go_on(at: At, info: Mapping[str, Any] | None) -> At | None:
    end = _end(info)
    length = info["length"] if info else 0
    if at == end or (at == _START and info and info.get("entries-added", length) == length):
        return None
    return end if at > end or not length else at


def _infos(redis: Redis) -> list[Mapping[str, Any] | None]:
    """What the server knows of each stream; None: it is not there."""
    pipeline = redis.pipeline(transaction=False)
    for name in _STREAMS:
        pipeline.xinfo_stream(name)
    answers = pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception) and not (isinstance(answer, ResponseError) and _NO_STREAM in str(answer)):
            raise answer
    return [None if isinstance(answer, Exception) else answer for answer in answers]


def _end(info: Mapping[str, Any] | None) -> At:
    return _id(info["last-generated-id"].decode()) if info else _START


def _id(text: str) -> At:
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number)


def _text(at: At) -> str:
    return f"{at[0]}-{at[1]}"
