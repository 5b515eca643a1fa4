"""Writing a file whole: every byte, and synced where that is asked for."""

import os


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
