"""API keys and their holders. The configuration has two, `admin` and `readonly`; the others are in a file, as hashes.

Only the SHA-256 of a key's secret is stored. A slow hash protects passwords that people invent; these secrets have 256
random bits, and can't be guessed with a fast hash either.
"""

import hashlib
import hmac
import logging
import os
import re
import stat
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from llm_scheduler.api.access.roles import Role
from llm_scheduler.ingest.spool.file_io import read_whole
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Security
from llm_scheduler.jobs.config.key_checks import HASHED

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$"
RESERVED = frozenset({"admin", "readonly", "local"})  # the configured keys, and callers without a key
CHECK_SECONDS = 1.0  # between two looks at the file
REMIND_SECONDS = 60.0

KEY_PREFIX = "llm_"  # of a named key; no JWT begins like this
_FORM = re.compile(rb"llm_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_MIN_UNGUESSABLE = 32  # characters of a configured key; a hashed one has an unknown length
_NO_DIGEST = "0" * 64  # compared with keys of an unknown id: no text with this hash is known

_log = logging.getLogger("llm.api")


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A named key as stored in the file: everything but the secret. `id` is the public part of the key."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Meta(pattern=NAME)]
    role: Role
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    created_at: Annotated[datetime, Meta(tz=True)]
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class KeyList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    keys: list[Key]


class KeyFileError(Exception):
    """The key file can't be used; the text says why."""


class KeyHolder(NamedTuple):
    """The holder of a key. `guessable`: the key may be short, so the limit on failed attempts holds for it too."""

    name: str
    role: Role
    digest: str
    guessable: bool = False
    expires_at: float | None = None

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    def __repr__(self) -> str:
        return f"KeyHolder({self.name!r}, {self.role})"


def digest_of(secret: bytes) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret).hexdigest()


def public_part(given: bytes) -> str | None:
    """The public part of a key, `llm_1a2b3c4d`; None for a text that does not look like a named key."""
    form = _FORM.fullmatch(given)
    return f"{KEY_PREFIX}{form[1].decode()}" if form else None


def read_keys(path: str) -> list[Key]:
    """The keys in the file at `path`; none if there is no file. Raises OSError and `KeyFileError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        found = os.fstat(descriptor)
        # Like ssh: a file that others may write can't be trusted.
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise KeyFileError(f"others than its owner may write it (mode {found.st_mode & 0o777:04o}); chmod 600 it")
        raw = read_whole(descriptor, found.st_size)
    finally:
        os.close(descriptor)
    return list(_checked(raw))


def _checked(raw: bytes) -> Iterator[Key]:
    try:
        keys = msgspec.json.decode(raw, type=KeyList).keys
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(f"it is not a list of keys ({error})") from None
    names: set[str] = set()
    ids: set[str] = set()
    for key in keys:
        if key.name in RESERVED:
            raise KeyFileError(f"the name {key.name!r} is reserved")
        if key.name in names or key.id in ids:
            raise KeyFileError(f"the key {key.name!r} stands twice in it")
        names.add(key.name)
        ids.add(key.id)
        yield key


class KeyRing:
    """The valid keys. The file is checked once a second, so a new or revoked key counts at once, without Redis.

    If the file can't be used, the keys that were read last stay valid: a typing error locks nobody out. If the file is
    removed, its keys are no longer valid.
    """

    def __init__(self, security: Security, clock: Clock) -> None:
        self._path = security.api_keys_file
        self._clock = clock
        self._configured = tuple(_configured(security))
        self._by_id: dict[bytes, KeyHolder] = {}
        self._by_name: dict[str, KeyHolder] = {each.name: each for each in self._configured}
        self._checked_at = float("-inf")
        self._logged_at = float("-inf")
        self._signature: tuple[int, ...] | None = None

    def holder_of(self, given: bytes) -> KeyHolder | None:
        """The holder of the key `given`; None if it is unknown. The time that this takes reveals nothing."""
        self._refresh()
        digest = digest_of(given)
        found = None
        for holder in self._configured:  # always all of them: constant time
            if hmac.compare_digest(digest, holder.digest):
                found = found or holder
        form = _FORM.fullmatch(given)
        named = self._by_id.get(form[1]) if form else None
        secret = digest_of(form[2] if form else given)
        same = hmac.compare_digest(secret, named.digest if named else _NO_DIGEST)
        return named if named and same else found

    def holder_named(self, name: str) -> KeyHolder | None:
        """The holder with this name, if the key is still valid."""
        self._refresh()
        return self._by_name.get(name)

    def __bool__(self) -> bool:
        """Whether there is any key."""
        self._refresh()
        return bool(self._by_name)

    def _refresh(self) -> None:
        now = self._clock.monotonic()
        if now - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = now
        try:
            signature = _signature(self._path)
            if signature != self._signature:
                self._replace(read_keys(self._path))
                self._signature = signature
        except (KeyFileError, OSError) as error:
            if now - self._logged_at >= REMIND_SECONDS:
                self._logged_at = now
                why = error.strerror if isinstance(error, OSError) else error
                _log.error("%s can't be used: %s. The keys that were read last stay in force.", self._path, why)

    def _replace(self, keys: Sequence[Key]) -> None:
        named = {}
        for key in keys:
            expires_at = key.expires_at.timestamp() if key.expires_at else None
            named[key.id.encode()] = KeyHolder(key.name, key.role, key.sha256, expires_at=expires_at)
        self._by_id = named
        self._by_name = {each.name: each for each in (*named.values(), *self._configured)}
        self._logged_at = float("-inf")


def _signature(path: str) -> tuple[int, ...]:
    """Changes when the file is replaced or its content or mode changes; empty if there is no file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _configured(security: Security) -> Iterator[KeyHolder]:
    for name, role, key in (
        ("admin", Role.ADMIN, security.api_keys.admin),
        ("readonly", Role.READONLY, security.api_keys.readonly),
    ):
        if key.startswith(HASHED):
            yield KeyHolder(name, role, key.removeprefix(HASHED), guessable=True)
        elif key:
            yield KeyHolder(name, role, digest_of(key.encode()), guessable=len(key) < _MIN_UNGUESSABLE)
