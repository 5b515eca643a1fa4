"""The ledger: the record of every document's status in Redis, for the API and the reports.

A document is a record `llm:d:<id>` and a member of exactly one sorted set `llm:ledger:<status>:<priority>`
(all scores 0, so members lie in the order of their ids, which is the order of arrival). The sets' sizes are the counts.
The ledger is an index: losing it loses no document.

A record is one MessagePack map with keys of a letter or two: a hash of the same fields takes half as much memory again
and twice the time to move (docs/decisions/0009-throughput.md).
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import msgspec
from redis import Redis
from redis.client import Pipeline
from ulid_transform import ulid_at_time

from jobs import condition
from jobs.document import FINAL, IN_FLIGHT, Status

# What is in flight, in bytes: the measure of back-pressure.
BYTES_KEY = "llm:inflight:bytes"
# Seconds a document takes in a worker, by level (a moving average, written by the workers).
PACE_KEY = "llm:pace"
# Whoever finds this key missing knows that Redis has been emptied (ingest sets it again once it has reconciled).
EPOCH_KEY = "llm:epoch"

# What scripts put in front of their own lines to read and move documents. `ledger.get(id)` is a record or nil;
# `ledger.move(id, record, status, ms)` puts it under another status, its fields changed as the script likes.
LUA = """
local ledger = {
  final = {done = true, rejected = true, cancelled = true},
  flying = {batched = true, queued = true, started = true, retrying = true},
  times = {received = 'tr', batched = 'tb', queued = 'tq', started = 'ts', retrying = 'ty', done = 'td',
           rejected = 'tx', cancelled = 'tc'},
}
function ledger.get(id)
  local raw = redis.call('GET', 'llm:d:' .. id)
  return raw and cmsgpack.unpack(raw) or nil
end
function ledger.move(id, record, status, at)
  local was = record.s
  if was ~= status or record.op then
    if was then redis.call('ZREM', 'llm:ledger:' .. was .. ':' .. (record.op or record.p), id) end
    redis.call('ZADD', 'llm:ledger:' .. status .. ':' .. record.p, 0, id)
  end
  record.op = nil
  record.s = status
  record[ledger.times[status]] = at
  redis.call('SET', 'llm:d:' .. id, cmsgpack.pack(record))
end
"""

# Moves documents to a status. A final status stays; a word about an unknown document counts only if it says what it is.
_MOVE = (
    LUA
    + """
local status, at, entries = ARGV[1], tonumber(ARGV[2]), cmsgpack.unpack(ARGV[3])
local moved, held = 0, 0
for _, entry in ipairs(entries) do
  local id, fields = entry[1], entry[2]
  local record = ledger.get(id)
  if not record and fields.p then record = {} end
  if record and not ledger.final[record.s or ''] then
    if ledger.flying[record.s or ''] then held = held - (record.z or 0) end
    local before = record.p
    for name, value in pairs(fields) do record[name] = value end
    if before and before ~= record.p then record.op = before end
    if ledger.flying[status] then held = held + (record.z or 0) end
    ledger.move(id, record, status, fields[ledger.times[status]] or at)
    moved = moved + 1
  end
end
if held ~= 0 then redis.call('INCRBY', KEYS[1], held) end
return moved
"""
)

Fields = Mapping[str, str | int | list[str]]
_SHORT = {
    "priority": "p",
    "size": "z",
    "queue": "q",
    "handler": "h",
    "source": "f",
    "attempts": "n",
    "rq_job_id": "j",
    "code": "c",
    "message": "m",
    "reasons": "w",
    "received_at": "tr",
    "started_at": "ts",
}


class _Record(msgspec.Struct, frozen=True):
    """A document as it is stored. Times are in milliseconds."""

    s: Status
    p: str = ""
    z: int = 0
    q: str = ""
    h: str = ""
    f: str = ""
    n: int = 0
    j: str = ""
    c: str = ""
    m: str = ""
    w: list[str] = []
    tr: int = 0
    tb: int = 0
    tq: int = 0
    ts: int = 0
    ty: int = 0
    td: int = 0
    tx: int = 0
    tc: int = 0


_TIMES = {
    "received": "tr",
    "batched": "tb",
    "queued": "tq",
    "started": "ts",
    "retrying": "ty",
    "done": "td",
    "rejected": "tx",
    "cancelled": "tc",
}
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Record).decode


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
    return f"llm:d:{document_id}"


def move(redis: "Redis | Pipeline", status: Status, at: float, entries: Iterable[tuple[str, Fields]]) -> Any:
    """Put documents under `status` at epoch seconds `at`; the answer is how many were moved.

    A final status stays, and a document that the ledger doesn't know is moved only if its fields tell its priority.
    On a pipeline this only queues the command: it joins that transaction.
    """
    packed = _pack(
        [(document_id, {_SHORT[name]: value for name, value in each.items()}) for document_id, each in entries]
    )
    return redis.eval(_MOVE, 1, BYTES_KEY, status.value, str(int(at * 1000)), packed)


def counts(redis: Redis, levels: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many documents stand under each status and priority, in one round trip."""
    pipeline = redis.pipeline(transaction=False)
    for status in Status:
        for level in levels:
            pipeline.zcard(_set(status, level))
    sizes = iter(pipeline.execute())
    return {status.value: {level: next(sizes) for level in levels} for status in Status}


