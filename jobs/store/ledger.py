"""The ledger: the record of every document's status in Redis, for the API and the reports.

A document is a record `llm:d:<id>` and a member of exactly one sorted set `llm:ledger:<status>:<priority>`
(all scores 0, so members lie in the order of their ids, which is the order of arrival). The sets' sizes are the counts.
The ledger is an index: losing it loses no document.

A record is one MessagePack map with keys of a letter or two: a hash of the same fields takes half as much memory again
and twice the time to move (docs/decisions/0009-throughput.md). Who follows what happens reads the stream of transitions
that every move adds to (jobs/store/transitions.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from redis import Redis
from redis.client import Pipeline
from ulid_transform import ulid_at_time

from llm_scheduler.jobs.document import FINAL, IN_FLIGHT, Status
from llm_scheduler.jobs.store import server_state, transitions

# What is in flight, in bytes: the measure of back-pressure.
BYTES_KEY = "llm:inflight:bytes"
# Seconds a document takes in a worker, by level (a moving average, written by the workers).
PACE_KEY = "llm:pace"
# Whoever finds this key missing knows that Redis has been emptied (ingest sets it again once it has reconciled).
EPOCH_KEY = "llm:epoch"
MAX_SEEN = 20_000  # records that one page is looked for in
_SEEN_AT_ONCE = 500

# What scripts put in front of their own lines to read and move documents. `ledger.get(id)` is a record or nil;
# `ledger.move(id, record, status, ms)` puts it under another status, its fields changed as the script likes; what the
# record said of an earlier stay under that status joins its `o`, which keeps the latest. `ledger.tell()` comes last:
# whoever follows the transitions hears of all moves together.
LUA = (
    """
