"""A document: its id, its status, its route, and the payload in which it travels through Redis."""

import re
from enum import StrEnum

import msgspec
import zstandard
from ulid_transform import bytes_to_ulid, ulid_at_time, ulid_at_time_bytes

from llm_scheduler.jobs.crash import CrashReport
from llm_scheduler.jobs.sealing.seal import Seal, WrongKey

# A ULID in Crockford's base 32 (https://github.com/ulid/spec); the first digit is at most 7.
_RANDOM_BITS = 80  # the low bits; the milliseconds are above them
ID_PATTERN = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


class Status(StrEnum):
    """Where a document is. `done`, `rejected` and `cancelled` are final."""

    RECEIVED = "received"
    BATCHED = "batched"
    QUEUED = "queued"
    STARTED = "started"
    RETRYING = "retrying"
    DONE = "done"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


ACTIVE = (Status.RECEIVED, Status.BATCHED, Status.QUEUED, Status.STARTED, Status.RETRYING)
IN_FLIGHT = ACTIVE[1:]  # a received document is in the watch folder, and takes no room in Redis
FINAL = (Status.DONE, Status.REJECTED, Status.CANCELLED)


class Route(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Where a document goes and why. `reasons` says in words which rules decided.

    `schema`: the name of its JSON Schema; `accept`: the accepted qualities; empty: as configured. `country`: an ISO
    3166 code; `industry`: an ISIC section and division (`K64`, `K`) or the operator's own label; `language`: an ISO 639
    code; empty: unknown. `tags`: set by rules.
    """

    priority: str
    queue: str
    handler: str
    reasons: list[str]
    schema: str = ""
    accept: list[str] = []
    tags: list[str] = []
    country: str = ""
    city: str = ""
    industry: str = ""
    language: str = ""


class Payload(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One document inside an RQ job: all that a worker needs. It names no folder of the host.

    `received_at` and `submitted_at`: epoch seconds. `body`: the original bytes; `packed`: compressed; `sealed`:
    encrypted after compression. `attempts`: runs of the handler so far. `losses`: runs that ended with the death of
    their worker. `crashes`: deaths of workers that ran this document alone; `evidence`: the reports of these crashes.
    """

    id: str
    group: str
    source: str
    received_at: float
    submitted_at: float
    route: Route
    body: bytes
    packed: bool = False
    attempts: int = 0
    crashes: int = 0
    evidence: list[CrashReport] = []
    losses: int = 0
    sealed: bool = False

    def text(self, seal: Seal | None = None) -> bytes:
        """The document's original bytes. Raises `WrongKey` when the body is sealed and `seal` does not open it."""
        body = self.body
        if self.sealed:
            if seal is None:
                raise WrongKey
            body = seal.unlock(body)
        return _decompressor.decompress(body) if self.packed else body


def new_id(now: float) -> str:
    """A fresh document id: a ULID, so that ids sort by the time of arrival."""
    return ulid_at_time(now)


def id_prefix_at(at: float) -> str:
    """What ids of epoch seconds `at` begin with; earlier ids are smaller. The first ten characters are an id's time."""
    return ulid_at_time(max(0.0, at))[:10]


def last_id(now: float) -> str:
    """The largest id of the millisecond of epoch seconds `now`."""
    return id_prefix_at(now) + 16 * "Z"


class Ids:
    """Makes ids that sort in the order of their making, also within a millisecond (ULID: "Monotonicity")."""

    def __init__(self) -> None:
        self._last = 0

    def make(self, now: float) -> str:
        """A fresh id for epoch seconds `now`."""
        made = int.from_bytes(ulid_at_time_bytes(now), "big")
        if made >> _RANDOM_BITS == self._last >> _RANDOM_BITS:
            made = self._last + 1
        self._last = made
        return bytes_to_ulid(made.to_bytes(16, "big"))


def is_id(text: str) -> bool:
    """Whether `text` has the form of a document id."""
    return ID_PATTERN.fullmatch(text) is not None


def pack_body(raw: bytes) -> tuple[bytes, bool]:
    """`raw` as it travels, and whether it is compressed. Texts under 200 bytes rarely get shorter."""
    if len(raw) < 200:
        return raw, False
    short = _compressor.compress(raw)
    return (short, True) if len(short) < len(raw) else (raw, False)


# Zstandard (RFC 8878): eight times as fast as zlib, each at its lowest level (docs/decisions/0009-throughput.md).
_compressor = zstandard.ZstdCompressor(level=1)
_decompressor = zstandard.ZstdDecompressor()

# Of a payload. `decode` raises `msgspec.DecodeError` when the bytes are none.
encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Payload).decode
