"""API keys: whose they are. The configuration has two, `admin` and `readonly`; the others are in a file, as hashes.

What is kept of a key is the SHA-256 of its secret. A slow hash is for secrets that people think up: these have 256
random bits, and guessing one is as hopeless with a fast hash as with a slow one.
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
RESERVED = frozenset({"admin", "readonly", "local"})  # the configuration's keys, and who needs none
LOOK_SECONDS = 1.0
REMIND_SECONDS = 60.0

KEY_PREFIX = "llm_"  # of a named key; no JWT begins so
_FORM = re.compile(rb"llm_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
# Shorter than this, a key of the configuration might be guessed. Of a hashed one nobody knows how long it is.
_UNGUESSABLE = 32
_NOBODY = "0" * 64  # what a key of an unknown id is compared with: no text is known that has this hash

_log = logging.getLogger("llm.api")


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A named key as the file has it: everything but the secret. `id` is the part of the key that may be seen."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Meta(pattern=NAME)]
    role: Role
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    created_at: Annotated[datetime, Meta(tz=True)]
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class KeyList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    keys: list[Key]


class BrokenKeys(Exception):
    """A file of keys that can't be used; the words say why."""


class Holder(NamedTuple):
    """Whom a key belongs to. `guessable`: the key may be short, so who shows it has to wait like those who guess."""

    name: str
    role: Role
    digest: str
    guessable: bool = False
    expires_at: float | None = None

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    def __repr__(self) -> str:
        return f"Holder({self.name!r}, {self.role})"


def digest_of(secret: bytes) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret).hexdigest()


def shown_part(given: bytes) -> str | None:
    """The part of a key that may be seen, `llm_1a2b3c4d`; None of a text that has not the form of a named key."""
    form = _FORM.fullmatch(given)
    return f"{KEY_PREFIX}{form[1].decode()}" if form else None


def read_keys(path: str) -> list[Key]:
    """The keys in the file at `path`; none where there is no file. Raises OSError and `BrokenKeys`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        found = os.fstat(descriptor)
        # As ssh has it: a file that everybody may write says nothing about who was let in.
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BrokenKeys(f"others than its owner may write it (mode {found.st_mode & 0o777:04o}); chmod 600 it")
        raw = read_whole(descriptor, found.st_size)
    finally:
        os.close(descriptor)
    return list(_checked(raw))


def _checked(raw: bytes) -> Iterator[Key]:
    try:
        keys = msgspec.json.decode(raw, type=KeyList).keys
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BrokenKeys(f"it is not a list of keys ({error})") from None
    names: set[str] = set()
    ids: set[str] = set()
    for key in keys:
        if key.name in RESERVED:
            raise BrokenKeys(f"the name {key.name!r} is reserved")
        if key.name in names or key.id in ids:
            raise BrokenKeys(f"the key {key.name!r} stands twice in it")
        names.add(key.name)
        ids.add(key.id)
        yield key


class KeyRing:
    """The keys that the API knows now. The file is looked at again once a second, so that a key that was made or
    revoked counts at once, and without Redis. A file that can't be used leaves the keys that were read last as they
    are: a slip of the pen locks nobody out. One that is gone takes its keys with it.
    """

    def __init__(self, security: Security, clock: Clock) -> None:
        self._path = security.api_keys_file
        self._clock = clock
        self._configured = tuple(_configured(security))
        self._by_id: dict[bytes, Holder] = {}
        self._by_name: dict[str, Holder] = {each.name: each for each in self._configured}
        self._looked_at = float("-inf")
        self._told_at = float("-inf")
        self._seen: tuple[int, ...] | None = None

    def holder_of(self, given: bytes) -> Holder | None:
        """Whose key `given` is; None when it is nobody's. How long that takes says nothing about any key."""
        self._look()
        digest = digest_of(given)
        found = None
        for holder in self._configured:  # all of them, always
            if hmac.compare_digest(digest, holder.digest):
                found = found or holder
        form = _FORM.fullmatch(given)
        named = self._by_id.get(form[1]) if form else None
        secret = digest_of(form[2] if form else given)
        same = hmac.compare_digest(secret, named.digest if named else _NOBODY)
        return named if named and same else found

    def named(self, name: str) -> Holder | None:
        """Who has the key of this name, if there is one still."""
        self._look()
        return self._by_name.get(name)

    def __bool__(self) -> bool:
        """Whether there is any key."""
        self._look()
        return bool(self._by_name)

    def _look(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            seen = _signature(self._path)
            if seen != self._seen:
                self._take(read_keys(self._path))
                self._seen = seen
        except (BrokenKeys, OSError) as error:
            if now - self._told_at >= REMIND_SECONDS:
                self._told_at = now
                why = error.strerror if isinstance(error, OSError) else error
                _log.error("%s can't be used: %s. The keys that were read last stay in force.", self._path, why)

    def _take(self, keys: Sequence[Key]) -> None:
        named = {key.id.encode(): _holder(key) for key in keys}
        self._by_id = named
        self._by_name = {each.name: each for each in (*named.values(), *self._configured)}
        self._told_at = float("-inf")


def _signature(path: str) -> tuple[int, ...]:
    """What changes with a file: another in its place, its content, its mode. Nothing, where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _holder(key: Key) -> Holder:
    expires_at = key.expires_at.timestamp() if key.expires_at else None
    return Holder(key.name, key.role, key.sha256, expires_at=expires_at)


def _configured(security: Security) -> Iterator[Holder]:
    for name, role, key in (
        ("admin", Role.ADMIN, security.api_keys.admin),
        ("readonly", Role.READONLY, security.api_keys.readonly),
    ):
        if key.startswith(HASHED):
            yield Holder(name, role, key.removeprefix(HASHED), guessable=True)
        elif key:
            yield Holder(name, role, digest_of(key.encode()), guessable=len(key) < _UNGUESSABLE)
