"""How well producers write: what came of each one's documents, counted by day, for the API and the metrics.

A producer is what a document says in `metadata.source`, else the folder it was dropped in; its model, `metadata.model`
or the one that a batch names. A day is a hash `llm:producers:<date>` of counts by producer, model and cause.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from redis import Redis
from redis.client import Pipeline

from llm_scheduler.jobs.store.outcomes import Outcome

_BETWEEN = "\x1f"  # stands in no name: it is taken out
_MOST = 2000  # fields of a day; what is beyond is counted under the producer `(other)`

# KEYS: the day. ARGV: seconds to keep it, most fields, then fields and counts; a field's cause follows its last \x1f.
_COUNT = """
local most = tonumber(ARGV[2])
for i = 3, #ARGV, 2 do
  local field = ARGV[i]
  if redis.call('HEXISTS', KEYS[1], field) == 0 and redis.call('HLEN', KEYS[1]) >= most then
    field = '(other)\\31\\31' .. string.match(field, '[^\\31]*$')
  end
  redis.call('HINCRBY', KEYS[1], field, ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""


class Came(NamedTuple):
    """Who wrote a document, and what became of it: `valid`, `repaired:<code>`, `truncated`, or its refusal's code."""

    producer: str
    model: str
    cause: str


class Share(NamedTuple):
    """What came of a producer's documents. `malformed`: the share of those that were not simply valid JSON."""

    producer: str
    model: str
    documents: int
    malformed: float
    causes: dict[str, int]


# Causes that say nothing of the text: it was read, and its handler or its worker failed.
_READ = ("handler_", "timeout", "worker_lost", "schema")


def came(outcome: Outcome, source: str) -> Came:
    """What to count of an outcome. `source` is the document's, whose first folder stands for an unnamed producer."""
    read = outcome.read
    producer = read.producer if read else ""
    if not producer:
        folder, slash, _ = source.partition("/")
        producer = folder if slash else ""
    cause = outcome.code
    if outcome.kind == "done":
        cause = read.quality if read else "valid"
        if read and cause == "repaired":
            codes = [repair.code for repair in read.repairs]
            cause = f"repaired:{codes[-1] if codes else ''}"
    return Came(_clean(producer), _clean(read.model if read else ""), cause)


def count(pipeline: Pipeline, now: float, counts: Mapping[Came, int], keep_days: int) -> None:
    """Add `counts` to the day of epoch seconds `now` (queued on the pipeline)."""
    arguments = [part for each, number in counts.items() for part in (_BETWEEN.join(each), number)]
    if arguments:
        pipeline.eval(_COUNT, 1, _key(_day(now)), (keep_days + 1) * 86400, _MOST, *arguments)


def shares(redis: Redis, now: float, days: int = 1) -> list[Share]:
    """What came of each producer's documents today and in the `days` - 1 days (UTC) before, the most first."""
    today = _day(now)
    pipeline = redis.pipeline(transaction=False)
    for back in range(days):
        pipeline.hgetall(_key(today - timedelta(days=back)))
    causes: dict[tuple[str, str], dict[str, int]] = {}
    for found, number in _all(pipeline.execute()):
        own = causes.setdefault((found.producer, found.model), {})
        own[found.cause] = own.get(found.cause, 0) + number
    made = [_share(producer, model, own) for (producer, model), own in causes.items()]
    return sorted(made, key=lambda share: (-share.documents, share.producer, share.model))


def _share(producer: str, model: str, causes: dict[str, int]) -> Share:
    documents = sum(causes.values())
    sound = sum(number for cause, number in causes.items() if cause == "valid" or cause.startswith(_READ))
    ordered = dict(sorted(causes.items(), key=lambda pair: (-pair[1], pair[0])))
    return Share(producer, model, documents, round(1 - sound / documents, 4), ordered)


def _all(answers: Iterable[Mapping[bytes, bytes]]) -> Iterator[tuple[Came, int]]:
    for answer in answers:
        for field, number in answer.items():
            parts = field.decode("utf-8", "replace").split(_BETWEEN)
            if len(parts) == len(Came._fields):
                yield Came(*parts), int(number)


def _clean(name: str) -> str:
    return name.replace(_BETWEEN, " ").strip()


def _day(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)


def _key(day: datetime) -> str:
    return f"llm:producers:{day:%Y%m%d}"
