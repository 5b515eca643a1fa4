"""`GET /metrics`: the system for Prometheus, read from Redis at each scrape, so that every API instance says the same.

Nothing walks through the ledger: sizes are those of its sets, and what happened comes from the tallies. What becomes a
label is one of a closed list, or the first of many with `(other)` for the rest.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isinf
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from rq.worker import WorkerStatus
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.endpoints.fleet import HostShown, hosts
from llm_scheduler.api.http.context import Site, site
from llm_scheduler.api.http.operation import Answer, Nothing, Operation
from llm_scheduler.api.state import backlog
from llm_scheduler.api.state.backlog import Waiting
from llm_scheduler.api.state.rollcall import ROLES, WorkerSeen, words, workers
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.process.heartbeat import Said
from llm_scheduler.jobs.store import alerts, counters, producers, server_state
from llm_scheduler.jobs.store.counters import BOUNDS, OTHER, Tally, Times
from llm_scheduler.jobs.store.producers import Share
from llm_scheduler.jobs.store.server_state import Condition
from llm_scheduler.jobs.store.submission import SCHEDULE

MAX_PRODUCERS = 50
MAX_HOSTS = 100
MAX_KINDS = 50  # of alerts
_NAME_LENGTH = 100
_UNNAMED = "(unnamed)"
_CODES = [code.value for code in Code if code is not Code.CANCELLED]
_STATES = tuple(state.value for state in WorkerStatus)


class _Seen(NamedTuple):
    """What one look at Redis found; `due` and `scheduled` count entries of the schedule."""

    waiting: list[Waiting]
    totals: dict[str, Tally]
    due: int
    scheduled: int
    manned: list[WorkerSeen]
    said: dict[str, Said]
    alerts: list[str]
    shares: list[Share]
    server: Condition


class _Families(Collector):
    """Metrics that are known already, as prometheus_client wants them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def get_metrics(request: Request, query: Nothing) -> Response:
    """The system's metrics for Prometheus, in its text format, or in OpenMetrics for who asks for it.

    While Redis is away, `scheduler_redis_up` is 0 and most of the others are missing.
    """
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    registry = CollectorRegistry()
    registry.register(_Families(families(site(request))))
    return Response(encode(registry), media_type=media_type)


def families(here: Site) -> Iterator[Metric]:
    """Every metric. Never raises because of Redis being away."""
    yield InfoMetricFamily(
        "scheduler_build",
        "The version of this API, and of its Python.",
        {"version": __version__, "python": platform.python_version()},
    )
    yield _files(here)
    try:
        seen = _look(here)
    except AWAY:
        here.lookout.failed()
        yield GaugeMetricFamily("scheduler_redis_up", "Whether Redis answers.", 0)
        return
    here.lookout.answered()
    yield GaugeMetricFamily("scheduler_redis_up", "Whether Redis answers.", 1)
    yield from _server(seen.server)
    yield from _tasks(seen.totals)
    yield from _queues(seen.waiting)
    yield from _schedule(seen)
    yield _workers(seen.manned, here.levels)
    yield _processes(seen.said)
    yield _skew(seen)
    yield from _hosts(hosts(seen.manned, seen.said))
    yield _alerts(seen.alerts)
    yield from _producers(seen.shares)


def _look(here: Site) -> _Seen:
    """Raises RedisError."""
    redis, now = here.redis, here.clock.now()
    pipeline = redis.pipeline(transaction=False)
    counters.ask_totals(pipeline)
    pipeline.zcount(SCHEDULE, "-inf", now)
    pipeline.zcard(SCHEDULE)
    totals, due, scheduled = pipeline.execute()
    return _Seen(
        waiting=backlog.read(redis, here.levels, now),
        totals=counters.of(totals, here.levels),
        due=due,
        scheduled=scheduled,
        manned=workers(redis),
        said=words(redis),
        alerts=[event.kind for event in alerts.standing(redis).values()],
        shares=producers.shares(redis, now),
        server=server_state.look(redis),
    )


