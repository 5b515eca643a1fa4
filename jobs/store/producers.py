"""How well producers write: the outcomes of their documents, counted by day, for the API and the metrics.

A document's producer is its `metadata.source`, else the folder it was dropped in. Its model is `metadata.model`, or the
model that a provider batch names. A day is one hash of counts by producer, model and cause.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from redis import Redis
from redis.client import Pipeline

from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.outcomes import Outcome

_SEPARATOR = "\x1f"  # removed from names
_MAX_FIELDS = 2000  # fields of a day; beyond it, documents count under the producer `(other)`

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


class ProducerCount(NamedTuple):
    """Who wrote a document, and how it ended: `valid`, `repaired:<code>`, `truncated`, or the code of its rejection."""

    producer: str
    model: str
    cause: str


class Share(NamedTuple):
    """How a producer's documents ended. `malformed`: the share of those that were not simply valid JSON."""

    producer: str
    model: str
    documents: int
    malformed: float
    causes: dict[str, int]


# Causes that do not concern the text: it was valid, and its handler or its worker failed.
_VALID_TEXT = ("handler_", "timeout", "worker_lost", "schema")


def classify(outcome: Outcome, source: str) -> ProducerCount:
    """What to count for an outcome. The first folder of the document's `source` stands for an unnamed producer."""
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
    return ProducerCount(_clean(producer), _clean(read.model if read else ""), cause)


def count(pipeline: Pipeline, now: float, counts: Mapping[ProducerCount, int], keep_days: int) -> None:
    """Add `counts` to the day of epoch seconds `now` (queued on the pipeline)."""
    arguments = [part for each, number in counts.items() for part in (_SEPARATOR.join(each), number)]
    if arguments:
        pipeline.eval(_COUNT, 1, _key(pipeline, _day(now)), (keep_days + 1) * 86400, _MAX_FIELDS, *arguments)


def shares(redis: Redis, now: float, days: int = 1) -> list[Share]:
    """How each producer's documents ended today and in the `days` - 1 days (UTC) before; most documents first."""
    today = _day(now)
    pipeline = redis.pipeline(transaction=False)
    for back in range(days):
        pipeline.hgetall(_key(pipeline, today - timedelta(days=back)))
    causes: dict[tuple[str, str], dict[str, int]] = {}
    for found, number in _all(pipeline.execute()):
        own = causes.setdefault((found.producer, found.model), {})
        own[found.cause] = own.get(found.cause, 0) + number
    made = [_share(producer, model, own) for (producer, model), own in causes.items()]
    return sorted(made, key=lambda share: (-share.documents, share.producer, share.model))


def _share(producer: str, model: str, causes: dict[str, int]) -> Share:
    documents = sum(causes.values())
    sound = sum(number for cause, number in causes.items() if cause == "valid" or cause.startswith(_VALID_TEXT))
    ordered = dict(sorted(causes.items(), key=lambda pair: (-pair[1], pair[0])))
    return Share(producer, model, documents, round(1 - sound / documents, 4), ordered)


def _all(answers: Iterable[Mapping[bytes, bytes]]) -> Iterator[tuple[ProducerCount, int]]:
    for answer in answers:
        for field, number in answer.items():
            parts = field.decode("utf-8", "replace").split(_SEPARATOR)
            if len(parts) == len(ProducerCount._fields):
                yield ProducerCount(*parts), int(number)


def _clean(name: str) -> str:
    return name.replace(_SEPARATOR, " ").strip()


def _day(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)


def _key(client: Redis, day: datetime) -> str:
    return keys_of(client).producers(f"{day:%Y%m%d}")
