"""Batches: documents of a queue that wait for company, and the flush that makes RQ jobs of them.

A batch is a list `llm:batch:<queue>` of payloads with its times beside it. One script decides whether a batch is due
and moves it, so a flush happens once however many ask for it and wherever they are killed. While a batch holds
anything, rq-scheduler has an entry for it (`flush-<queue>`) at the moment it will be due.
"""

from collections.abc import Sequence

from redis import Redis
from redis.client import Pipeline
from rq import Queue

from llm_scheduler.jobs import document
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Processing
from llm_scheduler.jobs.document import Payload, new_id
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.rq_job import FLUSH, DocumentJob
from llm_scheduler.jobs.store.submission import JOB_BYTES, SCHEDULE, queue_key

_NEVER = 10**15  # milliseconds: beyond any date

# What the scripts below put in front: `since(place)` is when the payload at a place of the batch came.
_SINCE = """
local function since(place)
  return tonumber(string.sub(redis.call('LINDEX', KEYS[1], place) or '', 27, 39)) or 0
end
"""

# KEYS: batch, its times, schedule. ARGV: now, timeout, idle (ms), size, force, flush id, job id, rq:queues,
# queue key, bytes, then the new job's fields. Moves up to `size` payloads, and up to `bytes` of originals, into one job
# if the batch is due; returns how many it moved and whether more is due, and sets the schedule for what is left: a
# batch of more bytes than one job may have is due until the whole of it is gone.
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
redis.call('HSET', 'rq:job:' .. ARGV[7], unpack(fields))
local moved, bytes = 0, 0
while moved < math.min(size, waiting) do
  local payload = redis.call('LINDEX', KEYS[1], moved)
  local id = string.sub(payload, 1, 26)
  local record = ledger.get(id)
  bytes = bytes + math.max(record and record.z or 0, #payload - 39)
  if moved > 0 and bytes > tonumber(ARGV[10]) then break end
  redis.call('HSET', 'rq:job:' .. ARGV[7], 'd' .. moved, string.sub(payload, 40))
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
# A full one is due at once: whoever filled it may be killed before the flush.
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

# KEYS: batch. The ids of all that wait in it. The bodies stay in the server, which copies them a hundred at a time.
_MEMBERS = """
local ids = {}
for first = 0, redis.call('LLEN', KEYS[1]) - 1, 100 do
  for _, payload in ipairs(redis.call('LRANGE', KEYS[1], first, first + 99)) do
    ids[#ids + 1] = string.sub(payload, 1, 26)
  end
end
return ids
"""


def key(queue: str) -> str:
    return f"llm:batch:{queue}"


def flush_id(queue: str) -> str:
    """The fixed id under which rq-scheduler knows the flush of `queue`."""
    return f"flush-{queue}"


def add(pipeline: Pipeline, queue: str, payloads: Sequence[Payload], processing: Processing, now: float) -> None:
    """Let `payloads` join the batch of `queue` (queued on the pipeline; its result is how many wait there then)."""
    pipeline.eval(
        _ADD,
        3,
        key(queue),
        f"{key(queue)}:times",
        SCHEDULE,
        _milliseconds(now),
        _milliseconds(processing.batch_timeout_seconds),
        _idle(processing),
        processing.batch_size,
        flush_id(queue),
        *(_member(payload) for payload in payloads),
    )


def flush(redis: Redis, queue: str, processing: Processing, clock: Clock, *, force: bool = False) -> int:
    """Make jobs of the batch of `queue` while it is due (or at all, with `force`); returns how many documents."""
    moved = 0
    while True:
        now = clock.now()
        job = DocumentJob.carrying(new_id(now), [], queue, redis)
        job.description = "flushed batch"
        fields = [part for pair in job.to_dict().items() for part in pair]
        count, more = redis.eval(
            _FLUSH,
            3,
            key(queue),
            f"{key(queue)}:times",
            SCHEDULE,
            _milliseconds(now),
            _milliseconds(processing.batch_timeout_seconds),
            _idle(processing),
            processing.batch_size,
            int(force),
            flush_id(queue),
            job.id,
            Queue.redis_queues_keys,
            queue_key(queue),
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
    """Ask for the ids of the documents in the batch of `queue` (queued on the pipeline; its result is their list)."""
    pipeline.eval(_MEMBERS, 1, key(queue))


def discard(pipeline: Pipeline, queue: str) -> None:
    """Forget the batch of a queue that is no more, and its flush (queued on the pipeline)."""
    pipeline.unlink(key(queue), f"{key(queue)}:times")
    pipeline.zrem(SCHEDULE, flush_id(queue))
    pipeline.unlink(DocumentJob.key_for(flush_id(queue)))


def schedule_fields(queue: str, redis: Redis) -> dict[str, object]:
    """The hash of the rq-scheduler entry that stands for the flush of `queue`."""
    job = DocumentJob.create(FLUSH, args=[queue], id=flush_id(queue), origin=queue, connection=redis, result_ttl=-1)
    fields: dict[str, object] = job.to_dict()
    return fields


def _member(payload: Payload) -> bytes:
    """A payload in a batch, with what the script needs to know of it in front: id (26) and time in ms (13 digits)."""
    return f"{payload.id}{_milliseconds(payload.submitted_at):013d}".encode() + document.encode(payload)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _idle(processing: Processing) -> int:
    idle = processing.batch_idle_seconds
    return _NEVER if idle is None else _milliseconds(idle)