local ledger = {
  moved = {},
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
  local was, place = record.s, ledger.times[status]
  if record[place] and record[place] ~= at and was ~= status then
    record.o = record.o or {}
    record.o[#record.o + 1] = {place, record[place]}
    if #record.o > 40 then table.remove(record.o, 1) end
  end
  if was ~= status or record.op then
    if was then redis.call('ZREM', 'llm:ledger:' .. was .. ':' .. (record.op or record.p), id) end
    redis.call('ZADD', 'llm:ledger:' .. status .. ':' .. record.p, 0, id)
  end
  record.op = nil
  record.s = status
  record[place] = at
  redis.call('SET', 'llm:d:' .. id, cmsgpack.pack(record))
  if was ~= status then
    ledger.status, ledger.at = status, at
    ledger.moved[#ledger.moved + 1] = id
  end
end
"""
    f"""
function ledger.tell()
  if #ledger.moved == 0 then return end
  redis.call('XADD', '{transitions.STREAM}', 'MAXLEN', '~', {transitions.MOST}, '*',
    's', ledger.status, 't', string.format('%.0f', ledger.at), 'i', cmsgpack.pack(ledger.moved))
end
"""
)

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
ledger.tell()
return moved
"""
)

# Tells of documents that were received. What the ledger knows of already stays as it is: others know more of it.
# ARGV: entries, each an id, its fields and when it was received (ms).
_RECEIVE = (
    LUA
    + """
for _, entry in ipairs(cmsgpack.unpack(ARGV[1])) do
  if not ledger.get(entry[1]) then ledger.move(entry[1], entry[2], 'received', entry[2].tr) end
end
ledger.tell()
return 0
"""
)

# Takes documents back from a final status other than done, as if they had just been received: they are to be run again.
# ARGV: now (ms), then ids. Returns the ids that were taken back.
_REVIVE = (
    LUA
    + """
local revived = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local record = ledger.get(id)
  if record and (record.s == 'rejected' or record.s == 'cancelled') then
    record.c, record.m, record.n, record.j, record.u = nil, nil, nil, nil, nil
    ledger.move(id, record, 'received', tonumber(ARGV[1]))
    revived[#revived + 1] = id
  end
end
ledger.tell()
return revived
"""
)

# Puts finished documents back that the ledger has forgotten; nobody who follows hears of it: it is long ago.
# ARGV: entries, each an id, its status, when it came to that (ms), and its fields. Returns how many it did not know.
_REMEMBER = (
    LUA
    + """
for _, entry in ipairs(cmsgpack.unpack(ARGV[1])) do
  if not ledger.get(entry[1]) then ledger.move(entry[1], entry[4], entry[2], entry[3]) end
end
return #ledger.moved
"""
)

# KEYS: sets. ARGV: from and to (lexicographic, from the newest on), how many, whether to count all. The newest members
# of all sets together with their records, and how many there are in all. Of each set the newest is looked at first, and
# then a few at a time of those sets in which the newest of all lie: most often that is one or two.
_NEWEST = """
local from, to, most, few = ARGV[1], ARGV[2], tonumber(ARGV[3]), 24
local live, total = {}, 0
local whole = from == '+' and to == '-'
for _, set in ipairs(KEYS) do
  local newest = redis.call('ZREVRANGEBYLEX', set, from, to, 'LIMIT', 0, 1)
  if newest[1] then
    live[#live + 1] = {set = set, ids = newest, next = 1, read = 1}
    if ARGV[4] == '1' then
      total = total + (whole and redis.call('ZCARD', set) or redis.call('ZLEXCOUNT', set, to, from))
    end
  end
end
local ids, names = {}, {}
while #ids < most and #live > 0 do
  local best, place, id
  for i = 1, #live do
    local each = live[i]
    local mine = each.ids[each.next]
    if not id or mine > id then best, place, id = each, i, mine end
  end
  ids[#ids + 1] = id
  names[#names + 1] = 'llm:d:' .. id
  best.next = best.next + 1
  if best.next > #best.ids then
    best.ids = redis.call('ZREVRANGEBYLEX', best.set, '(' .. id, to, 'LIMIT', 0, math.min(few, most - #ids))
    best.next = 1
    if #best.ids == 0 then table.remove(live, place) end
  end
end
if #ids == 0 then return {ids, {}, total} end
return {ids, redis.call('MGET', unpack(names)), total}
"""

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
    "country": "k",
    "industry": "i",
    "language": "g",
    "quality": "u",
    "received_at": "tr",
    "started_at": "ts",
}


class Record(msgspec.Struct, frozen=True, rename=_SHORT.get):
    """A document as it is stored. Times are in milliseconds, 0 for those that never were."""

    status: Status = msgspec.field(name="s")
    priority: str = ""
    size: int = 0
    queue: str = ""
    handler: str = ""
    source: str = ""
    attempts: int = 0
    rq_job_id: str = ""
    code: str = ""
    message: str = ""
    reasons: list[str] = []
    country: str = ""
    industry: str = ""
    language: str = ""
    quality: str = ""
    earlier: list[tuple[str, int]] = msgspec.field(name="o", default_factory=list)
    received_at: int = 0
    batched_at: int = msgspec.field(name="tb", default=0)
    queued_at: int = msgspec.field(name="tq", default=0)
    started_at: int = 0
    retrying_at: int = msgspec.field(name="ty", default=0)
    done_at: int = msgspec.field(name="td", default=0)
    rejected_at: int = msgspec.field(name="tx", default=0)
    cancelled_at: int = msgspec.field(name="tc", default=0)

    @property
    def was_taken_apart(self) -> bool:
        """Whether it is a file of several documents, done as such: nobody has worked on it."""
        return self.status == Status.DONE and not self.quality


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
_STATUS_AT = {short: status for status, short in _TIMES.items()}
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Record).decode


class Entry(NamedTuple):
    """One document as the ledger knows it; times in epoch seconds by status, the latest of each. `earlier` holds those
    of earlier stays under a status. `quality` is known once it is done."""

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
    country: str = ""
    industry: str = ""
    language: str = ""
    quality: str = ""
    earlier: Sequence[tuple[str, float]] = ()


class Wanted(NamedTuple):
    """Which documents: those of a status, a priority, and received from `since` up to `until` (epoch seconds) are found
    at once; the rest is looked for in the records. `source` is a document's own or a folder above it, `name` a part of
    its file's name, in any case of letters.
    """

    status: Status | None = None
    priority: str | None = None
    since: float | None = None
    until: float | None = None
    queue: str | None = None
    handler: str | None = None
    source: str | None = None
    country: str | None = None
    industry: str | None = None
    quality: str | None = None
    code: str | None = None
    name: str | None = None

    @property
    def is_indexed(self) -> bool:
        """Whether no record has to be looked at."""
        return all(each is None for each in self[4:])


EVERYTHING = Wanted()
T = TypeVar("T")


