"""Commands: what people ask of the running system, kept in Redis until it is done.

Ingest carries out the commands to retry and to cancel documents: it takes them from a stream, one after the other. A
paused queue is a member of a set, which its workers read with every heartbeat. A restart is a token that changes: a
process that reads another token than at its own start finishes what it has in hand and exits, to be started again.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
from redis import Redis
from redis.client import Pipeline

from llm_scheduler.jobs.store.keys import keys_of

FIELD = "o"
CANCELLED_SECONDS = 7 * 86400  # nothing waits longer for a worker

MAX_IDS = 500  # ids in one command


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What `by` asked for at epoch seconds `at`."""

    kind: Literal["retry", "cancel"]
    ids: list[str]
    by: str
    at: float


class StoredCommand(NamedTuple):
    """A command that waits, with its id in the stream. `command`: None for an entry that is no command."""

    id: bytes
    command: Command | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Command).decode


def send(redis: Redis, kind: Literal["retry", "cancel"], ids: Sequence[str], by: str, at: float) -> None:
    """Ask for `kind` to be done with each of `ids`."""
    with redis.pipeline() as pipeline:
        for first in range(0, len(ids), MAX_IDS):
            command = Command(kind=kind, ids=list(ids[first : first + MAX_IDS]), by=by, at=at)
            pipeline.xadd(keys_of(redis).commands, {FIELD: _encode(command)})
        pipeline.execute()


def waiting(redis: Redis, most: int = 4) -> list[StoredCommand]:
    """The oldest commands that wait."""
    found = []
    answer: list[tuple[bytes, dict[bytes, bytes]]] = redis.xrange(keys_of(redis).commands, count=most)  # type: ignore[assignment]
    for entry_id, fields in answer:
        try:
            command = _decode(fields[FIELD.encode()])
        except (KeyError, msgspec.DecodeError):
            command = None
        found.append(StoredCommand(entry_id, command))
    return found


def remove(redis: Redis, entry_id: bytes) -> None:
    """The command with this id has been carried out."""
    redis.xdel(keys_of(redis).commands, entry_id)


def mark_cancelled(pipeline: Pipeline, ids: Sequence[str], at: float) -> None:
    """No worker is to run these documents (queued on the pipeline)."""
    if ids:
        key = keys_of(pipeline).cancelled
        pipeline.zadd(key, dict.fromkeys(ids, at))
        pipeline.zremrangebyscore(key, "-inf", at - CANCELLED_SECONDS)
        pipeline.expire(key, CANCELLED_SECONDS)


def unmark_cancelled(pipeline: Pipeline, ids: Sequence[str]) -> None:
    """These documents may be run again (queued on the pipeline)."""
    if ids:
        pipeline.zrem(keys_of(pipeline).cancelled, *ids)


def pause(redis: Redis, queue: str) -> bool:
    """Let the workers of `queue` take no more jobs. False when it was already paused."""
    return bool(redis.sadd(keys_of(redis).paused, queue))


def resume(redis: Redis, queue: str) -> bool:
    """Let the workers of `queue` go on. False when it was not paused."""
    return bool(redis.srem(keys_of(redis).paused, queue))


def restart(redis: Redis, token: str) -> None:
    """Ask every process to exit and be started again. `token` must be new."""
    redis.set(keys_of(redis).restart, token)


class RestartWatch:
    """Notices that a restart was asked for since this process started. A lost token asks for nothing."""

    def __init__(self) -> None:
        self.requested = False
        self._first = True
        self._token: bytes | None = None

    def observe(self, token: bytes | None) -> bool:
        """Whether `token`, as Redis has it now, asks for a restart."""
        asks = not self._first and token is not None and token != self._token
        self._first, self._token = False, token or self._token
        self.requested = self.requested or asks
        return asks

    def check(self, redis: Redis) -> bool:
        """Read the token from Redis; whether it asks for a restart."""
        token = redis.get(keys_of(redis).restart)
        return self.observe(token if isinstance(token, bytes) else None)
