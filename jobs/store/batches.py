"""Batches: documents of a queue that wait until there are enough of them, and the flush that makes RQ jobs of them.

A batch is a list of payloads, with its times in a hash beside it. One script decides whether a batch is due and moves
it: a flush happens once, however many processes ask for it and wherever they are killed. While a batch holds documents,
rq-scheduler has an entry `flush-<queue>` at the time when it is due.
"""

from collections.abc import Sequence

from redis import Redis
from redis.client import Pipeline

from llm_scheduler.jobs import document
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Processing
from llm_scheduler.jobs.document import Payload, new_id
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.keys import keys_of, script
from llm_scheduler.jobs.store.rq_job import FLUSH, DocumentJob
from llm_scheduler.jobs.store.submission import JOB_BYTES

_NEVER = 10**15  # milliseconds: beyond any date

# Put in front of the scripts below. `since(place)`: when the payload at this place of the batch was added.
_SINCE = """
local function since(place)
  return tonumber(string.sub(redis.call('LINDEX', KEYS[1], place) or '', 27, 39)) or 0
end
"""

# KEYS: batch, its times, schedule. ARGV: now, timeout, idle (ms), size, force, flush id, job id, the set of queues,
# queue key, bytes, then the new job's fields. If the batch is due, moves up to `size` payloads, and up to `bytes` of
# originals, into one job. Returns how many it moved and whether more is due. Sets the schedule for what is left: a
# batch of more bytes than one job may have is due until all of it is gone.
_FLUSH = (
    ledger.LUA
    + _SINCE
    + """
local now, timeout, idle, size = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local waiting = redis.call('LLEN', KEYS[1])
if waiting == 0 then
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', KEYS[3], ARGV[6])
  return {0, 0}
end
local times = redis.call('HMGET', KEYS[2], 'first', 'last')
local first, last = tonumber(times[1] or since(0)), tonumber(times[2] or since(-1))
local due = math.min(first + timeout, last + idle)
if waiting < size and ARGV[5] ~= '1' and due > now then
  redis.call('ZADD', KEYS[3], due / 1000, ARGV[6])
  return {0, 0}
end
local fields = {}
for i = 11, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', '<job>' .. ARGV[7], unpack(fields))
local moved, bytes = 0, 0
while moved < math.min(size, waiting) do
  local payload = redis.call('LINDEX', KEYS[1], moved)
  local id = string.sub(payload, 1, 26)
  local record = ledger.get(id)
  bytes = bytes + math.max(record and record.z or 0, #payload - 39)
  if moved > 0 and bytes > tonumber(ARGV[10]) then break end
  redis.call('HSET', '<job>' .. ARGV[7], 'd' .. moved, string.sub(payload, 40))
  moved = moved + 1
  if record and record.s == 'batched' then
    record.j = ARGV[7]
    ledger.move(id, record, 'queued', now)
  end
end
ledger.tell()
redis.call('SADD', ARGV[8], ARGV[9])
redis.call('RPUSH', ARGV[9], ARGV[7])
redis.call('LTRIM', KEYS[1], moved, -1)
local left = waiting - moved
if left == 0 then
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', KEYS[3], ARGV[6])
  return {moved, 0}
end
first = moved < size and 0 or since(0)
redis.call('HSET', KEYS[2], 'first', first, 'last', last)
local at = math.min(first + timeout, last + idle)
if left >= size or first == 0 then at = now end
redis.call('ZADD', KEYS[3], at / 1000, ARGV[6])
return {moved, (at <= now or ARGV[5] == '1') and 1 or 0}
"""
)

# KEYS: batch, its times, schedule. ARGV: now, timeout, idle (ms), size, flush id, payloads. Adds payloads to the batch.
# A full batch is due at once: the process that filled it may be killed before the flush.
_ADD = (
    _SINCE
    + """
local now = tonumber(ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 and redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[2], 'first', since(0))
end
for i = 6, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
local waiting = redis.call('LLEN', KEYS[1])
redis.call('HSETNX', KEYS[2], 'first', ARGV[1])
redis.call('HSET', KEYS[2], 'last', ARGV[1])
local first = tonumber(redis.call('HGET', KEYS[2], 'first'))
local at = math.min(first + tonumber(ARGV[2]), now + tonumber(ARGV[3]))
if waiting >= tonumber(ARGV[4]) then at = now end
redis.call('ZADD', KEYS[3], at / 1000, ARGV[5])
return waiting
"""
)

