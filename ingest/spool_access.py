"""What ingest and the collector share: the lock of the spool, the heartbeat, waiting while the folders have a fault."""

from llm_scheduler.ingest.spool import FolderError, Folders, SpoolLock, explain
from llm_scheduler.jobs.process.heartbeat import Heartbeat
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.store.commands import RestartWatch
from llm_scheduler.jobs.store.full_redis import finishing
from llm_scheduler.jobs.store.keys import keys_of

WAIT_SECONDS = 1.0


class SpoolAccess:
    """A daemon's hold on its spool. `trouble` is the message while the folders can't be used, else ""."""

    def __init__(self, runtime: Runtime, role: str, folders: Folders) -> None:
        key = keys_of(runtime.redis).heartbeat(role)
        self.heartbeat = Heartbeat(finishing(runtime.redis), key, runtime.clock, folders.temp)
        self.trouble = ""
        self._runtime = runtime
        self._role = role
        self._temp = folders.temp
        self._lock = SpoolLock(folders.temp, role)
        self._restart = RestartWatch()

    def lock(self) -> None:
        """Take the lock, unless this process has it. Raises `FolderError`."""
        try:
            if self._lock.take():
                return
        except OSError as error:
            raise FolderError(explain(error, self._temp)) from None
        raise FolderError(
            f"Another llm-{self._role} (process {self._lock.holder()}) works on {self._temp}. "
            "This one waits until it stops."
        )

    def check_restart(self) -> None:
        """Stop the daemon if a restart was asked for. Raises RedisError."""
        if self._restart.check(self._runtime.redis):
            self._runtime.log.info("A restart was asked for")
            self._runtime.stop.set()

    def wait(self, error: FolderError | OSError) -> None:
        """Report what is wrong, in the log only once, and wait a second."""
        trouble = explain(error) if isinstance(error, OSError) else str(error)
        if trouble != self.trouble:
            self._runtime.log.error("%s", trouble)
            self.trouble = trouble
        self._runtime.notify.alive(f"Waits: {trouble}")
        self.heartbeat.try_send("waiting", trouble)
        self._runtime.stop.wait(WAIT_SECONDS)

    def close(self) -> None:
        """Let the next process work."""
        self._lock.release()
        self.heartbeat.remove()