class Load(NamedTuple):
    """What has been handed to Redis and is not yet final: what back-pressure and job sizes go by.

    `in_flight` and `queued` (to be run, not begun) count documents by level; `bytes` are those of their originals.
    `pace` is how many seconds a worker of a level takes for a document; a level that nobody has worked on has none.
    `batched` of those in flight wait for a flush. `spare` is how many bytes the server has room for (less than none: it
    is full up to its reserve).
    """

    in_flight: dict[str, int]
    queued: dict[str, int]
    bytes: int
    pace: dict[str, float]
    spare: float = float("inf")
    batched: int = 0

    @property
    def documents(self) -> int:
        """All that are in flight."""
        return sum(self.in_flight.values())


def load(redis: Redis, levels: Sequence[str]) -> Load:
    """The load, in one round trip."""
    pipeline = redis.pipeline(transaction=False)
    for status, level in product(IN_FLIGHT, levels):
        pipeline.zcard(_set(status, level))
    pipeline.get(BYTES_KEY)
    pipeline.hmget(PACE_KEY, list(levels))
    pipeline.info("memory")
    *answers, memory = pipeline.execute(raise_on_error=False)  # it may be forbidden to ask for the last
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    *sizes, held, paces = answers
    count = dict(zip(product(IN_FLIGHT, levels), sizes, strict=True))
    return Load(
        in_flight={level: sum(count[status, level] for status in IN_FLIGHT) for level in levels},
        queued={level: count[Status.QUEUED, level] for level in levels},
        bytes=int(held or 0),
        pace={level: float(pace) for level, pace in zip(levels, paces, strict=True) if pace},
        spare=condition.of(memory).spare,
        batched=sum(count[Status.BATCHED, level] for level in levels),
    )


def get(redis: Redis, document_id: str) -> Entry | None:
    """The entry of one document, or None when the ledger has none."""
    return _entry(document_id, redis.get(key(document_id)))


def known(redis: Redis, ids: Sequence[str]) -> list[tuple[Status | None, str | None]]:
    """(status, rq_job_id) of each id, None for what the ledger doesn't know."""
    return [(entry.status, entry.rq_job_id) if entry else (None, None) for entry in entries(redis, ids)]


def entries(redis: Redis, ids: Sequence[str]) -> list[Entry | None]:
    """The entry of each id in one round trip, None for what the ledger doesn't know."""
    found = redis.mget([key(document_id) for document_id in ids]) if ids else []
    return [_entry(document_id, raw) for document_id, raw in zip(ids, found, strict=True)]


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
    records = redis.mget([key(document_id) for document_id in ids]) if ids else []
    found_entries = (_entry(document_id, raw) for document_id, raw in zip(ids, records, strict=True))
    entries = [entry for entry in found_entries if entry]
    return Page(entries, ids[-1] if more and ids else None)


def trim(redis: Redis, levels: Sequence[str], keep: int, before: float = 0.0, chunk: int = 2000) -> int:
    """Forget final documents: the oldest beyond `keep` in each set, and those that came before epoch seconds `before`.

    At most `chunk` a set and call. Returns how many.
    """
    removed = 0
    # The first ten characters of a ULID are its time.
    first_kept = ulid_at_time(before)[:10]
    for status, level in product(FINAL, levels):
        name = _set(status, level)
        surplus = max(redis.zcard(name) - keep, redis.zlexcount(name, "-", f"({first_kept}"))
        if surplus <= 0:
            continue
        ids: list[Any] = list(redis.zrange(name, 0, min(surplus, chunk) - 1))
        with redis.pipeline() as pipeline:
            pipeline.zrem(name, *ids)
            pipeline.unlink(*(key(member.decode()) for member in ids))
            pipeline.execute()
        removed += len(ids)
    return removed


def _set(status: Status, level: str) -> str:
    return f"llm:ledger:{status.value}:{level}"


def _entry(document_id: str, raw: Any) -> Entry | None:
    """None for what is no record."""
    try:
        record = _unpack(raw or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return Entry(
        id=document_id,
        status=record.s,
        priority=record.p,
        source=record.f,
        queue=record.q,
        handler=record.h,
        attempts=record.n,
        size=record.z,
        rq_job_id=record.j or None,
        code=record.c or None,
        message=record.m or None,
        reasons=record.w,
        times={name: at / 1000 for name, short in _TIMES.items() if (at := getattr(record, short))},
    )
