"""The advisory locks (flock(2)) in the temp folder of a spool. The kernel releases them when their holder dies."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Literal

_POLL_SECONDS = 0.005


class SpoolLock:
    """One ingest and one collector for each spool: the holder works, a second process waits and names it."""

    def __init__(self, temp: str, role: str) -> None:
        self._path = os.path.join(temp, f".{role}.lock")
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Try to take the lock. Raises OSError when the file can't be made."""
        if self._descriptor is not None:
            return True
        descriptor = _open(self._path)
        if not _try_lock(descriptor, fcntl.LOCK_EX):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # on a full disk the lock still holds; only the process id is missing
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return True

    def holder(self) -> str:
        """The process id in the lock file, "unknown" when there is none."""
        try:
            with open(self._path, encoding="ascii") as file:
                return file.read().strip() or "unknown"
        except (OSError, ValueError):
            return "unknown"

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class FreezeTimeout(Exception):
    """Ingest did not leave in time, or another backup holds the lock."""


class FreezeLock:
    """With it, a backup stops the `moves` of ingest (claiming, splitting, moving back) or its `retries` for a moment.

    It has two locks. With one alone, ingest could take it again and again while a backup waits for it. A backup takes
    the first lock and then waits for the second; ingest needs the first one to get at the second.
    """

    def __init__(self, temp: str, scope: Literal["moves", "retries"]) -> None:
        self._paths = [os.path.join(temp, f".{scope}.{part}.lock") for part in ("gate", "pass")]
        self._descriptors: list[int] = []

    def enter(self) -> bool:
        """Begin to move files. False while a backup has the lock; True: none gets it before `leave`. Raises OSError."""
        first, second = self._opened()
        if not _try_lock(first, fcntl.LOCK_SH):
            return False
        try:
            return _try_lock(second, fcntl.LOCK_SH)
        finally:
            fcntl.flock(first, fcntl.LOCK_UN)

    def leave(self) -> None:
        """End what began with `enter`."""
        fcntl.flock(self._opened()[1], fcntl.LOCK_UN)

    @contextlib.contextmanager
    def hold(self, seconds: float) -> Iterator[None]:
        """Keep ingest out for the length of a block. Raises `FreezeTimeout` after `seconds`, and OSError."""
        end = time.monotonic() + seconds
        descriptors = self._opened()
        try:
            for descriptor in descriptors:
                while not _try_lock(descriptor, fcntl.LOCK_EX):
                    if time.monotonic() >= end:
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
            descriptor = _open(path)
            self._descriptors.append(descriptor)
            if os.geteuid() == 0:  # the backup runs as root, and ingest has to be able to open the file
                owner = os.stat(os.path.dirname(path))
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return self._descriptors


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
