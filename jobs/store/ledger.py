"""The ledger: the record of every document's status in Redis, for the API and the reports.

A document is a record, and a member of exactly one sorted set: that of its status and priority. All scores are 0, so
the members lie in the order of their ids, which is the order of arrival. The sizes of the sets are the counts.
The ledger is an index: a lost ledger costs no document.

A record is one MessagePack map with keys of one or two letters. A hash of the same fields takes half as much memory
again and twice the time to move (docs/decisions/0009-throughput.md). Every move adds an entry to the stream of
transitions (jobs/store/transitions.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import msgspec
from redis import Redis
from redis.client import Pipeline

from llm_scheduler.jobs.document import FINAL, Route, Status, id_prefix_at
from llm_scheduler.jobs.store import transitions
from llm_scheduler.jobs.store.keys import keys_of, script

Fields = Mapping[str, str | int | list[str]]
_SHORT = {
    "status": "s",
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
    "earlier": "o",
    "received_at": "tr",
    "batched_at": "tb",
    "queued_at": "tq",
    "started_at": "ts",
    "retrying_at": "ty",
    "done_at": "td",
    "rejected_at": "tx",
    "cancelled_at": "tc",
}
_TIMES = {status.value: _SHORT[f"{status.value}_at"] for status in Status}
_STATUS_AT = {short: status for status, short in _TIMES.items()}

# Put in front of scripts that read or move documents.
# `ledger.get(id)`: the record, or nil. `ledger.move(id, record, status, ms)`: stores the record, whose fields the
# script may have changed, under another status. The time of an earlier stay there is kept in the record's `o`.
# `ledger.tell()`: call it last; it adds one entry for all moves to the stream of transitions.
LUA = (
    """
local ledger = {
  moved = {},
  final = {done = true, rejected = true, cancelled = true},
  flying = {batched = true, queued = true, started = true, retrying = true},
}
"""
    f"ledger.times = {{{', '.join(f'{status} = {short!r}' for status, short in _TIMES.items())}}}"
    """
