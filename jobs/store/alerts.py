"""Events: what people should hear of beyond the fate of single documents, and the alerts that stand.

Events lie in one stream, the newest some ten thousand, for whoever follows them. An alert has a name; it is raised
once and cleared once, each with one event, however many processes look for the same trouble and are killed over it.
"""

from typing import Annotated

import msgspec
from msgspec import Meta
from redis import Redis
from redis.client import Pipeline

STREAM = "llm:events"
FIELD = "e"
ALERTS = "llm:alerts"
MOST = 10_000

# KEYS: alerts, stream. ARGV: name, event, most. The event is told when the alert is new; it is kept up to date.
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


def tell(redis: "Redis | Pipeline", event: Event) -> None:
    """Add `event` to the stream. On a pipeline this only queues the command."""
    redis.xadd(STREAM, {FIELD: encode(event)}, maxlen=MOST, approximate=True)


def raise_alert(redis: Redis, name: str, event: Event) -> bool:
    """Let the alert `name` stand as `event` says. True when it did not stand yet: only then the event is told."""
    return bool(redis.eval(_RAISE, 2, ALERTS, STREAM, name, encode(event), MOST))


def clear_alert(redis: Redis, name: str, event: Event) -> bool:
    """End the alert `name`. True when it stood: only then the event is told."""
    return bool(redis.eval(_CLEAR, 2, ALERTS, STREAM, name, encode(event), MOST))


def standing(redis: Redis) -> dict[str, Event]:
    """The alerts that stand, by name: each as its last look found it. What can't be read is left out."""
    alerts: dict[bytes, bytes] = redis.hgetall(ALERTS)  # type: ignore[assignment]  # the client decodes nothing
    found = {}
    for name, raw in sorted(alerts.items()):
        try:
            found[name.decode()] = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return found


def encode(event: Event) -> bytes:
    """As JSON, which whoever follows the stream can read in any language."""
    return msgspec.json.encode(event)


def decode(raw: bytes) -> Event:
    """Raises `msgspec.DecodeError` when `raw` is no event."""
    return _decoder.decode(raw)


_decoder = msgspec.json.Decoder(Event)
