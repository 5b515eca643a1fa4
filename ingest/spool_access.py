"""The lock of ingest or collector, and waiting while something is wrong with the folders."""

from llm_scheduler.ingest.spool import FolderError, Folders, SpoolLock, explain
from llm_scheduler.jobs.process.heartbeat import Heartbeat
from llm_scheduler.jobs.process.runtime import Runtime

WAIT_SECONDS = 1.0


class SpoolAccess:
    """The lock of one daemon on its spool. `trouble` is the message while the folders can't be used, else ""."""

    def __init__(self, runtime: Runtime, role: str, folders: Folders, heartbeat: Heartbeat) -> None:
        self.trouble = ""
        self._runtime = runtime
        self._role = role
        self._folders = folders
        self._heartbeat = heartbeat
        self._lock = SpoolLock(folders.temp, role)

    def lock(self) -> None:
        """Take the lock, unless this process has it. Raises `FolderError`."""
        try:
            if self._lock.take():
                return
        except OSError as error:
            raise FolderError(explain(error, self._folders.temp)) from None
        raise FolderError(
            f"Another llm-{self._role} (process {self._lock.holder()}) works on {self._folders.temp}. "
            "This one waits until it stops."
        )

    def wait(self, trouble: str) -> None:
        """Report `trouble`, in the log only once, and wait a second."""
        if trouble != self.trouble:
            self._runtime.log.error("%s", trouble)
            self.trouble = trouble
        self._runtime.notify.alive(f"Waits: {trouble}")
        self._heartbeat.try_send("waiting", trouble)
        self._runtime.stop.wait(WAIT_SECONDS)

    def release(self) -> None:
        self._lock.release()
