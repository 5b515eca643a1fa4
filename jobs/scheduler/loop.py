"""`llm-scheduler`: rq-scheduler, made safe to kill, to double and to leave without Redis.

Its schedules are in rq-scheduler's own keys. What is due is either a job for later (a retry), which goes to its queue,
or the flush of a batch, which this process does itself. Between the two it looks for the work of dead workers and for
documents that wait too long, and keeps the ledger in bounds. Whatever changes what is scheduled is one script that
looks for itself whether there is something to do: this process may be killed, or frozen and overtaken by another, at
any of its steps. Differences from rq-scheduler 0.14.0 are told in docs/decisions/0003-rq-scheduler.md.
"""

import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from redis import Redis
from rq import Queue
from rq.utils import utcformat
from rq_scheduler import Scheduler

from llm_scheduler.jobs.clock import Clock, SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.process import arguments, liveness
from llm_scheduler.jobs.process.connection import AWAY, connect
from llm_scheduler.jobs.process.heartbeat import Word
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.process.startup import URL_VARIABLE, Outage, Stop, start
from llm_scheduler.jobs.scheduler import late_documents
from llm_scheduler.jobs.store import batches, ledger, server_state
from llm_scheduler.jobs.store.commands import RestartWatch
from llm_scheduler.jobs.store.full_redis import FinishingRedis
from llm_scheduler.jobs.store.rq_job import FLUSH, DocumentJob
from llm_scheduler.jobs.store.submission import SCHEDULE, queue_key
from llm_scheduler.jobs.worker.reaper import Reaper, is_away, work_keys

TICK_SECONDS = 1.0  # between two looks at the schedule, unless something is known to be due sooner
_SHORT_TICK_SECONDS = 0.5  # after something was done
LOCK_SECONDS = 4.0  # of a holder that nobody can see (it is frozen, or on another machine); a dead one loses it at once
REAP_EVERY = 1.0
LOOK_FOR_LATE_EVERY = 5.0
LOOK_FOR_RESTART_EVERY = 2.0
KEEP_HOUSE_EVERY = 30.0
DELIVER_AT_ONCE = 500  # due jobs before the lock is renewed and the flushes are looked at again
_TELL_AGAIN = 60.0
TRIM_EVERY = 5.0
_TRIM_CHUNK = 2000
_TRIM_SECONDS = 0.25  # at a time: the lock has to be renewed, and a batch may be due
SHORT_LEDGER_DOCUMENTS = 1_000  # the same while the server is short of memory
LOOK_AT_SERVER_EVERY = 5.0
_TELL_OF_SERVER_AGAIN = 600.0

# KEYS: lock. ARGV: owner, milliseconds, an owner known to be dead (or ""). The lock has an owner: it is renewed by it,
# and taken over when it runs out or its owner is dead. Returns whose it is.
_LOCK = """
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif not owner or owner == ARGV[3] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  owner = ARGV[1]
end
return owner
"""
_UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

# KEYS: schedule, queue, job, rq:queues. ARGV: job id, time for RQ, now (ms), document ids. Puts a due job on its queue
# and says so in the ledger, once, in one step. A document that no longer waits for a retry is not touched.
_DELIVER = (
    ledger.LUA
    + """
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return 0
end
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[3], 'status', 'queued', 'enqueued_at', ARGV[2])
redis.call('SADD', KEYS[4], KEYS[2])
redis.call('RPUSH', KEYS[2], ARGV[1])
for i = 4, #ARGV do
  local record = ledger.get(ARGV[i])
  if record and record.s == 'retrying' then
    record.j = ARGV[1]
    ledger.move(ARGV[i], record, 'queued', tonumber(ARGV[3]))
  end
end
ledger.tell()
return 1
"""
)
# KEYS: schedule, job. ARGV: job id. Forgets an entry whose job is gone.
_FORGET = "if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end return 0"


class _Look(NamedTuple):
    """What may be due: the flushes of these queues, jobs for later; `work`: somebody has, or had, a job in hand;
    `pause`: seconds until the next look."""

    flushes: Sequence[str]
    jobs: bool
    work: bool
    pause: float = _SHORT_TICK_SECONDS


