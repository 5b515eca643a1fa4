"""`GET /stats`: how many documents arrived and ended lately, and how long they took."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request

from llm_scheduler.api.http.context import api_context
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.state import Count
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.store import counters
from llm_scheduler.jobs.store.counters import Durations, QueueCounters

Window = Literal["1m", "5m", "15m", "1h", "6h", "24h"]
_SECONDS: dict[str, int] = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "6h": 6 * 3600, "24h": 24 * 3600}

Ratio = Annotated[float, Meta(ge=0, le=1)]


class StatsQuery(msgspec.Struct, frozen=True):
    window: Annotated[
        Window, Meta(description="How far to look back, extended to the beginning of the first minute.")
    ] = "5m"


class DurationSummary(msgspec.Struct, frozen=True):
    """How long `count` documents took, in seconds; null if there were none.

    Percentiles are estimated from counts in buckets: they lie in the right bucket, and are at most an hour.
    """

    count: Count
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class StatsFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of documents. `by_code` splits the rejected by error code.

    `error_rate` is rejected / (done + rejected); null if both are 0. `documents_per_second` is the rate of all
    finished documents. `processing_seconds` is the time in the handler, `arrival_to_done_seconds` the time from a
    document's arrival to its result in the output folder.
    """

    received: Count
    done: Count
    rejected: Count
    cancelled: Count
    by_code: dict[str, Count]
    error_rate: Ratio | None
    documents_per_second: float
    processing_seconds: DurationSummary
    arrival_to_done_seconds: DurationSummary


class QueueStats(StatsFigures, frozen=True, kw_only=True):
    """The figures of one queue; `(other)` stands for queues that are no longer in the configuration."""

    queue: str


class Stats(StatsFigures, frozen=True, kw_only=True):
    """The figures from `since` to `until`, `seconds` apart: of all queues, and of each."""

    window: Window
    since: str
    until: str
    seconds: float
    queues: list[QueueStats]


def get_stats(request: Request, query: StatsQuery) -> Stats:
    """How many documents arrived and ended lately, and how long they took."""
    context = api_context(request)
    now = context.clock.now()
    recent = counters.recent(context.redis, context.levels, now, _SECONDS[query.window])
    total = _figures(counters.total(recent.queues.values()), recent.seconds)
    return Stats(
        **msgspec.structs.asdict(total),
        window=query.window,
        since=rfc3339(recent.since),
        until=rfc3339(now),
        seconds=round(recent.seconds, 3),
        queues=[
            QueueStats(**msgspec.structs.asdict(_figures(counted, recent.seconds)), queue=queue)
            for queue, counted in recent.queues.items()
        ],
    )


def _figures(counted: QueueCounters, seconds: float) -> StatsFigures:
    return StatsFigures(
        received=counted.received,
        done=counted.done,
        rejected=counted.rejected_total,
        cancelled=counted.cancelled,
        by_code=dict(sorted(counted.rejected.items(), key=lambda pair: (-pair[1], pair[0]))),
        error_rate=None if counted.error_rate is None else round(counted.error_rate, 4),
        documents_per_second=round(counted.finished / seconds, 3),
        processing_seconds=_durations(counted.processing),
        arrival_to_done_seconds=_durations(counted.arrival_to_done),
    )


def _durations(durations: Durations) -> DurationSummary:
    figures = (durations.mean, *(durations.percentile(percent) for percent in (50, 95, 99)))
    return DurationSummary(durations.count, *(None if each is None else round(each, 6) for each in figures))


_ANSWERS = {200: Answer(Stats, "The figures.")}
OPERATIONS = (Operation("GET", "/stats", get_stats, "fleet", _ANSWERS, query=StatsQuery, needs_redis=True),)
