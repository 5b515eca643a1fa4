"""One ingest and one collector for each spool: the holder of the lock works, a second process waits and names it."""

import contextlib
import fcntl
import os

from llm_scheduler.ingest.spool.file_io import try_lock


class SpoolLock:
    """An advisory lock (flock(2)) on a file in the temp folder. The kernel releases it when its holder dies."""

    def __init__(self, temp: str, role: str) -> None:
        self._path = os.path.join(temp, f".{role}.lock")
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Try to take the lock. Raises OSError when the file can't be made."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if not try_lock(descriptor, fcntl.LOCK_EX):
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