class DocumentScheduler(Scheduler):  # type: ignore[misc]
    """rq-scheduler with an owned lock, one step for each due job, and no job able to stop the others."""

    def __init__(
        self,
        config: Config,
        redis: Redis,
        clock: Clock,
        stop: Stop,
        log: logging.Logger,
        notify: Notify | None = None,
    ) -> None:
        super().__init__(
            queue_name=config.queue.priority_levels[0],
            connection=redis,
            interval=LOCK_SECONDS,
            job_class=DocumentJob,
            name=_own_name(),
        )
        self._config = config
        self._clock = clock
        self._stop = stop
        self._log = log
        self._notify = notify or Notify()
        self._outage = Outage(log, told=self._notify.turn)
        self._reaper = Reaper(redis, config.queue.priority_levels, clock, log)
        self._due: dict[str, float] = {}  # steps by name, and when each is to be done again
        self._told: dict[str, float] = {}
        self._pause = TICK_SECONDS
        self._renew_at = float("-inf")
        self._trouble = ""  # with the server, as it was told
        self._trouble_again = float("-inf")
        self._restart = RestartWatch()
        self._word = Word(redis, "scheduler", clock)
        self._suspects = False  # the reaper has seen work that may be abandoned

    def run(self, burst: bool = False) -> None:
        """Do what is due until told to stop (once, with `burst`)."""
        waiting = more = False
        while not self._stop:
            try:
                if self._holds_lock():
                    waiting = False
                    if self._word.is_due():
                        self._word.say("working", "")
                    more = self.tick()
                    self._notify.turn("Flushes batches, delivers retries, keeps house")
                else:
                    more = False
                    if not waiting:
                        self._log.info("Another scheduler holds the lock; this one stands by")
                    waiting = True
                    self._notify.turn("Stands by: another scheduler holds the lock")
                self._outage.over()
            except AWAY as error:
                more = False
                self._stop.wait(self._outage.failed(error))
            if burst:
                break
            if not more:
                self._stop.wait(min(self._pause if self._lock_acquired else TICK_SECONDS, LOCK_SECONDS / 4))
        self._notify.stopping()
        if self._lock_acquired:
            self._word.take_back()
        try:
            self.remove_lock()
        except AWAY:
            pass  # it runs out by itself

    def tick(self) -> bool:
        """One round of everything that is due. True when there is more of it already.

        Raises only when Redis is away: what is wrong with one step is logged, and the others are done.
        """
        look = self._look()
        self._pause = look.pause
        for queue in look.flushes:
            self._step(f"the flush of {queue}", 0, partial(self._flush, queue))
        delivered: list[str] = []
        if look.jobs:
            self._step("the delivery of due jobs", 0, lambda: delivered.extend(self.enqueue_jobs()))
        self._step("the look for a restart", LOOK_FOR_RESTART_EVERY, self._look_for_restart)
        self._step("the look at the server", LOOK_AT_SERVER_EVERY, self._look_at_server)
        if look.work or self._suspects:  # once more after the last, for the reaper to forget whom it suspected
            self._step("the search for abandoned work", REAP_EVERY, partial(self._reap, look.work))
        self._step("the search for late documents", LOOK_FOR_LATE_EVERY, self._look_for_late)
        for queue in self._config.queue.priority_levels:
            self._step(f"the schedule of {queue}", KEEP_HOUSE_EVERY, partial(self.register_schedule, queue))
        self._step("the trimming of the ledger", TRIM_EVERY, self._trim)
        return len(delivered) >= DELIVER_AT_ONCE

    def _look(self) -> _Look:
        """What may be due, in one round trip: most often it is nothing. When it can't be seen, it is everything."""
        levels = self._config.queue.priority_levels
        seen = [_Look(levels, jobs=True, work=True)]

        def look() -> None:
            now = self._clock.now()
            with self.connection.pipeline(transaction=False) as pipeline:
                pipeline.zmscore(SCHEDULE, [batches.flush_id(queue) for queue in levels])
                pipeline.zcount(SCHEDULE, "-inf", now)
                pipeline.zrangebyscore(SCHEDULE, f"({now}", now + TICK_SECONDS, start=0, num=1, withscores=True)
                pipeline.exists(*(key for queue in levels for key in work_keys(queue)))
                flushes, due, coming, work = pipeline.execute()
            late = [queue for queue, at in zip(levels, flushes, strict=True) if at is not None and at <= now]
            # What is done now may put something on the schedule.
            pause = _SHORT_TICK_SECONDS if due else coming[0][1] - now if coming else TICK_SECONDS
            seen[0] = _Look(late, jobs=due > len(late), work=bool(work), pause=pause)

        self._step("the look at the schedule", 0, look)
        return seen[0]

    def _reap(self, work: bool) -> None:
        self._reaper.reap()
        self._suspects = work

    def _step(self, name: str, every: float, do: Callable[[], object]) -> None:
        """Do a step if its time has come. Its failure is told once a minute."""
        now = self._clock.monotonic()
        if now < self._due.get(name, float("-inf")):
            return
        self._due[name] = now + every
        try:
            do()
        except Exception as error:
            if _is_away(error):
                raise
            if now >= self._told.get(name, float("-inf")) + _TELL_AGAIN:
                self._told[name] = now
                self._log.exception("A step of the scheduler's failed: %s. It will be tried again", name)

    def _look_for_late(self) -> None:
        limit = self._config.processing.queue_timeout
        late_documents.look(self.connection, self._config.queue.priority_levels, limit, self._clock, self._log)

    def _look_for_restart(self) -> None:
        if self._restart.look(self.connection):
            self._log.info("A restart was asked for")
            self._stop.set()

    def _look_at_server(self) -> None:
        """Say what is wrong with the server; when it is short of memory, forget what is finished rather than stop."""
        found = server_state.look(self.connection)
        if found.is_short:
            levels = self._config.queue.priority_levels
            forgotten = ledger.trim(self.connection, levels, SHORT_LEDGER_DOCUMENTS, chunk=5000)
            if forgotten:
                self._log.warning("Redis is short of memory: %d finished document(s) left its ledger", forgotten)
        trouble = found.trouble() or ""
        now = self._clock.monotonic()
        kind = trouble.partition("(")[0]  # not the figures, which change
        if trouble and (kind != self._trouble or now >= self._trouble_again):
            self._log.error("%s", trouble)
            self._trouble_again = now + _TELL_OF_SERVER_AGAIN
        elif self._trouble and not trouble:
            self._log.info("The trouble with Redis is over: %s", self._trouble.strip())
        self._trouble = kind

    def _trim(self) -> None:
        """Forget final documents by count and age: for a moment only, there may be very many."""
        monitoring = self._config.monitoring
        before = ledger.horizon(self._clock.now(), monitoring.metrics_retention_days)
        levels = self._config.queue.priority_levels
        enough = self._clock.monotonic() + _TRIM_SECONDS
        while ledger.trim(self.connection, levels, monitoring.ledger_documents, before, _TRIM_CHUNK):
            if self._clock.monotonic() >= enough:
                return

    def _holds_lock(self) -> bool:
        """Whether the lock is this scheduler's. While most of its time is left, Redis isn't asked."""
        now = self._clock.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + LOCK_SECONDS * 0.4 if self.acquire_lock() else float("-inf")
        return bool(self._lock_acquired)

    def acquire_lock(self) -> bool:
        """Take or renew the lock; True when it is this scheduler's."""
        holder = self._ask_for_lock()
        if holder != self.name and _is_dead(holder):
            holder = self._ask_for_lock(dead=holder)
        self._lock_acquired = holder == self.name
        return bool(self._lock_acquired)

    def _ask_for_lock(self, dead: str = "") -> str:
        """Take or renew the lock if it is free, this scheduler's, or that of the `dead`. Returns whose it is then."""
        milliseconds = int(LOCK_SECONDS * 1000)
        holder = self.connection.eval(_LOCK, 1, self.scheduler_lock_key, self.name, milliseconds, dead)
        return str(holder.decode(errors="replace"))

    def remove_lock(self) -> None:
        """Give the lock up, if it is this scheduler's."""
        self.connection.eval(_UNLOCK, 1, self.scheduler_lock_key, self.name)
        self._lock_acquired = False

    def register_schedule(self, queue: str) -> None:
        """Make sure that the flush of `queue` is known under its fixed id, and is looked at now if a batch waits."""
        self.connection.hset(
            DocumentJob.key_for(batches.flush_id(queue)), mapping=batches.schedule_fields(queue, self.connection)
        )
        if self.connection.llen(batches.key(queue)):
            # Whatever its schedule says, if it still has one: the configuration may have changed. The flush puts the
            # right time back.
            self.connection.zadd(SCHEDULE, {batches.flush_id(queue): self._clock.now()})

    def _flush(self, queue: str) -> None:
        """Flush the batch of `queue` if its time has come. It does not wait behind the jobs that are due before it."""
        at = self.connection.zscore(SCHEDULE, batches.flush_id(queue))
        if at is None or at > self._clock.now():
            return
        try:
            moved = batches.flush(self.connection, queue, self._config.processing, self._clock)
        except Exception as error:
            if not _is_away(error):
                self._put_off(batches.flush_id(queue))
            raise
        if moved:
            self._log.info("Flushed a batch of %s: %d document(s)", queue, moved)

    def enqueue_jobs(self) -> list[str]:
        """Deliver jobs that are due, at most `DELIVER_AT_ONCE`. Returns the ids of the entries that were."""
        due: list[str] = []
        flushes = {batches.flush_id(queue) for queue in self._config.queue.priority_levels}
        found = self.connection.zrangebyscore(
            SCHEDULE, "-inf", self._clock.now(), start=0, num=DELIVER_AT_ONCE + len(flushes)
        )
        for member in found:
            job_id = member.decode(errors="replace")
            if job_id in flushes:
                continue
            due.append(job_id)
            try:
                self._deliver(member.decode())
            except Exception as error:
                if _is_away(error):
                    raise
                self._log.exception("The scheduled job %s could not be read; it is put off for a minute", job_id)
                self._put_off(member)
        return due

    def _put_off(self, member: bytes | str) -> None:
        self.connection.zadd(SCHEDULE, {member: self._clock.now() + 60}, xx=True)

    def _deliver(self, job_id: str) -> None:
        key = DocumentJob.key_for(job_id)
        fields = self.connection.hgetall(key)
        if not fields:
            self.connection.eval(_FORGET, 2, SCHEDULE, key, job_id)
            return
        job = DocumentJob(job_id, self.connection)
        job.restore(fields)
        if job.func_name == FLUSH:
            self.connection.zrem(SCHEDULE, job_id)  # of a queue that is no longer configured
            return
        now = self._clock.now()
        documents = [payload.id for payload in job.payloads]
        self.connection.eval(
            _DELIVER,
            4,
            *(SCHEDULE, queue_key(job.origin), job.key, Queue.redis_queues_keys),
            *(job_id, _rq_time(now), int(now * 1000), *documents),
        )