# KEYS: batch. The ids of its documents. The server copies a hundred payloads at a time and sends none of them.
_MEMBERS = """
local ids = {}
for first = 0, redis.call('LLEN', KEYS[1]) - 1, 100 do
  for _, payload in ipairs(redis.call('LRANGE', KEYS[1], first, first + 99)) do
    ids[#ids + 1] = string.sub(payload, 1, 26)
  end
end
return ids
"""


def flush_id(queue: str) -> str:
    """The fixed id of the rq-scheduler entry for the flush of `queue`."""
    return f"flush-{queue}"


def add(pipeline: Pipeline, queue: str, payloads: Sequence[Payload], processing: Processing, now: float) -> None:
    """Add `payloads` to the batch of `queue` (queued on the pipeline; the answer is how many wait there then)."""
    keys = keys_of(pipeline)
    pipeline.eval(
        _ADD,
        3,
        keys.batch(queue),
        keys.batch_times(queue),
        keys.schedule,
        _milliseconds(now),
        _milliseconds(processing.batch_timeout_seconds),
        _idle(processing),
        processing.batch_size,
        flush_id(queue),
        *(_member(payload) for payload in payloads),
    )


def flush(redis: Redis, queue: str, processing: Processing, clock: Clock, *, force: bool = False) -> int:
    """Make jobs of the batch of `queue` while it is due (or regardless, with `force`); returns how many documents."""
    keys = keys_of(redis)
    moved = 0
    while True:
        now = clock.now()
        job = DocumentJob.carrying(new_id(now), [], queue, redis)
        job.description = "flushed batch"
        fields = [part for pair in job.to_dict().items() for part in pair]
        count, more = redis.eval(
            script(keys, _FLUSH),
            3,
            keys.batch(queue),
            keys.batch_times(queue),
            keys.schedule,
            _milliseconds(now),
            _milliseconds(processing.batch_timeout_seconds),
            _idle(processing),
            processing.batch_size,
            int(force),
            flush_id(queue),
            job.id,
            keys.queues,
            keys.queue(queue),
            JOB_BYTES,
            *fields,
        )
        moved += int(count)
        if not more:
            return moved


def flush_all(redis: Redis, queues: Sequence[str], processing: Processing, clock: Clock) -> dict[str, int]:
    """Make jobs of the batches of `queues`, due or not; returns how many documents of each."""
    return {queue: flush(redis, queue, processing, clock, force=True) for queue in queues}


def members(pipeline: Pipeline, queue: str) -> None:
    """Ask for the ids of the documents in the batch of `queue` (queued on the pipeline; the answer is their list)."""
    pipeline.eval(_MEMBERS, 1, keys_of(pipeline).batch(queue))


def discard(pipeline: Pipeline, queue: str) -> None:
    """Forget the batch of a queue that no longer exists, and its flush (queued on the pipeline)."""
    keys = keys_of(pipeline)
    pipeline.unlink(keys.batch(queue), keys.batch_times(queue))
    pipeline.zrem(keys.schedule, flush_id(queue))
    pipeline.unlink(keys.job(flush_id(queue)))


def schedule_fields(queue: str, redis: Redis) -> dict[str, object]:
    """The hash of the rq-scheduler entry for the flush of `queue`."""
    job = DocumentJob.create(FLUSH, args=[queue], id=flush_id(queue), origin=queue, connection=redis, result_ttl=-1)
    fields: dict[str, object] = job.to_dict()
    return fields


def _member(payload: Payload) -> bytes:
    """A payload as a member of a batch: in front of it, for the script, its id (26) and its time in ms (13 digits)."""
    return f"{payload.id}{_milliseconds(payload.submitted_at):013d}".encode() + document.encode(payload)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _idle(processing: Processing) -> int:
    idle = processing.batch_idle_seconds
    return _NEVER if idle is None else _milliseconds(idle)
