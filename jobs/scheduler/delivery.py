"""Delivery of what is due on rq-scheduler's schedule: retries go to their queue, batches are flushed.

Each change of the schedule is one script that checks what it finds. A scheduler may be killed at any moment, or be
frozen while another takes over.
"""

from datetime import UTC, datetime
from typing import Any

from rq.utils import utcformat

from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.store import batches, ledger
from llm_scheduler.jobs.store.keys import keys_of, script
from llm_scheduler.jobs.store.rq_job import FLUSH, DocumentJob
from llm_scheduler.jobs.worker.reaper import is_away

MAX_JOBS = 500  # due jobs at once; then the lock is renewed and the flushes are checked again
_PUT_OFF_SECONDS = 60

# KEYS: schedule, queue, job, RQ's set of queues. ARGV: job id, time for RQ, now (ms), document ids. Puts a due job on
# its queue and updates the ledger, once, in one step. A document that no longer waits for a retry is left alone.
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
# KEYS: schedule, job. ARGV: job id. Removes an entry without a job.
_FORGET = "if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end return 0"


def is_outage(error: Exception) -> bool:
    """Whether to wait for Redis. A script that fails on the contents of a key will fail again: that is no outage."""
    return is_away(error) and not str(error).startswith(("user_script", "Error running script"))


class Delivery:
    def __init__(self, runtime: Runtime) -> None:
        self._redis = runtime.redis
        self._keys = keys_of(runtime.redis)
        self._queues = runtime.config.queue.priority_levels
        self._processing = runtime.config.processing
        self._clock = runtime.clock
        self._log = runtime.log

    def register_flush(self, queue: str) -> None:
        """Make sure that the flush of `queue` exists under its fixed id. If a batch waits, it is due now."""
        flush_id = batches.flush_id(queue)
        fields: dict[Any, Any] = batches.schedule_fields(queue, self._redis)
        self._redis.hset(self._keys.job(flush_id), mapping=fields)
        if self._redis.llen(self._keys.batch(queue)):
            # Even if it is scheduled: the configuration may have changed. The flush sets the right time.
            self._redis.zadd(self._keys.schedule, {flush_id: self._clock.now()})

    def flush(self, queue: str) -> None:
        """Flush the batch of `queue` if it is due. It does not wait for the jobs that were due earlier."""
        flush_id = batches.flush_id(queue)
        at = self._redis.zscore(self._keys.schedule, flush_id)
        if at is None or at > self._clock.now():
            return
        try:
            moved = batches.flush(self._redis, queue, self._processing, self._clock)
        except Exception as error:
            if not is_outage(error):
                self._put_off(flush_id)
            raise
        if moved:
            self._log.info("Flushed a batch of %s: %d document(s)", queue, moved)

    def deliver_jobs(self) -> list[str]:
        """Deliver at most `MAX_JOBS` due jobs. Returns the ids of the entries that were due."""
        flushes = {batches.flush_id(queue).encode() for queue in self._queues}
        most = MAX_JOBS + len(flushes)
        found: Any = self._redis.zrangebyscore(self._keys.schedule, "-inf", self._clock.now(), start=0, num=most)
        due = {member: member.decode(errors="replace") for member in found if member not in flushes}
        for member, job_id in due.items():
            try:
                self._deliver(member.decode())
            except Exception as error:
                if is_outage(error):
                    raise
                self._log.exception("The scheduled job %s could not be read; it is put off for a minute", job_id)
                self._put_off(member)
        return list(due.values())

    def _put_off(self, member: Any) -> None:
        self._redis.zadd(self._keys.schedule, {member: self._clock.now() + _PUT_OFF_SECONDS}, xx=True)

    def _deliver(self, job_id: str) -> None:
        schedule, key = self._keys.schedule, self._keys.job(job_id)
        fields = self._redis.hgetall(key)
        if not fields:
            self._redis.eval(_FORGET, 2, schedule, key, job_id)
            return
        job = DocumentJob(job_id, self._redis)
        job.restore(fields)
        if job.func_name == FLUSH:
            self._redis.zrem(schedule, job_id)  # of a queue that is no longer configured
            return
        now = self._clock.now()
        enqueued_at = str(utcformat(datetime.fromtimestamp(now, UTC)))
        arguments: list[Any] = [job_id, enqueued_at, int(now * 1000), *(payload.id for payload in job.payloads)]
        self._redis.eval(
            script(self._keys, _DELIVER),
            4,
            *(schedule, self._keys.queue(job.origin), key, self._keys.queues),
            *arguments,
        )
