"""What waits on each queue and since when, read in one round trip, however much there is in the ledger."""

from collections.abc import Sequence
from typing import NamedTuple

from redis import Redis

from llm_scheduler.jobs.document import ACTIVE, Status
from llm_scheduler.jobs.store import batches, commands, ledger
from llm_scheduler.jobs.store.submission import queue_key

# A document that comes back (a retry) keeps its old id, by which the sets are sorted: so the first is not always the
# one that waits the longest, and some more are looked at.
_FIRST = 16

# KEYS: for each queue, the set of the queued and that of the batched documents. ARGV: how many of the first to look at.
# Since when (ms) the longest-waiting of each queue waits where it is, or 0.
_SINCE = (
    ledger.LUA
    + """
local found = {}
for place = 1, #KEYS, 2 do
  local since = 0
  for kind, set in ipairs({KEYS[place], KEYS[place + 1]}) do
    for _, id in ipairs(redis.call('ZRANGE', set, 0, ARGV[1] - 1)) do
      local record = ledger.get(id)
      local at = record and (kind == 1 and record.tq or record.tb)
      if at and (since == 0 or at < since) then since = at end
    end
  end
  found[#found + 1] = since
end
return found
"""
)


class Waiting(NamedTuple):
    """A queue at one moment. `jobs` are RQ's, `batched` documents wait for company, and `documents` counts those that
    are not finished by status. `oldest` is for how many seconds the longest-waiting has been queued or in a batch;
    None where nothing waits.
    """

    queue: str
    jobs: int
    batched: int
    documents: dict[str, int]
    oldest: float | None
    paused: bool

    @property
    def depth(self) -> int:
        """Documents that wait for a worker."""
        return self.documents[Status.QUEUED.value] + self.documents[Status.BATCHED.value]


def read(redis: Redis, levels: Sequence[str], now: float) -> list[Waiting]:
    """Every queue at epoch seconds `now`. Raises RedisError."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.smembers(commands.PAUSED)
    sets = [_set(status, level) for level in levels for status in (Status.QUEUED, Status.BATCHED)]
    pipeline.eval(_SINCE, len(sets), *sets, _FIRST)
    for level in levels:
        pipeline.llen(queue_key(level))
        pipeline.llen(batches.key(level))
        for status in ACTIVE:
            pipeline.zcard(_set(status, level))
    paused, since, *sizes = pipeline.execute()
    rest = iter(sizes)
    return [
        Waiting(
            queue=level,
            jobs=next(rest),
            batched=next(rest),
            documents={status.value: next(rest) for status in ACTIVE},
            oldest=max(0.0, now - since_ms / 1000) if since_ms else None,
            paused=level.encode() in paused,
        )
        for level, since_ms in zip(levels, since, strict=True)
    ]


def _set(status: Status, level: str) -> str:
    return f"llm:ledger:{status.value}:{level}"
