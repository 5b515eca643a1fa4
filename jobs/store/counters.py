"""Tallies: how many documents came, and what came of them, counted in Redis for `/stats`, `/queues` and `/metrics`.

What was counted since Redis was last emptied lies in one hash, and in one more for each minute of the last day: so the
figures outlive every process and are the same wherever they are asked for. A field is `<kind>:<queue>`, with a code or
a bucket behind it. A file that was taken apart is not counted; the documents that it held are.
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
from llm_scheduler.jobs.store.outcomes import Outcome

TOTALS = "llm:tallies"
MINUTE_SECONDS = 60
MAX_SECONDS = 24 * 3600  # that `lately` can look back
_KEPT_SECONDS = MAX_SECONDS + 3600
# The upper ends of the buckets in which times are counted, in seconds; what takes longer is in one more.
BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0),
)
OTHER = "(other)"  # stands for what is not one of a closed list

RECEIVED = "received"
PROCESSING = "processing"
ARRIVAL_TO_DONE = "arrival_to_done"
_SUM = "us"  # in the place of a bucket: the microseconds of all of them together
_AT_ONCE = 60  # minutes that are added up in one step of the server, some two milliseconds long

# Adds to the totals (KEYS[1]) and to the minute (KEYS[2]). Whoever has added keeps the minute for ARGV[1] seconds.
_ADD = """
local function add(name, count)
  redis.call('HINCRBY', KEYS[1], name, count)
  redis.call('HINCRBY', KEYS[2], name, count)
end
"""

# KEYS: totals, minute, and a stream or none. ARGV: seconds, an entry of the stream, then fields and counts. Takes the
# entry off its stream, and counts nothing when it was off already: then all of this has been counted before.
_ENDED = (
    _ADD
    + """
if KEYS[3] and redis.call('XDEL', KEYS[3], ARGV[2]) == 0 then return 0 end
for i = 3, #ARGV, 2 do add(ARGV[i], ARGV[i + 1]) end
return redis.call('EXPIRE', KEYS[2], ARGV[1])
"""
)

# KEYS: totals, minute. ARGV: seconds, then queues, each with the ids of its documents in one string. Counts those that
# the ledger doesn't know to have come any further than the watch folder.
_RECEIVED = (
    ledger.LUA
    + _ADD
    + """
