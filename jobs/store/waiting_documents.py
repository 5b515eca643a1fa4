"""Since when has the oldest document waited? One answer for alerts, `/queues`, metrics and the autoscaler."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis import Redis
from redis.client import Pipeline

from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.keys import keys_of, script

MAX_SCANNED = 10_000  # records of one queue that one look reads, the earliest arrivals first
_STATUSES = (Status.QUEUED, Status.BATCHED)

# KEYS: sets of waiting documents. ARGV: how many records to read at most, a time (ms), then each set's status.
# Returns for each set: since when its oldest document waits (ms, 0: none), its id, and how many wait since before the
# time. A retry comes back with its old id, so the first document of a set is not always the oldest. But no document
# waits since before its own arrival, which is in its id: the search ends at the first id that is too young to matter.
_OLDEST = (
    ledger.LUA
    + """
local digits = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'
local function arrival(id)
  local ms = 0
  for place = 1, 10 do ms = ms * 32 + (string.find(digits, string.sub(id, place, place), 1, true) or 1) - 1 end
  return ms
end
local most, before, found = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for place, set in ipairs(KEYS) do
  local field = ledger.times[ARGV[place + 2]]
  local since, oldest, late, first, few = math.huge, '', 0, 0, 10
  local ids = redis.call('ZRANGE', set, 0, few - 1)
  while #ids > 0 and first < most do
    for _, id in ipairs(ids) do
      local came = arrival(id)
      if came > since and came >= before then ids, first = {}, most break end
      local record = ledger.get(id)
      local at = record and record[field]
      if at and at < since then since, oldest = at, id end
      if at and at < before and came < before then late = late + 1 end
    end
    first, few = first + #ids, math.min(few * 10, 1000)
    if #ids > 0 then ids = redis.call('ZRANGE', set, first, math.min(first + few, most) - 1) end
  end
  if since == math.huge then since = 0 end
  found[#found + 1] = {since, oldest, late}
end
return found
"""
)


class OldestDocument(NamedTuple):
    """The document that waits longest: since when (epoch seconds), its id, and how many wait since before `before`."""

    since: float
    id: str
    late: int


class WaitingDocuments(NamedTuple):
    """The oldest document of a queue that waits for a worker, and the oldest that waits in its batch; None: no one."""

    queued: OldestDocument | None
    batched: OldestDocument | None

    @property
    def since(self) -> float | None:
        """Since when (epoch seconds) the oldest of both waits."""
        return min((each.since for each in self if each is not None), default=None)


def ask(redis: "Redis | Pipeline", levels: Sequence[str], before: float = 0.0) -> Any:
    """Ask for the oldest documents of `levels`; `parse` reads the answer. On a pipeline the command is only queued."""
    keys = keys_of(redis)
    sets = [keys.status_set(status.value, level) for level in levels for status in _STATUSES]
    statuses = [status.value for status in _STATUSES] * len(levels)
    return redis.eval(script(keys, _OLDEST), len(sets), *sets, MAX_SCANNED, int(before * 1000), *statuses)


def parse(answer: Sequence[tuple[int, bytes, int]], levels: Sequence[str]) -> dict[str, WaitingDocuments]:
    """The answer to `ask`, by queue."""
    found = [OldestDocument(since / 1000, oldest.decode(), late) if since else None for since, oldest, late in answer]
    return {level: WaitingDocuments(*found[2 * place : 2 * place + 2]) for place, level in enumerate(levels)}