class Page(NamedTuple, Generic[T]):
    """A page of entries, newest first; `cursor` asks for the next one, None at the end.

    `total` counts all that are wanted; when records had to be looked at, those found so far: it `is_exact` only if that
    was all there is. `cursor` may be there without entries: so many records were looked at in vain.
    """

    entries: list[T]
    cursor: str | None
    total: int = 0
    is_exact: bool = True


def key(document_id: str) -> str:
    return f"llm:d:{document_id}"


def move(redis: "Redis | Pipeline", status: Status, at: float, entries: Iterable[tuple[str, Fields]]) -> Any:
    """Put documents under `status` at epoch seconds `at`; the answer is how many were moved.

    A final status stays, and a document that the ledger doesn't know is moved only if its fields tell its priority.
    On a pipeline this only queues the command: it joins that transaction.
    """
    return redis.eval(_MOVE, 1, BYTES_KEY, status.value, str(int(at * 1000)), _packed(entries))


def receive(redis: Redis, entries: Iterable[tuple[str, Fields]]) -> None:
    """Tell of received documents; their fields say their priority and `received_at`. Those known already stay."""
    redis.eval(_RECEIVE, 0, _packed(entries))


class Remembered(NamedTuple):
    """A finished document that the ledger has forgotten: since when (epoch seconds) it is under its final status."""

    id: str
    status: Status
    at: float
    fields: Fields


def remember(redis: Redis, forgotten: Iterable[Remembered]) -> int:
    """Put finished documents back into the ledger. What it knows stays as it is. Returns how many it did not know."""
    entries = [
        (each.id, each.status.value, int(each.at * 1000), {_SHORT[name]: value for name, value in each.fields.items()})
        for each in forgotten
    ]
    return int(redis.eval(_REMEMBER, 0, _pack(entries))) if entries else 0


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
        spare=server_state.of(memory).spare,
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


def revive(redis: Redis, at: float, ids: Sequence[str]) -> list[str]:
    """Take documents back that were rejected or cancelled: they count as received again. Returns those that were."""
    taken: list[bytes] = redis.eval(_REVIVE, 0, str(int(at * 1000)), *ids) if ids else []
    return [each.decode() for each in taken]


