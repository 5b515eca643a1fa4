"""`Idempotency-Key`: a request that is sent twice is carried out once, and both get the same answer.

It follows the IETF draft (draft-ietf-httpapi-idempotency-key-header): the same key with other content is refused (422),
and so is a key whose first request is still being answered (409). The document ids are recorded before anything is
written. If the process dies in between, the next request with the key finds out by these ids what was written.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from redis import Redis

from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.jobs.store.keys import keys_of

KEPT_SECONDS = 86400
LEASE_SECONDS = 60.0  # for one request to be carried out
HEADER = "Idempotency-Key"
MAX_CHARACTERS = 255

# Compare and set. KEYS: the record. ARGV: its expected value ("" for none), the new value, seconds to keep it.
# Returns 1 if it was set.
_EXCHANGE = """
local seen = redis.call('GET', KEYS[1]) or ''
if seen ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""


class _IdempotencyRecord(msgspec.Struct, frozen=True):
    """A request: the hash of its content, the ids and names of its documents, and its lease (epoch seconds)."""

    fingerprint: str
    documents: list[tuple[str, str | None]]
    until: float  # 0: the documents are written


class Reservation(NamedTuple):
    """The documents (id and name) of a request. `written`: an earlier request has written them.
    `doubtful`: the lease of an earlier request ran out, so it may have written them."""

    documents: list[tuple[str, str | None]]
    written: bool = False
    doubtful: bool = False


class IdempotencyKeys:
    """The keys of one caller's requests, in Redis. Every method raises RedisError when Redis is unreachable."""

    def __init__(self, redis: Redis, caller: str) -> None:
        self._redis = redis
        self._caller = caller

    def reserve(self, key: str, fingerprint: str, documents: list[tuple[str, str | None]], now: float) -> Reservation:
        """Reserve `key` for a request with these documents, or find the earlier request. Raises a 409 or 422."""
        own = _encode(_IdempotencyRecord(fingerprint, documents, now + LEASE_SECONDS))
        while True:
            seen = self._redis.get(self._redis_key(key)) or b""
            assert isinstance(seen, bytes)
            before = _decode(seen) if seen else None
            if before is None:
                if self._exchange(key, seen, own):
                    return Reservation(documents)
                continue
            if before.fingerprint != fingerprint:
                raise ProblemError(422, f"This {HEADER} was used for another request. Use a new key for each.")
            if not before.until:
                return Reservation(before.documents, written=True)
            if now < before.until:
                raise ProblemError(409, f"The first request with this {HEADER} is still being answered.", retry_after=1)
            taken_over = msgspec.structs.replace(before, until=now + LEASE_SECONDS)
            if self._exchange(key, seen, _encode(taken_over)):
                return Reservation(before.documents, doubtful=True)

    def mark_written(self, key: str, fingerprint: str, documents: list[tuple[str, str | None]]) -> None:
        """Record that the documents are durable."""
        self._redis.set(self._redis_key(key), _encode(_IdempotencyRecord(fingerprint, documents, 0)), ex=KEPT_SECONDS)

    def release(self, key: str) -> None:
        """Forget the reservation: nothing was written."""
        self._redis.delete(self._redis_key(key))

    def _exchange(self, key: str, seen: bytes, new: bytes) -> bool:
        return bool(self._redis.eval(_EXCHANGE, 1, self._redis_key(key), seen, new, KEPT_SECONDS))

    def _redis_key(self, key: str) -> str:
        digest = hashlib.sha256(b"\0".join((self._caller.encode(), key.encode())))
        return keys_of(self._redis).idempotency(digest.hexdigest())


def fingerprint_of(uploads: Sequence[tuple[bytes, str | None]]) -> str:
    """A hash of a request's content."""
    digest = hashlib.sha256()
    for raw, name in uploads:
        digest.update(hashlib.sha256(raw).digest())
        digest.update((name or "").encode(errors="surrogatepass") + b"\0")
    return digest.hexdigest()


def check_key(key: str) -> None:
    """Raises a 422 for a key that may not be used."""
    if not (0 < len(key) <= MAX_CHARACTERS and key.isascii() and key.isprintable() and " " not in key):
        raise ProblemError(422, f"{HEADER} has to be 1 to {MAX_CHARACTERS} printable ASCII characters without spaces.")


_encode = msgspec.json.Encoder().encode


def _decode(raw: bytes) -> _IdempotencyRecord | None:
    try:
        return msgspec.json.decode(raw, type=_IdempotencyRecord)
    except msgspec.DecodeError:
        return None
