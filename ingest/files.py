"""Reading and writing files whole, without Python's file objects: they cost as much as the system calls."""

import os


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
