"""One ingest and one collector a spool: whoever holds the lock works, a second one waits and says for whom."""

import contextlib
import fcntl
import os


class SpoolLock:
    """An advisory lock (flock(2)) on a file in the temp folder. The kernel lets go of it when its holder dies."""

    def __init__(self, temp: str, role: str) -> None:
        self._path = os.path.join(temp, f".{role}.lock")
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Try to take the lock. Raises OSError when the file can't be made."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same; only the name is missing
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return True

    def holder(self) -> str:
        """The process id in the lock file: who holds it, when somebody does."""
        try:
            with open(self._path, encoding="ascii") as file:
                return file.read().strip() or "unknown"
        except (OSError, ValueError):
            return "unknown"

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