def _files(here: Site) -> Metric:
    waiting, claimed = here.lookout.files()
    family = GaugeMetricFamily(
        "scheduler_ingest_backlog_files",
        "Documents on disk that are not finished: waiting in the watch folders, or claimed. Counted up to a bound.",
        labels=["state"],
    )
    family.add_metric(["waiting"], waiting)
    family.add_metric(["claimed"], claimed)
    return family


def _server(found: Condition) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "scheduler_redis_memory_used_bytes", "Memory that Redis counts against its maxmemory.", found.used
    )
    yield GaugeMetricFamily(
        "scheduler_redis_memory_max_bytes", "The maxmemory of Redis; 0 where there is no limit.", found.most
    )


def _tasks(totals: Mapping[str, Tally]) -> Iterator[Metric]:
    tasks = CounterMetricFamily(
        "scheduler_tasks",
        "Documents that were received, and those that ended, by how they ended.",
        labels=["status", "queue"],
    )
    rejected = CounterMetricFamily(
        "scheduler_rejected_documents",
        "Documents that were rejected, by the code of their error.",
        labels=["code", "queue"],
    )
    processing = HistogramMetricFamily(
        "scheduler_task_duration_seconds",
        "How long the handlers took for documents that were done or rejected, the last attempt of each.",
        labels=["queue"],
    )
    arrival = HistogramMetricFamily(
        "scheduler_arrival_to_done_seconds",
        "How long it took from a document's arrival to its result in the output folder.",
        labels=["queue"],
    )
    for queue, tally in totals.items():
        for status, number in (
            ("received", tally.received),
            (Status.DONE.value, tally.done),
            (Status.REJECTED.value, tally.refused),
            (Status.CANCELLED.value, tally.cancelled),
        ):
            tasks.add_metric([status, queue], number)
        # From 0 on, or `rate` doesn't see the first of its kind.
        for code, number in (dict.fromkeys(_CODES, 0) | tally.rejected).items():
            rejected.add_metric([code, queue], number)
        processing.add_metric([queue], _buckets(tally.processing), tally.processing.seconds)
        arrival.add_metric([queue], _buckets(tally.arrival_to_done), tally.arrival_to_done.seconds)
    yield from (tasks, rejected, processing, arrival)


def _buckets(times: Times) -> list[tuple[str, float]]:
    made, sum_so_far = [], 0
    for bound, number in zip((*BOUNDS, float("inf")), times.buckets, strict=True):
        sum_so_far += number
        made.append(("+Inf" if isinf(bound) else str(bound), float(sum_so_far)))
    return made


def _queues(waiting: Sequence[Waiting]) -> Iterator[Metric]:
    size = GaugeMetricFamily(
        "scheduler_queue_size", "Documents that wait for a worker, queued or in a batch.", labels=["queue"]
    )
    oldest = GaugeMetricFamily(
        "scheduler_oldest_document_age_seconds",
        "For how long the longest-waiting of them has been queued or in a batch; 0 where none waits.",
        labels=["queue"],
    )
    batched = GaugeMetricFamily(
        "scheduler_batch_documents", "Documents that wait for the company of a batch.", labels=["queue"]
    )
    paused = GaugeMetricFamily("scheduler_queue_paused", "Whether the queue is paused.", labels=["queue"])
    documents = GaugeMetricFamily(
        "scheduler_documents", "Documents that are not finished, by where they are.", labels=["status", "queue"]
    )
    for each in waiting:
        size.add_metric([each.queue], each.depth)
        oldest.add_metric([each.queue], each.oldest or 0.0)
        batched.add_metric([each.queue], each.batched)
        paused.add_metric([each.queue], each.paused)
        for status, number in each.documents.items():
            documents.add_metric([status, each.queue], number)
    yield from (size, oldest, batched, paused, documents)


def _schedule(seen: _Seen) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "scheduler_schedules_due", "Retries and flushes whose time has come, and that still wait.", seen.due
    )
    yield GaugeMetricFamily("scheduler_schedules", "Retries and flushes that are scheduled.", seen.scheduled)


