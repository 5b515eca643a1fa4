"""`GET /queues`, and pausing and resuming one."""

import msgspec
from starlette.requests import Request

from llm_scheduler.api.access.roles import Role
from llm_scheduler.api.http.context import api_context
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.api.state import Count
from llm_scheduler.api.state.backlog import QueueBacklog, read_backlog
from llm_scheduler.api.state.processes import read_workers, workers_by_queue
from llm_scheduler.jobs.store import commands, counters
from llm_scheduler.jobs.store.counters import QueueCounters
from llm_scheduler.jobs.store.keys import keys_of

RATE_SECONDS = 60.0  # over which the rates are taken


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """A priority level and its queue.

    `depth` counts the documents that wait for a worker, in RQ jobs (`jobs_waiting`) or in a batch (`batched`). The
    oldest of them has waited `oldest_seconds`; null if none waits. Rates are documents a second over the last one to
    two minutes. `drain_seconds` is the time to empty the queue at that rate, or at the usual pace of its workers if
    nothing was finished lately; null if neither is known, and while the queue is paused.
    """

    name: str
    depth: Count
    oldest_seconds: float | None
    received_per_second: float
    finished_per_second: float
    drain_seconds: float | None
    paused: bool
    jobs_waiting: Count
    batched: Count
    documents: dict[str, Count]
    workers: Count


class Queues(msgspec.Struct, frozen=True):
    queues: list[QueueView]


class QueueState(msgspec.Struct, frozen=True):
    """Whether the workers of a queue take jobs. They finish the jobs that they have already taken."""

    name: str
    paused: bool
    message: str


def list_queues(request: Request) -> Queues:
    """Every priority level: how much waits and since when, its rates and its workers."""
    context = api_context(request)
    now = context.clock.now()
    backlog = read_backlog(context.redis, context.levels, now)
    recent = counters.recent(context.redis, context.levels, now, RATE_SECONDS)
    paces = context.redis.hmget(keys_of(context.redis).pace, list(context.levels))
    served = workers_by_queue(read_workers(context.redis))
    return Queues(
        [
            _view(each, recent.queues[each.queue], recent.seconds, served[each.queue], float(pace or 0))
            for each, pace in zip(backlog, paces, strict=True)
        ]
    )


def _view(backlog: QueueBacklog, counted: QueueCounters, seconds: float, workers: int, pace: float) -> QueueView:
    """`counted` are the counters of the last `seconds`; `pace`: seconds that a worker takes for a document."""
    finished = counted.finished / seconds
    rate = 0.0 if backlog.paused else finished or (workers / pace if pace > 0 else 0.0)
    return QueueView(
        name=backlog.queue,
        depth=backlog.depth,
        oldest_seconds=None if backlog.oldest is None else round(backlog.oldest, 3),
        received_per_second=round(counted.received / seconds, 3),
        finished_per_second=round(finished, 3),
        drain_seconds=0.0 if not backlog.depth else round(backlog.depth / rate, 1) if rate else None,
        paused=backlog.paused,
        jobs_waiting=backlog.jobs,
        batched=backlog.batched,
        documents=backlog.documents,
        workers=workers,
    )


def pause_queue(request: Request) -> QueueState:
    """Pause a queue: its workers take no more jobs. Documents that arrive meanwhile wait."""
    return _set_paused(request, paused=True)


def resume_queue(request: Request) -> QueueState:
    """Resume a paused queue."""
    return _set_paused(request, paused=False)


def _set_paused(request: Request, *, paused: bool) -> QueueState:
    context = api_context(request)
    name = request.path_params["name"]
    if name not in context.levels:
        raise ProblemError(404, f"There is no queue {name[:50]!r}. Queues: {', '.join(context.levels)}.")
    changed = commands.pause(context.redis, name) if paused else commands.resume(context.redis, name)
    if not changed:
        message = f"{name} was already paused." if paused else f"{name} was not paused."
    elif paused:
        message = f"{name} is paused: its workers finish what they have in hand."
    else:
        message = f"{name} is resumed: its workers take jobs again."
    request.scope["llm.audit"] = {"queue": name, "changed": changed}
    return QueueState(name, paused, message)


_LIST = {200: Answer(Queues, "Every queue.")}
_STATE = {200: Answer(QueueState, "The new state of the queue.")}
OPERATIONS = (
    Operation("GET", "/queues", list_queues, "fleet", _LIST, needs_redis=True),
    Operation("POST", "/queues/{name}/pause", pause_queue, "fleet", _STATE, role=Role.OPERATOR, needs_redis=True),
    Operation("POST", "/queues/{name}/resume", resume_queue, "fleet", _STATE, role=Role.OPERATOR, needs_redis=True),
)
