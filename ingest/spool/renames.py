"""Renames that never overwrite, names that fit the file system, and one sync for many files."""

import ctypes
import errno
import os
import sys
from collections.abc import Iterator

NAME_BYTES = 255  # NAME_MAX of every file system in common use
PATH_BYTES = 4095  # PATH_MAX without its NUL
LINES = ".lines"  # behind the name of a file, in the archive: the folder of what was in it
_SUFFIX_BYTES = 100  # what is longer is no suffix, only a name with a dot in it
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1  # renameat2(2)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_renameat2 = getattr(_libc, "renameat2", None)


def rename_new(source: str, target: str) -> None:
    """Rename `source` to `target`. Raises FileExistsError, changing nothing, when there is a `target`."""
    if _renameat2 is not None:
        done = _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
        if done == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(number, os.strerror(number), source, None, target)
    # Without the system call (or on a file system without it) the spool's lock has to do: nobody else writes here.
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)
    os.rename(source, target)


def with_id(source: str, document_id: str, room: int = 0) -> str:
    """`source` with the id between stem and suffix, for a name that is taken: `a/b.json` becomes `a/b.<id>.json`.

    The stem is cut so that the name, with `room` bytes to spare, is a legal one. It never becomes empty: a name that
    starts with the dot before the id would be hidden, and passed over for ever in a watch folder.
    """
    folder, name = os.path.split(source)
    stem, suffix = os.path.splitext(name)
    if len(os.fsencode(suffix)) > _SUFFIX_BYTES:
        stem, suffix = name, ""
    return os.path.join(folder, fitted(stem, f".{document_id}{suffix}", room))


def names_for(source: str, document_id: str, ending: str = "") -> Iterator[str]:
    """The paths that a document called `source` may get below a folder, the best first.

    `ending` is what a report's name has behind it.
    """
    fits = len(os.fsencode(os.path.basename(source))) + len(ending) <= NAME_BYTES
    if fits:
        yield source
    longer = with_id(source, document_id, room=len(ending))
    yield longer
    yield os.path.join(f"{document_id}.conflict", os.path.basename(source if fits else longer))


def among_lines(source: str) -> str:
    """Where below the archive a document goes that was a line of a file: not where that file itself is."""
    folder, name = os.path.split(source)
    return os.path.join(f"{folder}{LINES}", name)


def results_for(home: str) -> Iterator[str]:
    """Where below the output folder the result of an original may be, by the original's path below the archive."""
    yield home
    folder, name = os.path.split(home)
    if folder.endswith(LINES):
        yield os.path.join(folder.removesuffix(LINES), name)


def fitted(stem: str, ending: str, room: int = 0) -> str:
    """`stem + ending`, the stem cut so that the whole, with `room` bytes to spare, is a legal file name."""
    return _cut(stem, max(0, NAME_BYTES - room - len(os.fsencode(ending)))) + ending


def within(source: str) -> str:
    """`source` as a path that stays below the folder it is joined to, whatever a manifest says."""
    parts = [part for part in source.replace("\0", "").split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "unnamed"


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of `text`, cut between characters; bytes that are no UTF-8 are kept as they are."""
    raw = os.fsencode(text)
    if len(raw) <= limit:
        return text
    end = limit
    while end > limit - 4 and raw[end] & 0xC0 == 0x80:
        end -= 1
    return os.fsdecode(raw[: end if raw[end] & 0xC0 != 0x80 else limit])


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
