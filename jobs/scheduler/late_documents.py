"""Documents that wait in their queue for longer than `processing.queue_timeout`: an alert, never a failure.

What waits for the company of a batch, or for its next attempt, does so on purpose; a document's wait begins when it is
put on its queue.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from redis import Redis

from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.document import Status, new_id
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.alerts import Event, clear_alert, raise_alert, standing

KIND = "queue_timeout"
OVER = "queue_timeout_over"
_AT_ONCE = 1000
_MOST = 10_000  # documents of a queue that one look reads, the earliest arrivals first

# KEYS: the queued documents in the ledger. ARGV: position, how many, before when (ms) a wait is too long, the first id
# of that moment. The set lies in the order of arrival. What arrived later than that moment was not queued before it; of
# what arrived earlier some was queued much later (a retry comes back with its old id), so that each has to be asked.
_LATE = (
    ledger.LUA
    + """
local ids = redis.call('ZRANGEBYLEX', KEYS[1], '-', '(' .. ARGV[4], 'LIMIT', ARGV[1], ARGV[2])
local count, oldest, since = 0, '', tonumber(ARGV[3])
for _, id in ipairs(ids) do
  local record = ledger.get(id)
  local queued = record and record.tq
  if queued and queued < tonumber(ARGV[3]) then
    count = count + 1
    if queued < since then since, oldest = queued, id end
  end
end
return {#ids, count, oldest, since}
"""
)


class Late(NamedTuple):
    """How many documents wait too long (at least), which of them the longest, and since when in epoch seconds."""

    documents: int
    oldest: str
    since: float


def late(redis: Redis, queue: str, before: float) -> Late:
    """The documents of `queue` that have waited since before epoch seconds `before`."""
    found = Late(0, "", before)
    # The first ten characters of an id are its time (of seconds in a float; an integer would count as milliseconds).
    moment = new_id(float(max(0.0, before)))[:10]
    for position in range(0, _MOST, _AT_ONCE):
        seen, count, oldest, since = redis.eval(
            _LATE, 1, f"llm:ledger:{Status.QUEUED.value}:{queue}", position, _AT_ONCE, int(before * 1000), moment
        )
        if count and since / 1000 < found.since:
            found = found._replace(oldest=oldest.decode(), since=since / 1000)
        found = found._replace(documents=found.documents + count)
        if seen < _AT_ONCE:
            break
    return found


def look(redis: Redis, queues: Sequence[str], limit: float, clock: Clock, log: logging.Logger) -> None:
    """Raise an alert for each queue with late documents, and clear that of each without. A `limit` of 0 means none."""
    stand = {name for name, event in standing(redis).items() if event.kind == KIND}
    for queue in queues:
        now = clock.now()
        found = late(redis, queue, now - limit) if limit else Late(0, "", now)
        if found.documents:
            _raise(redis, queue, found, limit, now, log)
            stand.discard(_name(queue))
    for name in stand:
        _clear(redis, name, clock.now(), log)


def _raise(redis: Redis, queue: str, found: Late, limit: float, now: float, log: logging.Logger) -> None:
    entry = ledger.get(redis, found.oldest)
    source = entry.source if entry else ""
    waited = now - found.since
    documents = "1 document" if found.documents == 1 else f"{found.documents} documents"
    message = (
        f"{documents} of {queue} waited longer than queue_timeout ({limit:g} s); "
        f"the oldest, {source} ({found.oldest}), {waited:.0f} s. "
        "Are there enough workers, and do they run? See `llmctl status`."
    )
    details: dict[str, str | int | float] = {
        "queue": queue,
        "count": found.documents,
        "oldest_id": found.oldest,
        "oldest_source": source,
        "oldest_seconds": round(waited, 1),
        "queue_timeout": limit,
    }
    if raise_alert(redis, _name(queue), Event(kind=KIND, at=now, message=message, details=details)):
        log.warning("%s", message, extra={"queue": queue})


def _clear(redis: Redis, name: str, now: float, log: logging.Logger) -> None:
    queue = name.partition(":")[2]
    message = f"No document of {queue} waits longer than queue_timeout any more."
    if clear_alert(redis, name, Event(kind=OVER, at=now, message=message, details={"queue": queue})):
        log.info("%s", message, extra={"queue": queue})


def _name(queue: str) -> str:
    return f"{KIND}:{queue}"
