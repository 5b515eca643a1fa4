"""The gate that a backup closes: while it is shut, ingest moves nothing.

Two advisory locks (flock(2)), because one alone could be held by ingest turn after turn while somebody waits for it:
whoever shuts the gate takes the first and then waits for the second; who passes has to get by the first.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from typing import Literal

_POLL_SECONDS = 0.005

# `moves`: claims, what is taken apart or put back. `retries`: finished documents that are tried again.
Gates = Literal["moves", "retries"]


class GateBusy(Exception):
    """Ingest has not let go of the gate in time, or another backup stands in it."""


class Gate:
    """One of the two gates of a spool. Who passes has to `leave` again."""

    def __init__(self, temp: str, name: Gates) -> None:
        self._paths = [os.path.join(temp, f".{name}.{part}.lock") for part in ("gate", "pass")]
        self._descriptors: list[int] = []

    def passes(self) -> bool:
        """Whether the gate is open; then it can't be shut before `leave`. Raises OSError."""
        gate, within = self._opened()
        if not _take(gate, fcntl.LOCK_SH):
            return False
        try:
            return _take(within, fcntl.LOCK_SH)
        finally:
            fcntl.flock(gate, fcntl.LOCK_UN)

    def leave(self) -> None:
        """The end of what began with `passes`."""
        fcntl.flock(self._opened()[1], fcntl.LOCK_UN)

    @contextlib.contextmanager
    def shut(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> Iterator[None]:
        """Keep the gate shut for the length of a block. Raises `GateBusy` after `seconds`, and OSError."""
        end = monotonic() + seconds
        locks = self._opened()
        try:
            for lock in locks:
                while not _take(lock, fcntl.LOCK_EX):
                    if monotonic() >= end:
                        raise GateBusy
                    time.sleep(_POLL_SECONDS)
            yield
        finally:
            for lock in locks:
                fcntl.flock(lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of everything."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def _opened(self) -> list[int]:
        for path in self._paths[len(self._descriptors) :]:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._descriptors.append(descriptor)
            if os.geteuid() == 0:  # an administrator's backup: ingest has to be able to open it, too
                owner = os.stat(os.path.dirname(path))
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return self._descriptors


def _take(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