for i = 2, #ARGV, 2 do
  local names, ids = {}, ARGV[i + 1]
  for at = 1, #ids, 26 do names[#names + 1] = 'llm:d:' .. string.sub(ids, at, at + 25) end
  local fresh, known = #names, 0
  for first = 1, #names, 1000 do
    known = known + redis.call('EXISTS', unpack(names, first, math.min(first + 999, #names)))
  end
  if known > 0 then
    for _, name in ipairs(names) do
      local record = ledger.get(string.sub(name, 7))
      if record and record.s ~= 'received' then fresh = fresh - 1 end
    end
  end
  if fresh > 0 then add('received:' .. ARGV[i], fresh) end
end
return redis.call('EXPIRE', KEYS[2], ARGV[1])
"""
)

# KEYS: minutes. Their fields, each with its sum.
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


class Ends:
    """What came of documents that have ended, added up so that a group of them costs the server little."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, Status, str, int, int], int] = {}
        self._processing: dict[str, float] = {}
        self._arrival_to_done: dict[str, float] = {}

    def add(self, outcome: Outcome, status: Status, age: float) -> None:
        """A document that ended with `status`, `age` seconds after it came."""
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
        """What is to be added to the tallies."""
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


def ended(pipeline: Pipeline, now: float, ends: Ends, told: tuple[str, bytes] | None) -> None:
    """Count `ends` in the minute of epoch seconds `now` (queued on the pipeline).

    `told` is a stream and one of its entries, which the caller's transaction takes off it: where that has been done
    before, in a transaction whose answer was lost, nothing is counted again. Without one it may be. Whoever is killed
    between the commit of a group and this leaves it uncounted: nobody can tell it from late duplicates then.
    """
    fields = ends.fields()
    if not fields:
        return
    keys = [TOTALS, _minute(now), *([told[0]] if told else ())]
    arguments: list[Any] = [part for pair in fields.items() for part in pair]
    pipeline.eval(_ENDED, len(keys), *keys, _KEPT_SECONDS, told[1] if told else "", *arguments)


def received(pipeline: Pipeline, now: float, ids: Mapping[str, Sequence[str]]) -> None:
    """Count documents that are submitted, by queue (queued on the pipeline, in front of what tells the ledger of them).

    Those that are submitted again, since nobody would have brought them to an end, are not counted again.
    """
    arguments = [part for queue, members in ids.items() for part in (queue, "".join(members))]
    if arguments:
        pipeline.eval(_RECEIVED, 2, TOTALS, _minute(now), _KEPT_SECONDS, *arguments)


@dataclass
class Times:
    """Times as they were counted in the buckets of `BOUNDS`; `seconds` is their sum."""

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
        """In seconds, as if times lay evenly in their bucket; None where nothing was counted.

        Of what is above the highest bound only that is known: the bound is the answer.
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

    def joined(self, other: "Times") -> "Times":
        """Both together."""
        return Times([a + b for a, b in zip(self.buckets, other.buckets, strict=True)], self.seconds + other.seconds)


@dataclass
class Tally:
    """What was counted of a queue: documents by what they came to, the rejected by code, and their times."""

    received: int = 0
    done: int = 0
    cancelled: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    processing: Times = field(default_factory=Times)
    arrival_to_done: Times = field(default_factory=Times)

    @property
    def refused(self) -> int:
        """The rejected of all codes."""
        return sum(self.rejected.values())

    @property
    def finished(self) -> int:
        """All that the queue is through with."""
        return self.done + self.refused + self.cancelled

    @property
    def error_rate(self) -> float | None:
        """The share of the rejected in all that came to a result or to an error; None where nothing did."""
        ended = self.done + self.refused
        return self.refused / ended if ended else None

    def joined(self, other: "Tally") -> "Tally":
        """Both together."""
        codes = [*self.rejected, *(code for code in other.rejected if code not in self.rejected)]
        return Tally(
            received=self.received + other.received,
            done=self.done + other.done,
            cancelled=self.cancelled + other.cancelled,
            rejected={code: self.rejected.get(code, 0) + other.rejected.get(code, 0) for code in codes},
            processing=self.processing.joined(other.processing),
            arrival_to_done=self.arrival_to_done.joined(other.arrival_to_done),
        )


class Lately(NamedTuple):
    """What was counted by queue since epoch seconds `since`, `seconds` ago."""

    since: float
    seconds: float
    queues: dict[str, Tally]


def ask_totals(pipeline: Pipeline) -> None:
    """Ask for all that was counted (queued on the pipeline; `of` reads the answer)."""
    pipeline.hgetall(TOTALS)


def of(fields: Mapping[bytes, Any], levels: Sequence[str]) -> dict[str, Tally]:
    """What a hash of tallies says of each of `levels`; what it says of queues that are no more is under `OTHER`."""
    found = {level: Tally() for level in levels}
    for name, number in fields.items():
        kind, _, rest = name.decode("utf-8", "replace").partition(":")
        queue, _, detail = rest.partition(":")
        place = queue if queue in found else OTHER
        _note(found.setdefault(place, Tally()), kind, detail, int(number))
    return found


def lately(redis: Redis, levels: Sequence[str], now: float, seconds: float) -> Lately:
    """What was counted in the `seconds` before epoch seconds `now`, and in the rest of the minute they began in.

    Raises RedisError.
    """
    last = int(now // MINUTE_SECONDS)
    first = int((now - min(seconds, MAX_SECONDS)) // MINUTE_SECONDS)
    sums: dict[bytes, int] = {}
    # One after the other, and not in a pipeline: others get their turn in between.
    for start in range(first, last + 1, _AT_ONCE):
        keys = [f"llm:minute:{minute}" for minute in range(start, min(start + _AT_ONCE, last + 1))]
        flat: list[bytes] = redis.eval(_SUM_UP, len(keys), *keys)
        for name, number in zip(flat[::2], flat[1::2], strict=True):
            sums[name] = sums.get(name, 0) + int(number)
    since = float(first * MINUTE_SECONDS)
    return Lately(since, now - since, of(sums, levels))


def together(tallies: Iterable[Tally]) -> Tally:
    """The tallies of all queues as one."""
    made = Tally()
    for each in tallies:
        made = made.joined(each)
    return made


def _note(tally: Tally, kind: str, detail: str, number: int) -> None:
    """Put one field where it belongs. What is of no known kind is passed over: a newer version may have written it."""
    if kind in (RECEIVED, Status.DONE.value, Status.CANCELLED.value):
        setattr(tally, kind, getattr(tally, kind) + number)
    elif kind == Status.REJECTED.value:
        code = known_code(detail)
        tally.rejected[code] = tally.rejected.get(code, 0) + number
    elif kind in (PROCESSING, ARRIVAL_TO_DONE):
        times: Times = getattr(tally, kind)
        if detail == _SUM:
            times.seconds += number / 1e6
        elif detail.isdigit() and int(detail) < len(times.buckets):
            times.buckets[int(detail)] += number


def _minute(now: float) -> str:
    return f"llm:minute:{int(now // MINUTE_SECONDS)}"
