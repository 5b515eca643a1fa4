"""Changes to the file of named keys: by one process at a time, and atomic."""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from llm_scheduler.api.access.api_keys import KEY_PREFIX, RESERVED, Key, KeyList, digest_of, read_keys
from llm_scheduler.api.access.roles import Role
from llm_scheduler.ingest.spool.file_io import sync_folder, write_file

_OWNER_ONLY = 0o600


class KeyNameError(Exception):
    """A key has this name already, or the name is reserved."""


class NewKey(NamedTuple):
    """A new key. `text` is what its holder sends; it is not stored."""

    key: Key
    text: str

    def __repr__(self) -> str:
        return f"NewKey({self.key!r}, (hidden))"


def create_key(path: str, name: str, role: Role, now: float, expires_at: float | None = None) -> NewKey:
    """Make a key and add its hash to the file at `path`. Raises `KeyNameError`, `KeyFileError` and OSError."""
    if name.lower() in RESERVED:
        raise KeyNameError(f"The name {name!r} is reserved.")
    with _locked(path):
        keys = read_keys(path)
        if any(key.name == name for key in keys):
            raise KeyNameError(f"There is already a key {name!r}. Revoke it first, or choose another name.")
        secret = secrets.token_urlsafe(32)
        taken = {each.id for each in keys}
        while (key_id := secrets.token_hex(4)) in taken:
            pass
        key = Key(
            id=key_id,
            name=name,
            role=role,
            sha256=digest_of(secret.encode()),
            created_at=_moment(now),
            expires_at=None if expires_at is None else _moment(expires_at),
        )
        _write(path, [*keys, key])
    return NewKey(key, f"{KEY_PREFIX}{key.id}_{secret}")


def revoke_key(path: str, name: str) -> bool:
    """Remove the key of this name from the file; False if there is none. Raises `KeyFileError` and OSError."""
    with _locked(path):
        keys = read_keys(path)
        rest = [key for key in keys if key.name != name]
        if len(rest) == len(keys):
            return False
        _write(path, rest)
    return True


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).replace(microsecond=0)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock. It is on a separate file, because each change replaces the key file."""
    os.makedirs(os.path.dirname(os.path.realpath(path)), exist_ok=True)
    lock = f"{os.path.realpath(path)}.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _OWNER_ONLY)
    try:
        _hand_over(lock, lock)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: str, keys: list[Key]) -> None:
    """Replace the file at `path`, durably. Its permissions for reading stay."""
    target = os.path.realpath(path)
    hidden = f"{target}.part"
    content = msgspec.json.format(msgspec.json.encode(KeyList(keys)), indent=2) + b"\n"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(hidden)  # left by a process that died while it held the lock
    try:
        write_file(hidden, content, _OWNER_ONLY, fresh=True, sync=True)
        os.chmod(hidden, _mode(target))
        _hand_over(hidden, target)
        os.replace(hidden, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)
    sync_folder(os.path.dirname(target))


def _mode(path: str) -> int:
    """Readable by the owner only, or also by the group if the file was so before."""
    try:
        return _OWNER_ONLY | (os.stat(path).st_mode & stat.S_IRGRP)
    except FileNotFoundError:
        return _OWNER_ONLY


def _hand_over(path: str, like: str) -> None:
    """Give a file that root makes to the owner of the key file or its folder: the API must read it, and is not root."""
    if os.geteuid() != 0:
        return
    owner = os.stat(like if like != path and os.path.exists(like) else os.path.dirname(path))
    os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
