"""`llm-scheduler`: rq-scheduler, made safe to kill, to run twice, and to run without Redis.

It delivers what is due on the schedule. In between it returns the work of dead workers to the queues, raises alerts
for late documents, and keeps the ledger bounded. docs/decisions/0003-rq-scheduler.md lists the differences from
rq-scheduler 0.14.0.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

from rq_scheduler import Scheduler

from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.process.heartbeat import Heartbeat
from llm_scheduler.jobs.process.outage import Outage
from llm_scheduler.jobs.process.runtime import Runtime, daemon_runtime
from llm_scheduler.jobs.scheduler import delivery, late_documents, scheduler_lock
from llm_scheduler.jobs.scheduler.delivery import Delivery, is_outage
from llm_scheduler.jobs.scheduler.maintenance import Maintenance
from llm_scheduler.jobs.store import batches
from llm_scheduler.jobs.store.commands import RestartWatch
from llm_scheduler.jobs.store.full_redis import FinishingRedis
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.rq_job import DocumentJob
from llm_scheduler.jobs.worker.reaper import Reaper

_TICK_SECONDS = 1.0  # between two checks of the schedule, unless something is due sooner
_SHORT_TICK_SECONDS = 0.5  # after something was done
LOCK_SECONDS = 4.0  # a dead owner loses the lock at once, where it can be seen to be dead
LATE_CHECK_SECONDS = 5.0
_LOG_AGAIN_SECONDS = 60.0  # between two log lines about the same failing step

_T = TypeVar("_T")


class _DueWork(NamedTuple):
    """What may be due: `flushes` of these queues, `jobs` on the schedule, jobs that workers have `begun` (and may have
    died with). `pause`: seconds until the next check."""

    flushes: Sequence[str]
    jobs: bool
    begun: bool
    pause: float = _SHORT_TICK_SECONDS


class DocumentScheduler(Scheduler):  # type: ignore[misc]
    """rq-scheduler with a lock that has an owner, and with steps that cannot stop each other."""

    def __init__(self, runtime: Runtime) -> None:
        config, redis, clock, log = runtime.config, runtime.redis, runtime.clock, runtime.log
        levels = config.queue.priority_levels
        owner = scheduler_lock.owner_name()
        super().__init__(queue_name=levels[0], connection=redis, job_class=DocumentJob, name=owner)
        self._levels = levels
        self._queue_timeout = config.processing.queue_timeout
        self._clock = clock
        self._stop = runtime.stop
        self._log = log
        self._notify = runtime.notify
        self._keys = keys_of(redis)
        self.redis_scheduler_namespace_prefix = self._keys.scheduler_instances
        self.scheduler_key = self._keys.scheduler
        self.scheduler_lock_key = self._keys.scheduler_lock
        self.scheduled_jobs_key = self._keys.schedule
        self._outage = Outage(log, report=self._notify.alive)
        self._reaper = Reaper(redis, levels, clock, log)
        self._delivery = Delivery(runtime)
        self._maintenance = Maintenance(runtime)
        self._next_run: dict[str, float] = {}  # by the name of the step
        self._logged_at: dict[str, float] = {}
        self._pause = _TICK_SECONDS
        self._renew_at = float("-inf")
        self._restart = RestartWatch()
        self._heartbeat = Heartbeat(redis, self._keys.heartbeat("scheduler"), clock)
        self._has_suspects = False  # the reaper has seen work that may be abandoned

    def run(self, burst: bool = False) -> None:
        """Do what is due until asked to stop (once, with `burst`)."""
        waiting = False
        while not self._stop:
            more = False
            try:
                if self._holds_lock():
                    waiting = False
                    if self._heartbeat.is_due():
                        self._heartbeat.send("working", "")
                    more = self.tick()
                    self._notify.alive("Flushes batches, delivers retries, keeps house")
                else:
                    if not waiting:
                        self._log.info("Another scheduler holds the lock; this one stands by")
                    waiting = True
                    self._notify.alive("Stands by: another scheduler holds the lock")
                self._outage.over()
            except AWAY as error:
                self._stop.wait(self._outage.failed(error))
            if burst:
                break
            if not more:
                self._stop.wait(min(self._pause if self._lock_acquired else _TICK_SECONDS, LOCK_SECONDS / 4))
        self._notify.stopping()
        if self._lock_acquired:
            self._heartbeat.remove()
        with suppress(*AWAY):  # it expires
            self.remove_lock()

    def tick(self) -> bool:
        """Do everything that is due. True when more is due already. Raises only when Redis is away."""
        due = self._step("the check of the schedule", 0, self._find_due_work)
        due = due or _DueWork(self._levels, jobs=True, begun=True)
        self._pause = due.pause
        for queue in due.flushes:
            self._step(f"the flush of {queue}", 0, partial(self._delivery.flush, queue))
        delivered = self._step("the delivery of due jobs", 0, self.enqueue_jobs) if due.jobs else None
        self._step("the check for a restart", 2.0, self._check_restart)
        self._step("the check of the server", 5.0, self._maintenance.check_server)
        if due.begun or self._has_suspects:  # once more after the last job, so that the reaper drops its suspects
            self._step("the search for abandoned work", 1.0, partial(self._reap, due.begun))
        late = (self.connection, self._levels, self._queue_timeout, self._clock, self._log)
        self._step("the search for late documents", LATE_CHECK_SECONDS, partial(late_documents.check_late, *late))
        for queue in self._levels:
            register = partial(self._delivery.register_flush, queue)
            self._step(f"the schedule of {queue}", 30.0, register)
        self._step("the trimming of the ledger", 5.0, self._maintenance.trim_ledger)
        return len(delivered or ()) >= delivery.MAX_JOBS

    def enqueue_jobs(self) -> list[str]:
        return self._delivery.deliver_jobs()

    def acquire_lock(self) -> bool:
        """Take or renew the lock. True when it is this scheduler's."""
        taken = scheduler_lock.take(self.connection, self.scheduler_lock_key, self.name, LOCK_SECONDS)
        self._lock_acquired = taken
        return taken

    def remove_lock(self) -> None:
        """Release the lock, if it is this scheduler's."""
        scheduler_lock.release(self.connection, self.scheduler_lock_key, self.name)
        self._lock_acquired = False

    def _holds_lock(self) -> bool:
        """Whether the lock is this scheduler's. While most of its time is left, Redis is not asked."""
        now = self._clock.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + LOCK_SECONDS * 0.4 if self.acquire_lock() else float("-inf")
        return bool(self._lock_acquired)

    def _find_due_work(self) -> _DueWork:
        """What may be due, in one round trip: most often it is nothing."""
        now, schedule = self._clock.now(), self._keys.schedule
        with self.connection.pipeline(transaction=False) as pipeline:
            pipeline.zmscore(schedule, [batches.flush_id(queue) for queue in self._levels])
            pipeline.zcount(schedule, "-inf", now)
            pipeline.zrangebyscore(schedule, f"({now}", now + _TICK_SECONDS, start=0, num=1, withscores=True)
            # One of these exists while a worker has a job, or died with one.
            pipeline.exists(*map(self._keys.intermediate, self._levels), *map(self._keys.begun, self._levels))
            flushes, due, coming, begun = pipeline.execute()
        late = [queue for queue, at in zip(self._levels, flushes, strict=True) if at is not None and at <= now]
        # What is done now may add to the schedule.
        pause = _SHORT_TICK_SECONDS if due else coming[0][1] - now if coming else _TICK_SECONDS
        return _DueWork(late, jobs=due > len(late), begun=bool(begun), pause=pause)

    def _step(self, name: str, every: float, do: Callable[[], _T]) -> _T | None:
        """Do a step, but not within `every` seconds of the last time. A failure is logged, for each step at most once a
        minute; the result is None then."""
        now = self._clock.monotonic()
        if now < self._next_run.get(name, float("-inf")):
            return None
        self._next_run[name] = now + every
        try:
            return do()
        except Exception as error:
            if is_outage(error):
                raise
            if now >= self._logged_at.get(name, float("-inf")) + _LOG_AGAIN_SECONDS:
                self._logged_at[name] = now
                self._log.exception("A step of the scheduler failed: %s. It will be tried again", name)
            return None

    def _reap(self, begun: bool) -> None:
        self._reaper.reap()
        self._has_suspects = begun

    def _check_restart(self) -> None:
        if self._restart.check(self.connection):
            self._log.info("A restart was requested")
            self._stop.set()


def main() -> None:
    """Entry point of `llm-scheduler`."""
    with daemon_runtime("scheduler", "Put documents on their queues when they are due.", FinishingRedis) as runtime:
        runtime.log.info("Scheduler started")
        DocumentScheduler(runtime).run()


if __name__ == "__main__":
    main()
