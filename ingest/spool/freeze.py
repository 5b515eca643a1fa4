"""The freeze: a backup stops ingest from moving files for a moment.

Two advisory locks (flock(2)). With one alone, ingest could take it again and again while a backup waits for it. A
backup takes the first lock and then waits for the second; ingest needs the first one to get at the second.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from typing import Literal

from llm_scheduler.ingest.spool.file_io import try_lock

_POLL_SECONDS = 0.005

# `moves`: claiming, splitting, moving back. `retries`: retrying finished documents.
FreezeScope = Literal["moves", "retries"]


class FreezeTimeout(Exception):
    """Ingest did not leave in time, or another backup holds the lock."""


class FreezeLock:
    """One of the two freeze locks of a spool."""

    def __init__(self, temp: str, scope: FreezeScope) -> None:
        self._paths = [os.path.join(temp, f".{scope}.{part}.lock") for part in ("gate", "pass")]
        self._descriptors: list[int] = []

    def enter(self) -> bool:
        """Begin to move files. False while a backup holds the lock; True: no backup gets it before `leave`.

        Raises OSError.
        """
        first, second = self._opened()
        if not try_lock(first, fcntl.LOCK_SH):
            return False
        try:
            return try_lock(second, fcntl.LOCK_SH)
        finally:
            fcntl.flock(first, fcntl.LOCK_UN)

    def leave(self) -> None:
        """End what began with `enter`."""
        fcntl.flock(self._opened()[1], fcntl.LOCK_UN)

    @contextlib.contextmanager
    def hold(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> Iterator[None]:
        """Keep ingest out for the length of a block. Raises `FreezeTimeout` after `seconds`, and OSError."""
        end = monotonic() + seconds
        descriptors = self._opened()
        try:
            for descriptor in descriptors:
                while not try_lock(descriptor, fcntl.LOCK_EX):
                    if monotonic() >= end:
                        raise FreezeTimeout
                    time.sleep(_POLL_SECONDS)
            yield
        finally:
            for descriptor in descriptors:
                fcntl.flock(descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def _opened(self) -> list[int]:
        for path in self._paths[len(self._descriptors) :]:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._descriptors.append(descriptor)
            if os.geteuid() == 0:  # the backup runs as root, and ingest has to be able to open the file
                owner = os.stat(os.path.dirname(path))
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return self._descriptors
