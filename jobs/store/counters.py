"""Counters in Redis, for `/stats`, `/queues` and `/metrics`: how many documents arrived, and how they ended.

One hash holds the totals since Redis was last emptied; one more hash a minute holds those of the last day. The figures
outlive every process and are the same wherever they are read. A field is `<kind>:<queue>`, followed by a code or a
bucket. A file that was split is not counted; its documents are.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis import Redis
from redis.client import Pipeline

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.keys import Keys, keys_of, script
from llm_scheduler.jobs.store.outcomes import Outcome

MINUTE_SECONDS = 60
MAX_SECONDS = 24 * 3600  # that `recent` can look back
_KEPT_SECONDS = MAX_SECONDS + 3600
# The upper bounds of the buckets in which times are counted, in seconds; one more bucket holds longer times.
BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0),
)
OTHER = "(other)"  # stands for everything outside a closed list

RECEIVED = "received"
PROCESSING = "processing"
ARRIVAL_TO_DONE = "arrival_to_done"
_SUM = "us"  # in place of a bucket: the sum of all times in microseconds
_CHUNK = 60  # minutes that the server adds up in one step of about two milliseconds

# Adds to the totals (KEYS[1]) and to the minute (KEYS[2]). The script that adds keeps the minute for ARGV[1] seconds.
_ADD = """
local function add(name, count)
  redis.call('HINCRBY', KEYS[1], name, count)
  redis.call('HINCRBY', KEYS[2], name, count)
end
"""

# KEYS: totals, minute, and a stream or none. ARGV: seconds, an entry of the stream, then fields and counts. Deletes the
# entry from its stream. Where it was deleted before, all of this has been counted, and nothing is added.
_ENDED = (
    _ADD
    + """
if KEYS[3] and redis.call('XDEL', KEYS[3], ARGV[2]) == 0 then return 0 end
for i = 3, #ARGV, 2 do add(ARGV[i], ARGV[i + 1]) end
return redis.call('EXPIRE', KEYS[2], ARGV[1])
"""
)

# KEYS: totals, minute. ARGV: seconds, then queues, each with the ids of its documents in one string. Counts documents
# that are unknown to the ledger, or only received.
_RECEIVED = (
    ledger.LUA
    + _ADD
    + """