def page(
    redis: Redis,
    levels: Sequence[str],
    *,
    wanted: Wanted = EVERYTHING,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[Entry]:
    """Documents newest first. `cursor` is the id after which to go on; ids outlive any change of status in between.

    At most `MAX_SEEN` records are looked at, and then the page may be short, or empty, and still have a cursor.
    """
    return page_of(entry_of, redis, levels, wanted=wanted, limit=limit, cursor=cursor)


def page_of(
    make: Callable[[str, Record], T],
    redis: Redis,
    levels: Sequence[str],
    *,
    wanted: Wanted = EVERYTHING,
    limit: int = 50,
    cursor: str | None = None,
    most_seen: int = MAX_SEEN,
) -> Page[T]:
    """The same as `page`, each document as `make` makes it of its id and its record."""
    sets = [
        _set(status, level)
        for status in ([wanted.status] if wanted.status else Status)
        for level in ([wanted.priority] if wanted.priority else levels)
    ]
    first, last = _bounds(wanted, cursor)
    fits = _fits(wanted)
    found: list[tuple[str, T]] = []
    seen = total = 0
    at_once = limit + 1 if fits is None else _SEEN_AT_ONCE
    while True:
        ids, records, counted = redis.eval(
            _NEWEST, len(sets), *sets, first, last, at_once, int(fits is None and cursor is None)
        )
        seen += len(ids)
        for name, raw in zip(ids, records, strict=True):
            record = _record(raw) if fits is None else fits(raw or b"")
            if record is not None:
                document_id = name.decode()
                found.append((document_id, make(document_id, record)))
        total = counted
        if fits is None or len(ids) < at_once or len(found) > limit or seen >= most_seen:
            break
        first = f"({ids[-1].decode()}"
    is_whole = len(ids) < at_once
    more = len(found) > limit
    kept = [each for _, each in found[:limit]]
    if fits is None:
        return Page(kept, ids[limit - 1].decode() if len(ids) > limit else None, total, cursor is None)
    after = found[limit - 1][0] if more else None if is_whole else ids[-1].decode()
    return Page(kept, after, len(found), is_whole and cursor is None)


def _bounds(wanted: Wanted, cursor: str | None) -> tuple[str, str]:
    """From which id down to which. The first ten characters of a ULID are its time."""
    first, last = "+", "-"
    if wanted.until is not None:
        first = f"({ulid_at_time(max(0.0, wanted.until))[:10]}"
    if cursor and (first == "+" or cursor < first[1:]):
        first = f"({cursor}"
    if wanted.since is not None:
        last = f"[{ulid_at_time(max(0.0, wanted.since))[:10]}"
    return first, last


def _fits(wanted: Wanted) -> Callable[[bytes], Record | None] | None:
    """What tells the records that are wanted from those that aren't; None when all are.

    Most records are told apart without being unpacked: a value that isn't among their bytes isn't in them.
    """
    if wanted.is_indexed:
        return None
    exact = {
        "queue": wanted.queue,
        "handler": wanted.handler,
        "country": wanted.country,
        "quality": wanted.quality,
        "code": wanted.code,
    }
    exact = {field: value for field, value in exact.items() if value is not None}
    bits = [value.encode() for value in (*exact.values(), wanted.industry, wanted.source) if value is not None]
    folder = f"{wanted.source.rstrip('/')}/" if wanted.source is not None else ""
    name = wanted.name.casefold() if wanted.name is not None else ""

    def fits(raw: bytes) -> Record | None:
        if any(bit not in raw for bit in bits):
            return None
        record = _record(raw)
        wanted_too = record is not None and (
            all(getattr(record, field) == value for field, value in exact.items())
            and (wanted.industry is None or record.industry.startswith(wanted.industry))
            and (wanted.source is None or record.source == wanted.source or record.source.startswith(folder))
            and (not name or name in record.source.rpartition("/")[2].casefold())
        )
        return record if wanted_too else None

    return fits


def horizon(now: float, days: float) -> float:
    """From when on (epoch seconds) final documents are remembered that are kept for so many days."""
    return max(0.0, now - days * 86400)


def is_before(document_id: str, at: float) -> bool:
    """Whether an id was made before epoch seconds `at`: the first ten characters of a ULID are its time."""
    return document_id < _first_at(at)


def _first_at(at: float) -> str:
    return ulid_at_time(at)[:10]


def trim(redis: Redis, levels: Sequence[str], keep: int, before: float = 0.0, chunk: int = 2000) -> int:
    """Forget final documents: the oldest beyond `keep` in each set, and those that came before epoch seconds `before`.

    At most `chunk` a set and call. Returns how many.
    """
    removed = 0
    for status, level in product(FINAL, levels):
        name = _set(status, level)
        surplus = max(redis.zcard(name) - keep, redis.zlexcount(name, "-", f"({_first_at(before)}"))
        if surplus <= 0:
            continue
        ids: list[Any] = list(redis.zrange(name, 0, min(surplus, chunk) - 1))
        with redis.pipeline() as pipeline:
            pipeline.zrem(name, *ids)
            pipeline.unlink(*(key(member.decode()) for member in ids))
            pipeline.execute()
        removed += len(ids)
    return removed


def _packed(entries: Iterable[tuple[str, Fields]]) -> bytes:
    return _pack(
        [(document_id, {_SHORT[name]: value for name, value in each.items()}) for document_id, each in entries]
    )


def _set(status: Status, level: str) -> str:
    return f"llm:ledger:{status.value}:{level}"


def entry_of(document_id: str, record: Record) -> Entry:
    """A record as an entry."""
    return Entry(
        id=document_id,
        status=record.status,
        priority=record.priority,
        source=record.source,
        queue=record.queue,
        handler=record.handler,
        attempts=record.attempts,
        size=record.size,
        rq_job_id=record.rq_job_id or None,
        code=record.code or None,
        message=record.message or None,
        reasons=record.reasons,
        times={status: at / 1000 for status in _TIMES if (at := getattr(record, f"{status}_at"))},
        country=record.country,
        industry=record.industry,
        language=record.language,
        quality=record.quality,
        earlier=[(_STATUS_AT[short], at / 1000) for short, at in record.earlier if short in _STATUS_AT],
    )


def _entry(document_id: str, raw: Any) -> Entry | None:
    record = _record(raw)
    return None if record is None else entry_of(document_id, record)


def _record(raw: Any) -> Record | None:
    """None for what is no record."""
    try:
        return _unpack(raw or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
