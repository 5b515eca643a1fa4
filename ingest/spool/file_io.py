"""Reading, writing, renaming and syncing files by system calls: Python's file objects cost as much again."""

import ctypes
import errno
import hashlib
import os
import stat
import sys

_MAX_HASHED = 1 << 30  # bytes; a larger rejected file gets no SHA-256, because reading it would delay the others
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1  # renameat2(2)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_renameat2 = getattr(_libc, "renameat2", None)


def read_whole(descriptor: int, size: int, most: int | None = None) -> bytes:
    """The bytes of an open file of `size` bytes, but at most `most`; one more if there are more. Raises OSError."""
    bound = size if most is None else min(size, most)
    # A buffer for the largest possible file would be mapped and zeroed for each small one.
    raw = os.read(descriptor, bound + 1)
    while len(raw) < bound and (more := os.read(descriptor, bound + 1 - len(raw))):
        raw += more
    return raw


def open_file(path: str) -> int:
    """Open a file for reading. Follows no link and waits for no FIFO. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def read_file(path: str, most: int | None = None) -> tuple[os.stat_result, bytes]:
    """The `stat` of a file and its bytes, as `read_whole` returns them. Raises OSError."""
    descriptor = open_file(path)
    try:
        status = os.fstat(descriptor)
        return status, read_whole(descriptor, status.st_size, most)
    finally:
        os.close(descriptor)


def write_file(path: str, content: bytes, mode: int, *, fresh: bool, sync: bool) -> None:
    """Write `content` to `path`. With `fresh` the file must not exist; otherwise one left by a crash is replaced.

    `sync` makes the bytes durable; for the name see `sync_folder`. Links are not followed. Raises OSError.
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
    """The digest of a regular file; None when it can't be read or has more than 1 GiB."""
    try:
        descriptor = open_file(path)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_HASHED:
            return None
        return hashlib.file_digest(file, "sha256").hexdigest()


def rename_new(source: str, target: str) -> None:
    """Rename `source` to `target`. Raises FileExistsError and changes nothing when `target` exists."""
    if _renameat2 is not None:
        done = _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
        if done == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(number, os.strerror(number), source, None, target)
    # Without the system call, the spool lock has to be enough: no other process writes here.
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)
    os.rename(source, target)


def sync_folder(folder: str) -> None:
    """Make the names in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: str) -> None:
    """Make everything written so far on the file system of `folder` durable (syncfs(2)). Raises OSError."""
    if _libc is None:
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), folder)
    finally:
        os.close(descriptor)
