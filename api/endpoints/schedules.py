"""`GET /schedules`: what rq-scheduler will do, and when."""

import msgspec
from starlette.requests import Request

from llm_scheduler.api.http.context import api_context
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.state import Count
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.store import batches
from llm_scheduler.jobs.store.keys import keys_of


class FlushSchedule(msgspec.Struct, frozen=True):
    """The flush of a queue's batch; `next_at` is null while the batch is empty."""

    queue: str
    batched: Count
    next_at: str | None


class RetrySchedule(msgspec.Struct, frozen=True):
    """How many documents wait for their next attempt, and when the first is due."""

    count: Count
    next_at: str | None


class Schedules(msgspec.Struct, frozen=True):
    """The scheduled work of llm-scheduler. `holder` is the scheduler that does it (`host-pid-…`); null: none runs, and
    due work waits."""

    flushes: list[FlushSchedule]
    retries: RetrySchedule
    holder: str | None


def list_schedules(request: Request) -> Schedules:
    """The scheduled flushes of batches and retries, and the scheduler that does them."""
    context = api_context(request)
    keys = keys_of(context.redis)
    flushes = [batches.flush_id(level) for level in context.levels]
    pipeline = context.redis.pipeline(transaction=False)
    pipeline.get(keys.scheduler_lock)
    pipeline.zcard(keys.schedule)
    pipeline.zmscore(keys.schedule, flushes)
    pipeline.zrange(keys.schedule, 0, len(flushes), withscores=True)
    for level in context.levels:
        pipeline.llen(keys.batch(level))
    lock, count, times, first, *sizes = pipeline.execute()
    retries = [at for member, at in first if member.decode(errors="replace") not in flushes]
    return Schedules(
        flushes=[
            FlushSchedule(level, size, None if at is None else rfc3339(at))
            for level, at, size in zip(context.levels, times, sizes, strict=True)
        ],
        retries=RetrySchedule(
            count=max(0, count - sum(at is not None for at in times)),
            next_at=rfc3339(retries[0]) if retries else None,
        ),
        holder=lock.decode(errors="replace").partition(" ")[0] if lock else None,
    )


_ANSWERS = {200: Answer(Schedules, "What is scheduled.")}
OPERATIONS = (Operation("GET", "/schedules", list_schedules, "fleet", _ANSWERS, needs_redis=True),)
