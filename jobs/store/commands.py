"""Orders: what people ask of the running system, left in Redis for those who carry it out.

To try documents again and to cancel them is ingest's work, which takes those orders from a stream, one after the other.
A queue is paused by its name in a set, which its workers look at with every beat. A restart is a word that changes:
whoever sees another one than at its own start finishes what it has in hand and ends, to be started anew.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
from redis import Redis
from redis.client import Pipeline

STREAM = "llm:orders"
FIELD = "o"
PAUSED = "llm:paused"
RESTART = "llm:restart"
# Documents that nobody has to run any more, by the time they were cancelled at. Workers ask before they run one.
CANCELLED = "llm:cancelled"
CANCELLED_SECONDS = 7 * 86400  # nothing waits longer for a worker

AT_ONCE = 500  # ids in one order


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What `by` asked for at epoch seconds `at`."""

    kind: Literal["retry", "cancel"]
    ids: list[str]
    by: str
    at: float


class Waiting(NamedTuple):
    """An order that waits, and its place in the stream; None for what is no order."""

    id: bytes
    order: Order | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Order).decode


def give(redis: Redis, kind: Literal["retry", "cancel"], ids: Sequence[str], by: str, at: float) -> None:
    """Ask for `kind` to be done with each of `ids`."""
    with redis.pipeline() as pipeline:
        for first in range(0, len(ids), AT_ONCE):
            order = Order(kind=kind, ids=list(ids[first : first + AT_ONCE]), by=by, at=at)
            pipeline.xadd(STREAM, {FIELD: _encode(order)})
        pipeline.execute()


def waiting(redis: Redis, most: int = 4) -> list[Waiting]:
    """The oldest orders that wait."""
    found = []
    answer: list[tuple[bytes, dict[bytes, bytes]]] = redis.xrange(STREAM, count=most)  # type: ignore[assignment]
    for place, fields in answer:
        try:
            order = _decode(fields[FIELD.encode()])
        except (KeyError, msgspec.DecodeError):
            order = None
        found.append(Waiting(place, order))
    return found


def carried_out(redis: Redis, place: bytes) -> None:
    """The order at `place` waits no longer."""
    redis.xdel(STREAM, place)


def mark_cancelled(pipeline: Pipeline, ids: Sequence[str], at: float) -> None:
    """Let no worker run these documents (queued on the pipeline)."""
    if ids:
        pipeline.zadd(CANCELLED, dict.fromkeys(ids, at))
        pipeline.zremrangebyscore(CANCELLED, "-inf", at - CANCELLED_SECONDS)
        pipeline.expire(CANCELLED, CANCELLED_SECONDS)


def unmark_cancelled(pipeline: Pipeline, ids: Sequence[str]) -> None:
    """These documents may be run again (queued on the pipeline)."""
    if ids:
        pipeline.zrem(CANCELLED, *ids)


def pause(redis: Redis, queue: str) -> bool:
    """Let the workers of `queue` take no more jobs. False when it was paused already."""
    return bool(redis.sadd(PAUSED, queue))


def resume(redis: Redis, queue: str) -> bool:
    """Let the workers of `queue` go on. False when it was not paused."""
    return bool(redis.srem(PAUSED, queue))


def paused(redis: Redis) -> set[str]:
    """The queues that are paused."""
    return {member.decode() for member in redis.smembers(PAUSED) if isinstance(member, bytes)}


def restart(redis: Redis, word: str) -> None:
    """Ask every process to end and be started anew. `word` is one that was not said before."""
    redis.set(RESTART, word)


class RestartWatch:
    """Notices that a restart was asked for since this process started. That a word is lost asks for nothing."""

    def __init__(self) -> None:
        self.asked = False
        self._first = True
        self._word: bytes | None = None

    def heard(self, word: bytes | None) -> bool:
        """Whether `word`, as Redis has it now, asks for a restart."""
        asks = not self._first and word is not None and word != self._word
        self._first, self._word = False, word or self._word
        self.asked = self.asked or asks
        return asks

    def look(self, redis: Redis) -> bool:
        """Ask Redis, and whether that asks for a restart."""
        word = redis.get(RESTART)
        return self.heard(word if isinstance(word, bytes) else None)
