"""`Idempotency-Key`: a request that is sent twice is carried out once, and answered the same both times.

As the IETF's draft has it (draft-ietf-httpapi-idempotency-key-header): the same key with another content is refused
(422), and so is one whose first request is still being answered (409). The ids are fixed before anything is written: if
the first process dies in between, whoever comes next knows by them whether it had written.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from redis import Redis

from llm_scheduler.api.http.problems import ProblemError

KEPT_SECONDS = 86400
LEASE_SECONDS = 60.0  # for one request to be carried out
HEADER = "Idempotency-Key"
MAX_CHARACTERS = 255

# KEYS: the record. ARGV: what was seen there ("" for nothing), what is to be there, seconds. Whether it was exchanged.
_EXCHANGE = """
local seen = redis.call('GET', KEYS[1]) or ''
if seen ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""


class _Record(msgspec.Struct, frozen=True):
    """A request: what it was, the ids and names of its documents, and until when its process may be writing."""

    fingerprint: str
    documents: list[tuple[str, str | None]]
    until: float  # 0: they are written


class Reserved(NamedTuple):
    """The documents (id and name) that a request stands for; `written`: by an earlier one, so there is nothing to do;
    `doubtful`: an earlier one may have written them, and died over it."""

    documents: list[tuple[str, str | None]]
    written: bool = False
    doubtful: bool = False


class Idempotency:
    """The keys of one caller's requests, in Redis. Every call raises RedisError when that is away."""

    def __init__(self, redis: Redis, caller: str) -> None:
        self._redis = redis
        self._caller = caller

    def reserve(self, key: str, fingerprint: str, documents: list[tuple[str, str | None]], now: float) -> Reserved:
        """Take `key` for a request with these documents, unless there was one before. Raises a 409 or 422."""
        mine = _encode(_Record(fingerprint, documents, now + LEASE_SECONDS))
        while True:
            seen = self._redis.get(self._name(key)) or b""
            assert isinstance(seen, bytes)
            before = _decode(seen) if seen else None
            if before is None:
                if self._exchange(key, seen, mine):
                    return Reserved(documents)
                continue
            if before.fingerprint != fingerprint:
                raise ProblemError(422, f"This {HEADER} was used for another request. Use a new key for each.")
            if not before.until:
                return Reserved(before.documents, written=True)
            if now < before.until:
                raise ProblemError(409, f"The first request with this {HEADER} is still being answered.", retry_after=1)
            taken_over = msgspec.structs.replace(before, until=now + LEASE_SECONDS)
            if self._exchange(key, seen, _encode(taken_over)):
                return Reserved(before.documents, doubtful=True)

    def written(self, key: str, fingerprint: str, documents: list[tuple[str, str | None]]) -> None:
        """The documents are durable."""
        self._redis.set(self._name(key), _encode(_Record(fingerprint, documents, 0)), ex=KEPT_SECONDS)

    def release(self, key: str) -> None:
        """Nothing was written."""
        self._redis.delete(self._name(key))

    def _exchange(self, key: str, seen: bytes, new: bytes) -> bool:
        return bool(self._redis.eval(_EXCHANGE, 1, self._name(key), seen, new, KEPT_SECONDS))

    def _name(self, key: str) -> str:
        whole = hashlib.sha256(b"\0".join((self._caller.encode(), key.encode())))
        return f"llm:idempotency:{whole.hexdigest()}"


def fingerprint_of(uploads: Sequence[tuple[bytes, str | None]]) -> str:
    """What tells one request's content from another's."""
    whole = hashlib.sha256()
    for raw, name in uploads:
        whole.update(hashlib.sha256(raw).digest())
        whole.update((name or "").encode(errors="surrogatepass") + b"\0")
    return whole.hexdigest()


def checked(key: str) -> str:
    """A key that may be used. Raises a 422."""
    if not (0 < len(key) <= MAX_CHARACTERS and key.isascii() and key.isprintable() and " " not in key):
        raise ProblemError(422, f"{HEADER} has to be 1 to {MAX_CHARACTERS} printable ASCII characters without spaces.")
    return key


_encode = msgspec.json.Encoder().encode


def _decode(raw: bytes) -> _Record | None:
    try:
        return msgspec.json.decode(raw, type=_Record)
    except msgspec.DecodeError:
        return None