def _own_name() -> str:
    """A name of this process's that also says how to see whether it still lives (where that can be seen)."""
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return f"{name} {liveness.here()} {liveness.known_as(os.getpid())}".strip()


def _is_dead(name: str) -> bool:
    """Whether the scheduler of that name is known to be dead. One of another machine never is."""
    parts = name.split(" ")
    return len(parts) == 3 and liveness.is_gone(*parts[1:])


def _is_away(error: Exception) -> bool:
    """Whether to wait for Redis. A script that stumbles over what a key holds will do so again: that is no outage."""
    return is_away(error) and not str(error).startswith(("user_script", "Error running script"))


def _rq_time(epoch: float) -> str:
    return str(utcformat(datetime.fromtimestamp(epoch, UTC)))


def main() -> None:
    """Entry point of `llm-scheduler`."""
    config, log = start(
        "scheduler", arguments.read("llm-scheduler", "Put documents on their queues when they are due.").config
    )
    notify = Notify.of(os.environ, SystemClock())
    stop = Stop()
    stop.on_signals()
    redis = connect(os.environ.get(URL_VARIABLE, config.queue.redis_url), kind=FinishingRedis)
    try:
        log.info("Scheduler started")
        DocumentScheduler(config, redis, SystemClock(), stop, log, notify).run()
        log.info("Scheduler has stopped")
    finally:
        redis.close()


if __name__ == "__main__":
    main()
