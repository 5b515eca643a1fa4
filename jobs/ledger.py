"""The ledger: the record of every document's status in Redis, for the API and the reports.

A document is a hash `llm:doc:<id>` and a member of exactly one sorted set `llm:ledger:<status>:<priority>`
(all scores 0, so members lie in the order of their ids, which is the order of arrival). The sets' sizes are the counts.
The ledger is an index: losing it loses no document.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from redis import Redis
from redis.client import Pipeline

from jobs.document import IN_FLIGHT, Status

# What is in flight, in bytes: the measure of back-pressure.
BYTES_KEY = "llm:inflight:bytes"
# Whoever finds this key missing knows that Redis has been emptied (ingest sets it again once it has reconciled).
EPOCH_KEY = "llm:epoch"

# Moves documents to a status. A final status stays; a word about an unknown document counts only if it says what it is.
_MOVE = """
local status, at, entries = ARGV[1], ARGV[2], cmsgpack.unpack(ARGV[3])
local final = {done = true, rejected = true, cancelled = true}
local flying = {batched = true, queued = true, started = true, retrying = true}
local moved = 0
for _, entry in ipairs(entries) do
  local id, fields = entry[1], entry[2]
  local key = 'llm:doc:' .. id
  local old = redis.call('HMGET', key, 'status', 'priority', 'size')
  local priority = fields['priority'] or old[2]
  if priority and not (old[1] and final[old[1]]) then
    if old[1] then redis.call('ZREM', 'llm:ledger:' .. old[1] .. ':' .. old[2], id) end
    if flying[old[1] or ''] then redis.call('DECRBY', KEYS[1], old[3] or 0) end
    if flying[status] then redis.call('INCRBY', KEYS[1], tonumber(fields['size'] or old[3] or 0)) end
    redis.call('ZADD', 'llm:ledger:' .. status .. ':' .. priority, 0, id)
    local values = {'status', status, status .. '_at', at}
    for name, value in pairs(fields) do
      values[#values + 1] = name
      values[#values + 1] = tostring(value)
    end
    redis.call('HSET', key, unpack(values))
    moved = moved + 1
  end
end
return moved
"""

Fields = Mapping[str, str | int]
_pack = msgspec.msgpack.Encoder().encode


class Entry(NamedTuple):
    """One document as the ledger knows it; times in epoch seconds by status."""

    id: str
    status: Status
    priority: str
    source: str
    queue: str
    handler: str
    attempts: int
    size: int
    rq_job_id: str | None
    code: str | None
    message: str | None
    reasons: list[str]
    times: dict[str, float]


class Page(NamedTuple):
    """A page of entries, newest first; `cursor` asks for the next one, None at the end."""

    entries: list[Entry]
    cursor: str | None


def key(document_id: str) -> str:
    return f"llm:doc:{document_id}"


def move(redis: "Redis | Pipeline", status: Status, at: float, entries: Iterable[tuple[str, Fields]]) -> Any:
    """Put documents under `status`. On a pipeline this only queues the command: it joins that transaction."""
    packed = _pack([(document_id, dict(fields)) for document_id, fields in entries])
    return redis.eval(_MOVE, 1, BYTES_KEY, status.value, str(int(at * 1000)), packed)


def counts(redis: Redis, levels: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many documents stand under each status and priority, in one round trip."""
    pipeline = redis.pipeline(transaction=False)
    for status in Status:
        for level in levels:
            pipeline.zcard(_set(status, level))
    sizes = iter(pipeline.execute())
    return {status.value: {level: next(sizes) for level in levels} for status in Status}


class InFlight(NamedTuple):
    """Documents handed to Redis and not yet final, and the bytes they hold."""

    documents: int
    bytes: int


def in_flight(redis: Redis, levels: Sequence[str]) -> InFlight:
    """What back-pressure looks at, in one round trip."""
    pipeline = redis.pipeline(transaction=False)
    for status in IN_FLIGHT:
        for level in levels:
            pipeline.zcard(_set(status, level))
    pipeline.get(BYTES_KEY)
    *sizes, held = pipeline.execute()
    return InFlight(sum(sizes), int(held or 0))


def get(redis: Redis, document_id: str) -> Entry | None:
    """The entry of one document, or None when the ledger has none."""
    fields = redis.hgetall(key(document_id))
    return _entry(document_id, fields) if fields else None


def known(redis: Redis, ids: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """(status, rq_job_id) of each id, None for what the ledger doesn't know."""
    pipeline = redis.pipeline(transaction=False)
    for document_id in ids:
        pipeline.hmget(key(document_id), "status", "rq_job_id")
    return [(_text(status), _text(job)) for status, job in pipeline.execute()]


def page(
    redis: Redis,
    levels: Sequence[str],
    *,
    status: Status | None = None,
    priority: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page:
    """Documents newest first. `cursor` is the id after which to go on; ids outlive any change of status in between."""
    upper = f"({cursor}" if cursor else "+"
    pipeline = redis.pipeline(transaction=False)
    for each in [status] if status else list(Status):
        for level in [priority] if priority else levels:
            pipeline.zrevrangebylex(_set(each, level), upper, "-", start=0, num=limit + 1)
    found = heapq.merge(*pipeline.execute(), reverse=True)
    ids: list[str] = []
    for member in found:  # a document that moved between two of the reads shows up twice
        if not ids or ids[-1] != member.decode():
            ids.append(member.decode())
        if len(ids) > limit:
            break
    more = len(ids) > limit
    ids = ids[:limit]
    for document_id in ids:
        pipeline.hgetall(key(document_id))
    entries = [
        _entry(document_id, fields) for document_id, fields in zip(ids, pipeline.execute(), strict=True) if fields
    ]
    return Page(entries, ids[-1] if more and ids else None)


def trim(redis: Redis, levels: Sequence[str], keep: int, chunk: int = 1000) -> int:
    """Forget the oldest final documents beyond `keep` in each set; at most `chunk` a set and call. Returns how many."""
    removed = 0
    for status in (Status.DONE, Status.REJECTED, Status.CANCELLED):
        for level in levels:
            name = _set(status, level)
            surplus = min(redis.zcard(name) - keep, chunk)
            if surplus <= 0:
                continue
            ids: list[Any] = list(redis.zrange(name, 0, surplus - 1))
            with redis.pipeline() as pipeline:
                pipeline.zrem(name, *ids)
                pipeline.delete(*(key(member.decode()) for member in ids))
                pipeline.execute()
            removed += len(ids)
    return removed


def _set(status: Status, level: str) -> str:
    return f"llm:ledger:{status.value}:{level}"


def _text(value: bytes | None) -> str | None:
    return value.decode() if value else None


def _entry(document_id: str, fields: Mapping[Any, Any]) -> Entry:
    values = {name.decode(): value.decode("utf-8", "replace") for name, value in fields.items()}
    times = {
        name.removesuffix("_at"): int(value) / 1000
        for name, value in values.items()
        if name.endswith("_at") and value.isdigit()
    }
    return Entry(
        id=document_id,
        status=Status(values["status"]),
        priority=values.get("priority", ""),
        source=values.get("source", ""),
        queue=values.get("queue", ""),
        handler=values.get("handler", ""),
        attempts=int(values.get("attempts", 0)),
        size=int(values.get("size", 0)),
        rq_job_id=values.get("rq_job_id") or None,
        code=values.get("code") or None,
        message=values.get("message") or None,
        reasons=msgspec.json.decode(values["reasons"], type=list[str]) if values.get("reasons") else [],
        times=times,
    )
