"""`llm-scheduler`: rq-scheduler, made safe to kill, to double and to leave without Redis.

Its schedules are in rq-scheduler's own keys. What is due is either a job for later (a retry), which goes to its queue,
or the flush of a batch, which this process does itself. Between the two it looks for the work of dead workers and
keeps the ledger in bounds. Differences from rq-scheduler 0.14.0 are told in docs/decisions/0003-rq-scheduler.md.
"""

import logging
import os
import secrets
import socket
from datetime import UTC, datetime

from redis import Redis
from rq.utils import utcformat
from rq_scheduler import Scheduler

from jobs import batch, ledger
from jobs.clock import Clock, SystemClock
from jobs.config import Config
from jobs.connection import AWAY, connect
from jobs.document import Status
from jobs.process import URL_VARIABLE, Outage, Stop, start
from jobs.reaper import Reaper, is_away
from jobs.rq_job import FLUSH, DocumentJob
from jobs.submission import SCHEDULE, queue_key

TICK_SECONDS = 0.5
LOCK_SECONDS = 10
REAP_EVERY = 1.0
KEEP_HOUSE_EVERY = 30.0
LEDGER_DOCUMENTS = 1_000_000  # final documents kept in each of the ledger's sets

# KEYS: lock. ARGV: owner, milliseconds. The lock has an owner: it is renewed by it and taken over when it runs out.
_LOCK = """
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
if owner then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

# KEYS: schedule, queue, job, rq:queues. ARGV: job id. Puts a due job on its queue once, in one step.
_DELIVER = """
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
if redis.call('EXISTS', KEYS[3]) == 0 then return 0 end
redis.call('HSET', KEYS[3], 'status', 'queued', 'enqueued_at', ARGV[2])
redis.call('SADD', KEYS[4], KEYS[2])
redis.call('RPUSH', KEYS[2], ARGV[1])
return 1
"""


class DocumentScheduler(Scheduler):  # type: ignore[misc]
    """rq-scheduler with an owned lock, one step for each due job, and no job able to stop the others."""

    def __init__(self, config: Config, redis: Redis, clock: Clock, stop: Stop, log: logging.Logger) -> None:
        super().__init__(
            queue_name=config.queue.priority_levels[0],
            connection=redis,
            interval=LOCK_SECONDS,
            job_class=DocumentJob,
            name=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        )
        self._config = config
        self._clock = clock
        self._stop = stop
        self._log = log
        self._outage = Outage(log)
        self._reaper = Reaper(redis, config.queue.priority_levels, clock, log)
        self._reaped = self._kept_house = float("-inf")

    def run(self, burst: bool = False) -> None:
        """Do what is due every half second until told to stop (once, with `burst`)."""
        waiting = False
        while not self._stop:
            try:
                if self.acquire_lock():
                    waiting = False
                    self.tick()
                elif not waiting:
                    waiting = True
                    self._log.info("Another scheduler holds the lock; this one stands by")
                self._outage.over()
            except AWAY as error:
                self._stop.wait(self._outage.failed(error))
            if burst:
                break
            self._stop.wait(TICK_SECONDS)
        try:
            self.remove_lock()
        except AWAY:
            pass  # it runs out by itself

    def tick(self) -> None:
        """One round of everything that is due."""
        self.enqueue_jobs()
        now = self._clock.monotonic()
        if now - self._reaped >= REAP_EVERY:
            self._reaped = now
            self._reaper.reap()
        if now - self._kept_house >= KEEP_HOUSE_EVERY:
            self._kept_house = now
            self.register_schedules()
            ledger.trim(self.connection, self._config.queue.priority_levels, LEDGER_DOCUMENTS)

    def acquire_lock(self) -> bool:
        """Take or renew the lock; True when it is this scheduler's."""
        self._lock_acquired = bool(
            self.connection.eval(_LOCK, 1, self.scheduler_lock_key, self.name, int(LOCK_SECONDS * 1000))
        )
        return self._lock_acquired

    def remove_lock(self) -> None:
        """Give the lock up, if it is this scheduler's."""
        self.connection.eval(_UNLOCK, 1, self.scheduler_lock_key, self.name)
        self._lock_acquired = False

    def register_schedules(self) -> None:
        """Make sure that the flushes' entries exist under their fixed ids, and are due while a batch waits."""
        for queue in self._config.queue.priority_levels:
            fields = batch.schedule_fields(queue, self.connection)
            with self.connection.pipeline() as pipeline:
                pipeline.hset(DocumentJob.key_for(batch.flush_id(queue)), mapping=fields)
                # A batch whose schedule was lost is looked at now: the flush puts the right time back.
                pipeline.llen(batch.key(queue))
                waiting = pipeline.execute()[-1]
            if waiting:
                self.connection.zadd(SCHEDULE, {batch.flush_id(queue): self._clock.now()}, nx=True)

    def enqueue_jobs(self) -> list[str]:
        """Do what is due. Returns the ids of the entries that were."""
        due: list[str] = []
        for member in self.connection.zrangebyscore(SCHEDULE, "-inf", self._clock.now()):
            job_id = member.decode(errors="replace")
            due.append(job_id)
            try:
                self._do(member.decode())
            except Exception as error:
                if is_away(error):
                    raise
                self._log.exception("The scheduled job %s could not be read; it is put off for a minute", job_id)
                self.connection.zadd(SCHEDULE, {member: self._clock.now() + 60}, xx=True)
        return due

    def _do(self, job_id: str) -> None:
        for queue in self._config.queue.priority_levels:
            if job_id == batch.flush_id(queue):
                moved = batch.flush(self.connection, queue, self._config.processing, self._clock)
                if moved:
                    self._log.info("Flushed a batch of %s: %d document(s)", queue, moved)
                return
        fields = self.connection.hgetall(DocumentJob.key_for(job_id))
        if not fields:
            self.connection.zrem(SCHEDULE, job_id)
            return
        job = DocumentJob(job_id, self.connection)
        job.restore(fields)
        if job.func_name == FLUSH:
            self.connection.zrem(SCHEDULE, job_id)  # of a queue that is no longer configured
            return
        now = self._clock.now()
        with self.connection.pipeline() as pipeline:
            pipeline.eval(_DELIVER, 4, SCHEDULE, queue_key(job.origin), job.key, "rq:queues", job_id, _rq_time(now))
            entries = [(packet.id, {"rq_job_id": job_id}) for packet in job.packets]
            ledger.move(pipeline, Status.QUEUED, now, entries)
            pipeline.execute()


def _rq_time(epoch: float) -> str:
    return str(utcformat(datetime.fromtimestamp(epoch, UTC)))


def main() -> None:
    """Entry point of `llm-scheduler`."""
    config, log = start("scheduler")
    stop = Stop()
    stop.on_signals()
    redis = connect(os.environ.get(URL_VARIABLE, config.queue.redis_url))
    try:
        log.info("Scheduler started")
        DocumentScheduler(config, redis, SystemClock(), stop, log).run()
        log.info("Scheduler has stopped")
    finally:
        redis.close()


if __name__ == "__main__":
    main()
