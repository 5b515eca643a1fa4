"""Finding documents in the ledger: filters and pages, newest first."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from redis import Redis

from llm_scheduler.jobs.document import Status, id_prefix_at
from llm_scheduler.jobs.store.keys import keys_of, script
from llm_scheduler.jobs.store.ledger import Entry, Record, entry_of, record_of

MAX_SCANNED = 20_000  # records that are read for one page
_CHUNK = 500

# KEYS: sets. ARGV: from and to (ids, newest first), how many, whether to count all. Returns the newest members of all
# sets together, their records, and how many there are in all. It reads the newest member of each set, then a few at a
# time of the sets that hold the newest of all: usually one or two.
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
  names[#names + 1] = '<record>' .. id
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


class DocumentFilter(NamedTuple):
    """Which documents. `status`, `priority`, `since` and `until` (epoch seconds of arrival) use the ledger's sets; the
    other fields need a look at each record.

    `source`: a document's own source, or a folder above it. `name`: a part of its file's name, in any letter case.
    `industry`: the beginning of its label.
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
        """Whether no record has to be read."""
        return all(each is None for each in self[4:])


EVERYTHING = DocumentFilter()
T = TypeVar("T")


class LedgerPage(NamedTuple, Generic[T]):
    """A page of documents, newest first. `cursor` asks for the next page; None at the end.

    `total`: how many documents match. It `is_exact` unless records were read and there may be more. A page may have a
    cursor and no entries: `MAX_SCANNED` records were read without a match.
    """

    entries: list[T]
    cursor: str | None
    total: int = 0
    is_exact: bool = True


def page(
    redis: Redis,
    levels: Sequence[str],
    *,
    wanted: DocumentFilter = EVERYTHING,
    limit: int = 50,
    cursor: str | None = None,
) -> LedgerPage[Entry]:
    """At most `limit` documents after the id `cursor`, newest first. A document keeps its place when it moves."""
    return page_of(entry_of, redis, levels, wanted=wanted, limit=limit, cursor=cursor)


def page_of(
    make: Callable[[str, Record], T],
    redis: Redis,
    levels: Sequence[str],
    *,
    wanted: DocumentFilter = EVERYTHING,
    limit: int = 50,
    cursor: str | None = None,
    max_scanned: int = MAX_SCANNED,
) -> LedgerPage[T]:
    """The same as `page`, with `make(id, record)` for each document."""
    keys = keys_of(redis)
    sets = [
        keys.status_set(status.value, level)
        for status in ([wanted.status] if wanted.status else Status)
        for level in ([wanted.priority] if wanted.priority else levels)
    ]
    first, last = _bounds(wanted, cursor)
    fits = _fits(wanted)
    found: list[tuple[str, T]] = []
    seen = total = 0
    at_once = limit + 1 if fits is None else _CHUNK
    while True:
        ids, records, counted = redis.eval(
            script(keys, _NEWEST), len(sets), *sets, first, last, at_once, int(fits is None and cursor is None)
        )
        seen += len(ids)
        for name, raw in zip(ids, records, strict=True):
            record = record_of(raw) if fits is None else fits(raw or b"")
            if record is not None:
                document_id = name.decode()
                found.append((document_id, make(document_id, record)))
        total = counted
        if fits is None or len(ids) < at_once or len(found) > limit or seen >= max_scanned:
            break
        first = f"({ids[-1].decode()}"
    is_whole = len(ids) < at_once
    more = len(found) > limit
    kept = [each for _, each in found[:limit]]
    if fits is None:
        return LedgerPage(kept, ids[limit - 1].decode() if len(ids) > limit else None, total, cursor is None)
    after = found[limit - 1][0] if more else None if is_whole else ids[-1].decode()
    return LedgerPage(kept, after, len(found), is_whole and cursor is None)


def pages(
    make: Callable[[str, Record], T],
    redis: Redis,
    levels: Sequence[str],
    *,
    wanted: DocumentFilter = EVERYTHING,
    limit: int,
    cursor: str | None = None,
) -> Iterator[list[T]]:
    """All pages after the id `cursor`, each read when it is needed, with `make(id, record)` for each document."""
    while True:
        found = page_of(make, redis, levels, wanted=wanted, limit=limit, cursor=cursor)
        yield found.entries
        cursor = found.cursor
        if cursor is None:
            return


def _bounds(wanted: DocumentFilter, cursor: str | None) -> tuple[str, str]:
    """The lexicographic bounds: from which id down to which."""
    first, last = "+", "-"
    if wanted.until is not None:
        first = f"({id_prefix_at(wanted.until)}"
    if cursor and (first == "+" or cursor < first[1:]):
        first = f"({cursor}"
    if wanted.since is not None:
        last = f"[{id_prefix_at(wanted.since)}"
    return first, last


def _fits(wanted: DocumentFilter) -> Callable[[bytes], Record | None] | None:
    """What returns the record if it matches; None when every record matches.

    Most records are excluded without unpacking: their bytes lack a value of the filter.
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
        record = record_of(raw)
        wanted_too = record is not None and (
            all(getattr(record, field) == value for field, value in exact.items())
            and (wanted.industry is None or record.industry.startswith(wanted.industry))
            and (wanted.source is None or record.source == wanted.source or record.source.startswith(folder))
            and (not name or name in record.source.rpartition("/")[2].casefold())
        )
        return record if wanted_too else None

    return fits
