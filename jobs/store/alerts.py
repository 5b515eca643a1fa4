"""Events for people, and standing alerts.

Events are in one stream of about ten thousand entries. An alert has a name. It is raised once and cleared once, with
one event each, however many processes look for the same fault and whenever they are killed.
"""

from typing import Annotated

import msgspec
from msgspec import Meta
from redis import Redis

from llm_scheduler.jobs.store.keys import keys_of

FIELD = "e"
MAX_EVENTS = 10_000

# KEYS: alerts, stream. ARGV: name, event, how many events to keep. A standing alert is updated without an event.
_RAISE = """
if redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'e', ARGV[2])
return 1
"""
_CLEAR = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'e', ARGV[2])
return 1
"""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened at epoch seconds `at`; `message` is for people, `details` for programs."""

    kind: Annotated[str, Meta(min_length=1)]
    at: float
    message: str
    details: dict[str, str | int | float] = {}


def raise_alert(redis: Redis, name: str, event: Event) -> bool:
    """Raise or update the alert `name`. True when it is new: only then the event is added to the stream."""
    return _change(redis, _RAISE, name, event)


def clear_alert(redis: Redis, name: str, event: Event) -> bool:
    """Clear the alert `name`. True when it was standing: only then the event is added to the stream."""
    return _change(redis, _CLEAR, name, event)


def _change(redis: Redis, change: str, name: str, event: Event) -> bool:
    keys = keys_of(redis)
    return bool(redis.eval(change, 2, keys.alerts, keys.events, name, encode(event), MAX_EVENTS))


def standing(redis: Redis) -> dict[str, Event]:
    """The standing alerts by name, each with its latest event. What cannot be decoded is left out."""
    alerts: dict[bytes, bytes] = redis.hgetall(keys_of(redis).alerts)  # type: ignore[assignment]  # bytes, not decoded
    found = {}
    for name, raw in sorted(alerts.items()):
        try:
            found[name.decode()] = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return found


def encode(event: Event) -> bytes:
    """As JSON: readers of the stream may be written in any language."""
    return msgspec.json.encode(event)


def decode(raw: bytes) -> Event:
    """Raises `msgspec.DecodeError` when `raw` is no event."""
    return _decoder.decode(raw)


_decoder = msgspec.json.Decoder(Event)
