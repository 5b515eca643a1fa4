"""Reading and writing files whole, without Python's file objects: they cost as much as the system calls."""

import hashlib
import os
import stat

_MAX_HASHED = 1 << 30  # a larger refused file has no sha256: reading it would hold up the others


def read_whole(descriptor: int, size: int, most: int | None = None) -> bytes:
    """The bytes of an open file that `stat` says has `size`; of one that grows meanwhile what is there by then.

    At most `most` bytes and one more, which tells that there are too many. Raises OSError.
    """
    bound = size if most is None else min(size, most)
    # A buffer for the largest possible file would be mapped and zeroed for each small one.
    raw = os.read(descriptor, bound + 1)
    while len(raw) < bound and (more := os.read(descriptor, bound + 1 - len(raw))):
        raw += more
    return raw


def write_file(path: str, content: bytes, mode: int, *, fresh: bool, sync: bool) -> None:
    """Write `content` to `path`. `fresh`: there must be no such file; otherwise one left by a crash is replaced.

    `sync` makes the bytes durable (not the name: see `sync_folder`). Links are not followed. Raises OSError.
    """
    how = os.O_EXCL if fresh else os.O_TRUNC
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: str) -> str | None:
    """The digest of a plain file; None for one that can't be read, or is too large to be worth it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_HASHED:
            return None
        return hashlib.file_digest(file, "sha256").hexdigest()