function ledger.get(id)
  local raw = redis.call('GET', '<record>' .. id)
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
    if was then redis.call('ZREM', '<status_set>' .. was .. ':' .. (record.op or record.p), id) end
    redis.call('ZADD', '<status_set>' .. status .. ':' .. record.p, 0, id)
  end
  record.op = nil
  record.s = status
  record[place] = at
  redis.call('SET', '<record>' .. id, cmsgpack.pack(record))
  if was ~= status then
    ledger.status, ledger.at = status, at
    ledger.moved[#ledger.moved + 1] = id
  end
end
"""
    f"""
function ledger.tell()
  if #ledger.moved == 0 then return end
  redis.call('XADD', '<transitions>', 'MAXLEN', '~', {transitions.MAX_ENTRIES}, '*',
    's', ledger.status, 't', string.format('%.0f', ledger.at), 'i', cmsgpack.pack(ledger.moved))
end
"""
)

# Moves documents to a status. A final status stays. An unknown document is added only if its fields have a priority.
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

# Adds received documents. A document that the ledger knows stays as it is. ARGV: entries of id and fields.
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

# Moves rejected and cancelled documents back to received: they run again. ARGV: now (ms), ids. Returns the moved ids.
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

# Restores finished documents that the ledger has forgotten, without a transition. ARGV: entries of id, status, when it
# ended (ms) and fields. Returns how many were unknown.
_REMEMBER = (
    LUA
    + """
for _, entry in ipairs(cmsgpack.unpack(ARGV[1])) do
  if not ledger.get(entry[1]) then ledger.move(entry[1], entry[4], entry[2], entry[3]) end
end
return #ledger.moved
"""
)


class Record(msgspec.Struct, frozen=True, rename=_SHORT.get):
    """A document as it is stored. Times are in milliseconds; 0: never."""

    status: Status
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
    earlier: list[tuple[str, int]] = []
    received_at: int = 0
    batched_at: int = 0
    queued_at: int = 0
    started_at: int = 0
    retrying_at: int = 0
    done_at: int = 0
    rejected_at: int = 0
    cancelled_at: int = 0

    @property
    def is_split_file(self) -> bool:
        """Whether it is a file of several documents that was split: no handler ran on the file itself."""
        return self.status == Status.DONE and not self.quality


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Record).decode


class Entry(NamedTuple):
    """One document as the ledger knows it.

    `times`: epoch seconds of the latest stay under each status; `earlier`: those of earlier stays. `quality` is known
    once the document is done.
    """

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


class FinishedDocument(NamedTuple):
    """A finished document that the ledger has forgotten; `at`: when it got its final status, in epoch seconds."""

    id: str
    status: Status
    at: float
    fields: Fields


def document_fields(
    route: Route, source: str, received_at: float, *, size: int | None = None, **extra: str | int | list[str]
) -> Fields:
    """What the ledger keeps of a document wherever it is. `received_at`: epoch seconds; `size`: bytes of the original.

    Empty values of `extra`, and what the router did not find, are left out.
    """
    fields: dict[str, str | int | list[str]] = {
        "priority": route.priority,
        "queue": route.queue,
        "handler": route.handler,
        "source": source,
        "received_at": int(received_at * 1000),
    }
    found = {name: getattr(route, name) for name in ("reasons", "country", "industry", "language")} | extra
    fields.update({name: value for name, value in found.items() if value})
    if size is not None:
        fields["size"] = size
    return fields


def move(redis: "Redis | Pipeline", status: Status, at: float, entries: Iterable[tuple[str, Fields]]) -> Any:
    """Put documents under `status` at epoch seconds `at`; the answer is how many were moved.

    A final status stays. An unknown document is added only if its fields have a priority. On a pipeline the command is
    only queued: it is part of that transaction.
    """
    keys = keys_of(redis)
    return redis.eval(script(keys, _MOVE), 1, keys.in_flight_bytes, status.value, str(int(at * 1000)), _packed(entries))


def receive(redis: Redis, entries: Iterable[tuple[str, Fields]]) -> None:
    """Add received documents; their fields have a priority and `received_at`. Known documents stay as they are."""
    redis.eval(script(keys_of(redis), _RECEIVE), 0, _packed(entries))


def remember(redis: Redis, forgotten: Iterable[FinishedDocument]) -> int:
    """Restore finished documents. Known documents stay as they are. Returns how many were unknown."""
    entries = [(each.id, each.status.value, int(each.at * 1000), _shortened(each.fields)) for each in forgotten]
    return int(redis.eval(script(keys_of(redis), _REMEMBER), 0, _pack(entries))) if entries else 0


def revive(redis: Redis, at: float, ids: Sequence[str]) -> list[str]:
    """Move rejected and cancelled documents back to received, at epoch seconds `at`. Returns the moved ids."""
    moved: list[bytes] = redis.eval(script(keys_of(redis), _REVIVE), 0, str(int(at * 1000)), *ids) if ids else []
    return [each.decode() for each in moved]


def counts(redis: Redis, levels: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many documents there are by status and priority, in one round trip."""
    keys = keys_of(redis)
    pipeline = redis.pipeline(transaction=False)
    for status, level in product(Status, levels):
        pipeline.zcard(keys.status_set(status.value, level))
    sizes = iter(pipeline.execute())
    return {status.value: {level: next(sizes) for level in levels} for status in Status}


def get(redis: Redis, document_id: str) -> Entry | None:
    """The entry of one document, or None when the ledger has none."""
    return _entry(document_id, redis.get(keys_of(redis).record(document_id)))


def entries(redis: Redis, ids: Sequence[str]) -> list[Entry | None]:
    """The entry of each id in one round trip; None for unknown documents."""
    keys = keys_of(redis)
    found = redis.mget([keys.record(document_id) for document_id in ids]) if ids else []
    return [_entry(document_id, raw) for document_id, raw in zip(ids, found, strict=True)]


def known(redis: Redis, ids: Sequence[str]) -> list[tuple[Status | None, str | None]]:
    """(status, rq_job_id) of each id; (None, None) for unknown documents."""
    return [(entry.status, entry.rq_job_id) if entry else (None, None) for entry in entries(redis, ids)]


def horizon(now: float, days: float) -> float:
    """From when on (epoch seconds) final documents are remembered that are kept for so many days."""
    return max(0.0, now - days * 86400)


def trim(redis: Redis, levels: Sequence[str], keep: int, before: float = 0.0, chunk: int = 2000) -> int:
    """Forget final documents: the oldest beyond `keep` in each set, and those that came before epoch seconds `before`.

    At most `chunk` documents of a set in one call. Returns how many.
    """
    keys = keys_of(redis)
    removed = 0
    for status, level in product(FINAL, levels):
        name = keys.status_set(status.value, level)
        surplus = max(redis.zcard(name) - keep, redis.zlexcount(name, "-", f"({id_prefix_at(before)}"))
        if surplus <= 0:
            continue
        ids: list[Any] = list(redis.zrange(name, 0, min(surplus, chunk) - 1))
        with redis.pipeline() as pipeline:
            pipeline.zrem(name, *ids)
            pipeline.unlink(*(keys.record(member.decode()) for member in ids))
            pipeline.execute()
        removed += len(ids)
    return removed


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


def record_of(raw: Any) -> Record | None:
    """The record in a key's value; None for anything else."""
    try:
        return _unpack(raw or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _entry(document_id: str, raw: Any) -> Entry | None:
    record = record_of(raw)
    return None if record is None else entry_of(document_id, record)


def _packed(entries: Iterable[tuple[str, Fields]]) -> bytes:
    return _pack([(document_id, _shortened(fields)) for document_id, fields in entries])


def _shortened(fields: Fields) -> Fields:
    return {_SHORT[name]: value for name, value in fields.items()}
