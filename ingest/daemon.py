"""`llm-ingest`: watches folders, claims, reads, routes and submits documents; recovers lost claims; runs commands."""

import os

from redis.exceptions import RedisError

from llm_scheduler.ingest.claimer import Claimer
from llm_scheduler.ingest.command_runner import CommandRunner
from llm_scheduler.ingest.outage_note import OutageNote
from llm_scheduler.ingest.recovery import Recovery
from llm_scheduler.ingest.router import Router
from llm_scheduler.ingest.splitter import Splitter
from llm_scheduler.ingest.spool import Claims, FolderError, Folders, FreezeLock
from llm_scheduler.ingest.spool_access import SpoolAccess
from llm_scheduler.ingest.submitter import Submitter
from llm_scheduler.jobs import faults
from llm_scheduler.jobs.document import new_id
from llm_scheduler.jobs.process.outage import Outage
from llm_scheduler.jobs.process.runtime import Runtime, daemon_runtime
from llm_scheduler.jobs.sealing import seal_of_originals
from llm_scheduler.jobs.store.keys import keys_of

TICK_SECONDS = 1.0
RECOVER_EVERY = 30.0
_FREEZE_SECONDS = 0.02  # between two looks at the freeze lock


class Ingest:
    """The daemon: `run` is its loop."""

    def __init__(self, runtime: Runtime, at: faults.FaultPoint = faults.no_faults) -> None:
        config, redis, clock = runtime.config, runtime.redis, runtime.clock
        self._runtime = runtime
        self._folders = Folders.of(config.directories)
        claims = Claims(self._folders.temp, at)
        submitter = Submitter(config, redis, clock)
        splitter = Splitter(self._folders, claims, at, seal_of_originals(config.security))
        self._router = Router(config)
        self._claimer = Claimer(runtime, claims, self._router, submitter, splitter, at)
        self._recovery = Recovery(runtime, claims, self._router, submitter, splitter)
        self._commands = CommandRunner(runtime, claims, self._router, submitter)
        self._outage = Outage(runtime.log, report=runtime.notify.alive)
        self._note = OutageNote(self._folders.temp)
        self._freeze = FreezeLock(self._folders.temp, "moves")
        self._access = SpoolAccess(runtime, "ingest", self._folders)
        self._next_recovery = float("-inf")
        self._epoch: object = None

    def run(self) -> None:
        try:
            while not self._runtime.stop:
                try:
                    self._work()
                except (FolderError, OSError) as error:
                    self._access.wait(error)
                self._next_recovery = float("-inf")
        finally:
            self._runtime.notify.stopping()
            self._claimer.queue.hints.stop()
            self._freeze.close()
            self._access.close()

    def _work(self) -> None:
        """Take documents. Returns when told to stop. Raises `FolderError` and OSError; waits while Redis is away."""
        for folder in self._folders.prepare():
            self._runtime.log.info("Made the folder %s", folder)
        self._access.lock()
        queue = self._claimer.queue
        while not self._runtime.stop:
            queue.hints.watch()
            if not self._freeze.enter():
                self._runtime.notify.alive("Waits for a moment, while a backup begins")
                self._runtime.stop.wait(_FREEZE_SECONDS)
                continue
            try:
                idle = self._step()
            except RedisError as error:
                self._note.write(self._runtime.clock.now() - self._outage.seconds)
                self._runtime.stop.wait(self._outage.failed(error))
                self._next_recovery = float("-inf")
                continue
            self._access.trouble = ""
            self._runtime.notify.alive(f"Takes documents: {self._claimer.status()}")
            if idle:
                self._folders.prepare()
                times = TICK_SECONDS, self._access.heartbeat.due_in(), queue.seconds_until_next()
                queue.hints.wait(max(0.005, min(times)))

    def _step(self) -> bool:
        """One turn of the loop, within the freeze lock. Returns whether it was idle. Raises RedisError."""
        try:
            self._check_redis()
            return not self._commands.run() and not self._claimer.run()
        finally:
            self._freeze.leave()

    def _check_redis(self) -> None:
        """Send the heartbeat, and recover claims: now and then, and when Redis has lost its data."""
        now = self._runtime.clock.monotonic()
        if self._access.heartbeat.is_due() or self._outage.seconds:
            epoch = self._read_epoch()
            if self._outage.seconds:
                self._outage.over()
            self._note.remove()
            if not epoch or epoch != self._epoch:
                if self._epoch:
                    self._runtime.log.warning("Redis has lost its data. Every claim on disk is submitted again.")
                self._next_recovery = float("-inf")
            self._access.check_restart()
            if message := self._router.refresh():
                self._runtime.log.warning("%s", message)
            self._access.heartbeat.send("working", self._claimer.status())
        if now >= self._next_recovery:
            self._recovery.run()
            self._next_recovery = now + RECOVER_EVERY
            self._runtime.redis.set(keys_of(self._runtime.redis).epoch, new_id(self._runtime.clock.now()), nx=True)
            self._epoch = self._read_epoch()

    def _read_epoch(self) -> object:
        """The mark that ingest sets in Redis; None when Redis has lost it."""
        return self._runtime.redis.get(keys_of(self._runtime.redis).epoch)


def main() -> None:
    with daemon_runtime("ingest", "Take documents from the watch folders.") as runtime:
        runtime.notify.status("Starts: settles what is in the spool.")
        runtime.log.info("Watching %s", ", ".join(runtime.config.directories.watch))
        Ingest(runtime, faults.from_environment(os.environ)).run()


if __name__ == "__main__":
    main()
