"""Everything about the system that is in Redis, at one moment, in a few round trips.

Nothing walks through the ledger: sizes are those of its sets, and what happened comes from the counters.
"""

from collections.abc import Sequence
from typing import NamedTuple

from redis import Redis

from llm_scheduler.api.state.backlog import QueueBacklog, read_backlog
from llm_scheduler.api.state.processes import Processes, read_processes
from llm_scheduler.jobs.store import alerts, counters, producers, server_state
from llm_scheduler.jobs.store.counters import QueueCounters
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.producers import Share
from llm_scheduler.jobs.store.server_state import ServerState


class SystemSnapshot(NamedTuple):
    """`due` and `scheduled` count entries of rq-scheduler's schedule; `alerts` are the kinds of the active ones."""

    backlog: list[QueueBacklog]
    totals: dict[str, QueueCounters]
    due: int
    scheduled: int
    processes: Processes
    alerts: list[str]
    shares: list[Share]
    server: ServerState


def read_snapshot(redis: Redis, levels: Sequence[str], now: float) -> SystemSnapshot:
    """The system at epoch seconds `now`. Raises RedisError."""
    schedule = keys_of(redis).schedule
    pipeline = redis.pipeline(transaction=False)
    counters.ask_totals(pipeline)
    pipeline.zcount(schedule, "-inf", now)
    pipeline.zcard(schedule)
    totals, due, scheduled = pipeline.execute()
    return SystemSnapshot(
        backlog=read_backlog(redis, levels, now),
        totals=counters.parse(totals, levels),
        due=due,
        scheduled=scheduled,
        processes=read_processes(redis),
        alerts=[event.kind for event in alerts.standing(redis).values()],
        shares=producers.shares(redis, now),
        server=server_state.read_state(redis),
    )
