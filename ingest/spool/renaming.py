"""Renames that never overwrite, names that fit the file system, and one sync for many files."""

import ctypes
import errno
import os
import sys

NAME_BYTES = 255  # NAME_MAX of every file system in common use
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1  # renameat2(2)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def rename_new(source: str, target: str) -> None:
    """Rename `source` to `target`. Raises FileExistsError, changing nothing, when there is a `target`."""
    if _libc is not None and hasattr(_libc, "renameat2"):
        done = _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
        if done == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(number, os.strerror(number), source, None, target)
    # Without the system call (or on a file system without it) the spool's lock has to do: nobody else writes here.
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)
    os.rename(source, target)


def with_id(source: str, document_id: str) -> str:
    """`source` with the id between stem and suffix, for a name that is taken: `a/b.json` becomes `a/b.<id>.json`."""
    folder, name = os.path.split(source)
    stem, suffix = os.path.splitext(name)
    return os.path.join(folder, fitted(stem, f".{document_id}{suffix}"))


def fitted(stem: str, ending: str, room: int = 0) -> str:
    """`stem + ending`, the stem cut so that the whole, with `room` bytes to spare, is a legal file name."""
    limit = NAME_BYTES - room - len(os.fsencode(ending))
    if limit < 0:  # a suffix as long as a name
        return os.fsencode(ending)[: NAME_BYTES - room].decode("utf-8", errors="ignore")
    raw = os.fsencode(stem)
    if len(raw) > limit:
        stem = raw[:limit].decode("utf-8", errors="ignore")
    return stem + ending


def sync_all(folder: str) -> None:
    """Make everything written so far on the file system of `folder` durable, in one go (syncfs(2))."""
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