def _workers(manned: Sequence[WorkerSeen], levels: Sequence[str]) -> Metric:
    family = GaugeMetricFamily("scheduler_workers", "Workers that live.", labels=["queue", "state"])
    counts = Counter({(level, state): 0 for level in levels for state in _STATES})
    for worker in manned:
        state = worker.state if worker.state in _STATES else OTHER
        for queue in worker.queue.split(","):
            counts[queue if queue in levels else OTHER, state] += 1
    for (queue, state), number in counts.items():
        family.add_metric([queue, state], number)
    return family


def _processes(said: Mapping[str, Said]) -> Metric:
    family = GaugeMetricFamily(
        "scheduler_process_up", "Whether the daemon says that it runs and works.", labels=["process"]
    )
    for role in ROLES:
        family.add_metric([role], role in said and said[role].state == "working")
    return family


def _skew(seen: _Seen) -> Metric:
    versions = [*(worker.version for worker in seen.manned), *(word.version for word in seen.said.values())]
    return GaugeMetricFamily(
        "scheduler_version_skew",
        "Workers and daemons that run another version than this API.",
        sum(version != __version__ for version in versions),
    )


def _hosts(found: Sequence[HostShown]) -> Iterator[Metric]:
    figures: dict[str, tuple[str, Mapping[str, float | None]]] = {
        "scheduler_cpu_usage": ("Use of the host's processors in percent.", {host.name: host.cpu for host in found}),
        "scheduler_memory_usage": ("Use of the host's memory in percent.", {host.name: host.memory for host in found}),
        "scheduler_load": ("Load average of the last minute.", {host.name: host.load for host in found}),
        "scheduler_spool_free_bytes": (
            "What is free of the file system that holds the spool.",
            {host.name: host.disk.free_bytes for host in found if host.disk},
        ),
        "scheduler_spool_size_bytes": (
            "The size of the file system that holds the spool.",
            {host.name: host.disk.total_bytes for host in found if host.disk},
        ),
    }
    for name, (words_, by_host) in figures.items():
        family = GaugeMetricFamily(name, words_, labels=["host"])
        known = [(host[:_NAME_LENGTH], figure) for host, figure in by_host.items() if figure is not None]
        for host, figure in known[:MAX_HOSTS]:
            family.add_metric([host], figure)
        if rest := [figure for _, figure in known[MAX_HOSTS:]]:
            # The one that is nearest to its limit.
            family.add_metric([OTHER], min(rest) if name == "scheduler_spool_free_bytes" else max(rest))
        yield family


def _alerts(kinds: Sequence[str]) -> Metric:
    family = GaugeMetricFamily("scheduler_alerts", "Alerts that stand.", labels=["kind"])
    counts = Counter(kind[:_NAME_LENGTH] for kind in kinds)
    for kind, number in counts.most_common(MAX_KINDS):
        family.add_metric([kind], number)
    return family


def _producers(shares: Sequence[Share]) -> Iterator[Metric]:
    documents: Counter[str] = Counter()
    malformed: Counter[str] = Counter()
    for share in shares:
        name = (share.producer or _UNNAMED)[:_NAME_LENGTH]
        documents[name] += share.documents
        malformed[name] += round(share.malformed * share.documents)
    first = {name for name, _ in documents.most_common(MAX_PRODUCERS)}
    for counts in (documents, malformed):
        for name in [name for name in counts if name not in first and name != OTHER]:
            counts[OTHER] += counts.pop(name)
    number = GaugeMetricFamily(
        "scheduler_producer_documents", "Documents of the producer that ended today (UTC).", labels=["producer"]
    )
    ratio = GaugeMetricFamily(
        "scheduler_producer_malformed_ratio",
        "The share of them that were not simply valid JSON.",
        labels=["producer"],
    )
    for name, count in documents.items():
        number.add_metric([name], count)
        ratio.add_metric([name], malformed[name] / count)
    yield from (number, ratio)


OPERATIONS = (
    Operation(
        method="GET",
        path="/metrics",
        endpoint=get_metrics,
        tag="condition",
        answers={200: Answer(None, "The metrics.", "text/plain; version=0.0.4")},
    ),
)
