"""`GET /stats`: what came in lately, what came of it, and how long it took."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.http.context import answer, asks_redis, site
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.store import counters
from llm_scheduler.jobs.store.counters import Tally, Times

Window = Literal["1m", "5m", "15m", "1h", "6h", "24h"]
_SECONDS: dict[str, int] = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "6h": 6 * 3600, "24h": 24 * 3600}

Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class StatsAsked(msgspec.Struct, frozen=True):
    window: Annotated[
        Window, Meta(description="How far to look back: as long as this, and on to the full minute before.")
    ] = "5m"


class TimesShown(msgspec.Struct, frozen=True):
    """How long `count` documents took, in seconds; null where there were none.

    The percentiles are reckoned from counts in buckets: they lie in the right one of them, and are at most the highest
    bound, an hour.
    """

    count: Count
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted. `by_code` tells the rejected apart.

    `error_rate` is the share of the rejected among the done and the rejected; null where there were none.
    `documents_per_second` is the rate of all that was finished. `processing_seconds` is the time in the handler,
    `arrival_to_done_seconds` that from a document's arrival to its result in the output folder.
    """

    received: Count
    done: Count
    rejected: Count
    cancelled: Count
    by_code: dict[str, Count]
    error_rate: Share | None
    documents_per_second: float
    processing_seconds: TimesShown
    arrival_to_done_seconds: TimesShown


class QueueCounted(Counted, frozen=True, kw_only=True):
    """The same of one queue; `(other)` stands for those that are no longer in the configuration."""

    queue: str


class Stats(Counted, frozen=True, kw_only=True):
    """What was counted from `since` to `until`, which are `seconds` apart, of all queues and of each."""

    window: Window
    since: str
    until: str
    seconds: float
    queues: list[QueueCounted]


@asks_redis
def get_stats(request: Request, query: StatsAsked) -> Response:
    """What came in lately, what came of it, and how long it took."""
    here = site(request)
    now = here.clock.now()
    lately = counters.lately(here.redis, here.levels, now, _SECONDS[query.window])
    every = _counted(counters.together(lately.queues.values()), lately.seconds)
    shown = Stats(
        **msgspec.structs.asdict(every),
        window=query.window,
        since=rfc3339(lately.since),
        until=rfc3339(now),
        seconds=round(lately.seconds, 3),
        queues=[
            QueueCounted(**msgspec.structs.asdict(_counted(tally, lately.seconds)), queue=queue)
            for queue, tally in lately.queues.items()
        ],
    )
    return answer(shown)


def _counted(tally: Tally, seconds: float) -> Counted:
    return Counted(
        received=tally.received,
        done=tally.done,
        rejected=tally.refused,
        cancelled=tally.cancelled,
        by_code=dict(sorted(tally.rejected.items(), key=lambda pair: (-pair[1], pair[0]))),
        error_rate=None if tally.error_rate is None else round(tally.error_rate, 4),
        documents_per_second=round(tally.finished / seconds, 3),
        processing_seconds=_times(tally.processing),
        arrival_to_done_seconds=_times(tally.arrival_to_done),
    )


def _times(times: Times) -> TimesShown:
    figures = (times.mean, *(times.percentile(percent) for percent in (50, 95, 99)))
    return TimesShown(times.count, *(None if each is None else round(each, 6) for each in figures))


OPERATIONS = (
    Operation(
        method="GET",
        path="/stats",
        endpoint=get_stats,
        tag="fleet",
        query=StatsAsked,
        answers={200: Answer(Stats, "What was counted.")},
        problems=(503,),
    ),
)