for i = 2, #ARGV, 2 do
  local names, ids = {}, ARGV[i + 1]
  for at = 1, #ids, 26 do names[#names + 1] = '<record>' .. string.sub(ids, at, at + 25) end
  local fresh, known = #names, 0
  for first = 1, #names, 1000 do
    known = known + redis.call('EXISTS', unpack(names, first, math.min(first + 999, #names)))
  end
  if known > 0 then
    for _, name in ipairs(names) do
      local record = ledger.get(string.sub(name, -26))
      if record and record.s ~= 'received' then fresh = fresh - 1 end
    end
  end
  if fresh > 0 then add('received:' .. ARGV[i], fresh) end
end
return redis.call('EXPIRE', KEYS[2], ARGV[1])
"""
)

# KEYS: minutes. Returns each field and its sum.
_SUM_UP = """
local sums, flat = {}, {}
for _, key in ipairs(KEYS) do
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do sums[fields[i]] = (sums[fields[i]] or 0) + tonumber(fields[i + 1]) end
end
for name, sum in pairs(sums) do
  flat[#flat + 1] = name
  flat[#flat + 1] = string.format('%.0f', sum)
end
return flat
"""


class OutcomeCounts:
    """How documents ended, added up for a group of them, so that counting costs the server little."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, Status, str, int, int], int] = {}
        self._processing: dict[str, float] = {}
        self._arrival_to_done: dict[str, float] = {}

    def add(self, outcome: Outcome, status: Status, age: float) -> None:
        """A document that ended with `status`, `age` seconds after its arrival."""
        queue, seconds = outcome.route.queue, outcome.seconds
        ran = bisect_left(BOUNDS, seconds) if outcome.attempts and status is not Status.CANCELLED else -1
        lasted = bisect_left(BOUNDS, age) if status is Status.DONE else -1
        key = queue, status, outcome.code, ran, lasted
        self._counts[key] = self._counts.get(key, 0) + 1
        if ran >= 0:
            self._processing[queue] = self._processing.get(queue, 0.0) + seconds
        if lasted >= 0:
            self._arrival_to_done[queue] = self._arrival_to_done.get(queue, 0.0) + max(0.0, age)

    def fields(self) -> dict[str, int]:
        """The counters to add to."""
        made: dict[str, int] = {}

        def add(name: str, number: int) -> None:
            made[name] = made.get(name, 0) + number

        for (queue, status, code, ran, lasted), number in self._counts.items():
            rejected = status is Status.REJECTED
            add(f"{status.value}:{queue}:{known_code(code)}" if rejected else f"{status.value}:{queue}", number)
            if ran >= 0:
                add(f"{PROCESSING}:{queue}:{ran}", number)
            if lasted >= 0:
                add(f"{ARRIVAL_TO_DONE}:{queue}:{lasted}", number)
        for kind, sums in ((PROCESSING, self._processing), (ARRIVAL_TO_DONE, self._arrival_to_done)):
            for queue, seconds in sums.items():
                add(f"{kind}:{queue}:{_SUM}", round(seconds * 1e6))
        return made


def known_code(code: str) -> str:
    """`code` as one of `llm_scheduler.jobs.codes`, without what a `binary:png` says beyond it."""
    base = code.partition(":")[0]
    return base if base in _CODES else OTHER


_CODES = frozenset(code.value for code in Code)


def count_ended(pipeline: Pipeline, now: float, ends: OutcomeCounts, entry: tuple[str, bytes] | None) -> None:
    """Count `ends` in the minute of epoch seconds `now` (queued on the pipeline).

    `entry`: a stream and one of its entries, which the caller's transaction deletes. Where it was deleted before, in a
    transaction whose answer was lost, nothing is counted twice; without an entry it may be. A collector that is killed
    between the commit of a group and this call leaves the group uncounted: later it looks like a late duplicate.
    """
    fields = ends.fields()
    if not fields:
        return
    names = keys_of(pipeline)
    keys = [names.totals, _minute(names, now), *([entry[0]] if entry else ())]
    arguments: list[Any] = [part for pair in fields.items() for part in pair]
    pipeline.eval(_ENDED, len(keys), *keys, _KEPT_SECONDS, entry[1] if entry else "", *arguments)


def count_received(pipeline: Pipeline, now: float, ids: Mapping[str, Sequence[str]]) -> None:
    """Count submitted documents by queue (queued on the pipeline, before the command that adds them to the ledger).

    Documents that are submitted a second time are not counted again.
    """
    arguments = [part for queue, members in ids.items() for part in (queue, "".join(members))]
    if arguments:
        keys = keys_of(pipeline)
        pipeline.eval(script(keys, _RECEIVED), 2, keys.totals, _minute(keys, now), _KEPT_SECONDS, *arguments)


@dataclass
class Durations:
    """Times counted in the buckets of `BOUNDS`; `seconds` is their sum."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.buckets)

    @property
    def mean(self) -> float | None:
        """In seconds; None where nothing was counted."""
        return self.seconds / self.count if self.count else None

    def percentile(self, percent: float) -> float | None:
        """In seconds, interpolated linearly within the bucket; None where nothing was counted.

        Times above the highest bound count as the bound.
        """
        wanted, below = percent / 100 * self.count, 0
        for place, number in enumerate(self.buckets):
            if number and below + number >= wanted:
                if place == len(BOUNDS):
                    break
                low = BOUNDS[place - 1] if place else 0.0
                return low + (BOUNDS[place] - low) * (wanted - below) / number
            below += number
        return BOUNDS[-1] if self.count else None

    def joined(self, other: "Durations") -> "Durations":
        """Both together."""
        return Durations(
            [a + b for a, b in zip(self.buckets, other.buckets, strict=True)], self.seconds + other.seconds
        )


@dataclass
class QueueCounters:
    """The counters of one queue: documents by outcome, rejected ones by code, and their times."""

    received: int = 0
    done: int = 0
    cancelled: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    processing: Durations = field(default_factory=Durations)
    arrival_to_done: Durations = field(default_factory=Durations)

    @property
    def rejected_total(self) -> int:
        """Rejected documents of all codes."""
        return sum(self.rejected.values())

    @property
    def finished(self) -> int:
        """Documents with a final status."""
        return self.done + self.rejected_total + self.cancelled

    @property
    def error_rate(self) -> float | None:
        """The share of rejected documents among those done or rejected; None where there are none."""
        ended = self.done + self.rejected_total
        return self.rejected_total / ended if ended else None

    def joined(self, other: "QueueCounters") -> "QueueCounters":
        """Both together."""
        codes = [*self.rejected, *(code for code in other.rejected if code not in self.rejected)]
        return QueueCounters(
            received=self.received + other.received,
            done=self.done + other.done,
            cancelled=self.cancelled + other.cancelled,
            rejected={code: self.rejected.get(code, 0) + other.rejected.get(code, 0) for code in codes},
            processing=self.processing.joined(other.processing),
            arrival_to_done=self.arrival_to_done.joined(other.arrival_to_done),
        )


class RecentCounters(NamedTuple):
    """The counters by queue since epoch seconds `since`, `seconds` ago."""

    since: float
    seconds: float
    queues: dict[str, QueueCounters]


def ask_totals(pipeline: Pipeline) -> None:
    """Ask for the totals (queued on the pipeline; `parse` reads the answer)."""
    pipeline.hgetall(keys_of(pipeline).totals)


def parse(fields: Mapping[bytes, Any], levels: Sequence[str]) -> dict[str, QueueCounters]:
    """The counters in a hash, by level; those of queues that no longer exist are under `OTHER`."""
    found = {level: QueueCounters() for level in levels}
    for name, number in fields.items():
        kind, _, rest = name.decode("utf-8", "replace").partition(":")
        queue, _, detail = rest.partition(":")
        place = queue if queue in found else OTHER
        _add(found.setdefault(place, QueueCounters()), kind, detail, int(number))
    return found


def recent(redis: Redis, levels: Sequence[str], now: float, seconds: float) -> RecentCounters:
    """The counters of the `seconds` before epoch seconds `now`, from the beginning of their first minute.

    Raises RedisError.
    """
    last = int(now // MINUTE_SECONDS)
    first = int((now - min(seconds, MAX_SECONDS)) // MINUTE_SECONDS)
    sums: dict[bytes, int] = {}
    names = keys_of(redis)
    # One after the other, not in a pipeline: other clients get their turn in between.
    for start in range(first, last + 1, _CHUNK):
        keys = [names.minute(minute) for minute in range(start, min(start + _CHUNK, last + 1))]
        flat: list[bytes] = redis.eval(_SUM_UP, len(keys), *keys)
        for name, number in zip(flat[::2], flat[1::2], strict=True):
            sums[name] = sums.get(name, 0) + int(number)
    since = float(first * MINUTE_SECONDS)
    return RecentCounters(since, now - since, parse(sums, levels))


def total(queues: Iterable[QueueCounters]) -> QueueCounters:
    """The counters of all queues as one."""
    made = QueueCounters()
    for each in queues:
        made = made.joined(each)
    return made


def _add(counters: QueueCounters, kind: str, detail: str, number: int) -> None:
    """Add one field. A field of an unknown kind is ignored: a newer version may have written it."""
    if kind in (RECEIVED, Status.DONE.value, Status.CANCELLED.value):
        setattr(counters, kind, getattr(counters, kind) + number)
    elif kind == Status.REJECTED.value:
        code = known_code(detail)
        counters.rejected[code] = counters.rejected.get(code, 0) + number
    elif kind in (PROCESSING, ARRIVAL_TO_DONE):
        times: Durations = getattr(counters, kind)
        if detail == _SUM:
            times.seconds += number / 1e6
        elif detail.isdigit() and int(detail) < len(times.buckets):
            times.buckets[int(detail)] += number


def _minute(keys: Keys, now: float) -> str:
    return keys.minute(int(now // MINUTE_SECONDS))
