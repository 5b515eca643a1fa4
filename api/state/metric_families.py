"""Prometheus metrics of the system, read from Redis at one moment, in a few round trips.

Nothing walks through the ledger: sizes are those of its sets, and what happened comes from the counters. A label is one
of a closed list, or one of the first of many, with `(other)` for the rest: their number stays small, whatever arrives.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from redis import Redis
from rq.worker import WorkerStatus

from llm_scheduler.api.state.backlog import QueueBacklog, read_backlog
from llm_scheduler.api.state.host_view import HostView, hosts
from llm_scheduler.api.state.processes import ROLES, LiveWorker, read_processes
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.store import alerts, counters, producers, server_state
from llm_scheduler.jobs.store.counters import BOUNDS, OTHER, Durations, QueueCounters
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.producers import Share

MAX_PRODUCERS = 50
MAX_HOSTS = 100
MAX_KINDS = 50  # of alerts
_MAX_NAME = 100
_FREE = "spool_free_bytes"
_CODES = [code.value for code in Code if code is not Code.CANCELLED]
_STATES = tuple(state.value for state in WorkerStatus)


def local_families(files: tuple[int, int]) -> Iterator[Metric]:
    """The metrics that need no Redis. `files`: how many wait in the watch folders, and how many are claimed."""
    versions = {"version": __version__, "python": platform.python_version()}
    yield InfoMetricFamily("scheduler_build", "The version of this API, and of its Python.", versions)
    text = "Unfinished documents on disk: waiting in the watch folders, or claimed. Counted up to a bound."
    yield _gauge("ingest_backlog_files", text, zip(("waiting", "claimed"), files, strict=True), "state")


def redis_up(answers: bool) -> Metric:
    return GaugeMetricFamily("scheduler_redis_up", "Whether Redis answers.", answers)


def system_families(redis: Redis, levels: Sequence[str], now: float) -> Iterator[Metric]:
    """The metrics that are read from Redis, at epoch seconds `now`. Raises RedisError."""
    schedule = keys_of(redis).schedule
    pipeline = redis.pipeline(transaction=False)
    counters.ask_totals(pipeline)
    pipeline.zcount(schedule, "-inf", now)
    pipeline.zcard(schedule)
    totals, due, scheduled = pipeline.execute()
    backlog, processes, server = read_backlog(redis, levels, now), read_processes(redis), server_state.read_state(redis)
    skewed = sum(version != __version__ for version in processes.versions)
    yield redis_up(True)
    for name, text, figure in (
        ("redis_memory_used_bytes", "Memory that Redis counts against its maxmemory.", server.used),
        ("redis_memory_max_bytes", "The maxmemory of Redis; 0 where there is no limit.", server.limit),
        ("schedules_due", "Retries and flushes that are due and not done yet.", due),
        ("schedules", "Retries and flushes that are scheduled.", scheduled),
        ("version_skew", "Workers and daemons with another version than this API.", skewed),
    ):
        yield GaugeMetricFamily(f"scheduler_{name}", text, figure)
    yield from _documents(counters.parse(totals, levels))
    yield from _queues(backlog)
    yield _workers(processes.workers, levels)
    daemons = processes.daemons
    working = [(role, role in daemons and daemons[role].state == "working") for role in ROLES]
    yield _gauge("process_up", "Whether the daemon runs and works.", working, "process")
    yield from _hosts(hosts(processes))
    kinds = Counter(event.kind[:_MAX_NAME] for event in alerts.standing(redis).values()).most_common(MAX_KINDS)
    yield _gauge("alerts", "Active alerts.", kinds, "kind")
    yield from _producers(producers.shares(redis, now))


def _gauge(name: str, text: str, figures: Iterable[tuple[Any, ...]], *labels: str) -> Metric:
    """A gauge. Each of `figures` has the values of its labels, and then the figure."""
    family = GaugeMetricFamily(f"scheduler_{name}", text, labels=labels)
    for *values, figure in figures:
        family.add_metric(values, figure)
    return family


def _documents(totals: Mapping[str, QueueCounters]) -> Iterator[Metric]:
    tasks = CounterMetricFamily(
        "scheduler_tasks",
        "Documents that were received, and documents that ended, by how they ended.",
        labels=["status", "queue"],
    )
    rejected = CounterMetricFamily(
        "scheduler_rejected_documents", "Rejected documents, by error code.", labels=["code", "queue"]
    )
    processing = HistogramMetricFamily(
        "scheduler_task_duration_seconds",
        "Time in the handler for documents that were done or rejected, of the last attempt.",
        labels=["queue"],
    )
    arrival = HistogramMetricFamily(
        "scheduler_arrival_to_done_seconds",
        "Time from a document's arrival to its result in the output folder.",
        labels=["queue"],
    )
    for queue, counted in totals.items():
        for status, number in (
            ("received", counted.received),
            (Status.DONE.value, counted.done),
            (Status.REJECTED.value, counted.rejected_total),
            (Status.CANCELLED.value, counted.cancelled),
        ):
            tasks.add_metric([status, queue], number)
        # Every code starts at 0: `rate` doesn't see the first increase of a series that did not exist.
        for code, number in (dict.fromkeys(_CODES, 0) | counted.rejected).items():
            rejected.add_metric([code, queue], number)
        processing.add_metric([queue], _buckets(counted.processing), counted.processing.seconds)
        arrival.add_metric([queue], _buckets(counted.arrival_to_done), counted.arrival_to_done.seconds)
    yield from (tasks, rejected, processing, arrival)


def _buckets(times: Durations) -> list[tuple[str, float]]:
    return list(zip((*map(str, BOUNDS), "+Inf"), map(float, accumulate(times.buckets)), strict=True))


def _queues(backlog: Sequence[QueueBacklog]) -> Iterator[Metric]:
    for name, text, figures in (
        ("queue_size", "Documents that wait for a worker, queued or in a batch.", [each.depth for each in backlog]),
        (
            "oldest_document_age_seconds",
            "How long the oldest waiting document has been queued or in a batch; 0 if none waits.",
            [each.oldest or 0.0 for each in backlog],
        ),
        ("batch_documents", "Documents that wait in a batch.", [each.batched for each in backlog]),
        ("queue_paused", "Whether the queue is paused.", [each.paused for each in backlog]),
    ):
        queues = [each.queue for each in backlog]
        yield _gauge(name, text, zip(queues, figures, strict=True), "queue")
    documents = ((status, each.queue, number) for each in backlog for status, number in each.documents.items())
    yield _gauge("documents", "Unfinished documents, by status.", documents, "status", "queue")


def _workers(workers: Sequence[LiveWorker], levels: Sequence[str]) -> Metric:
    counts = Counter({(level, state): 0 for level in levels for state in _STATES})
    for worker in workers:
        state = worker.state if worker.state in _STATES else OTHER
        for queue in worker.queues:
            counts[queue if queue in levels else OTHER, state] += 1
    rows = ((queue, state, number) for (queue, state), number in counts.items())
    return _gauge("workers", "Live workers.", rows, "queue", "state")


def _hosts(views: Sequence[HostView]) -> Iterator[Metric]:
    disks = [(host.name, host.disk) for host in views if host.disk]
    figures: dict[tuple[str, str], list[tuple[str, float | None]]] = {
        ("cpu_usage", "Use of the host's processors in percent."): [(host.name, host.cpu) for host in views],
        ("memory_usage", "Use of the host's memory in percent."): [(host.name, host.memory) for host in views],
        ("load", "Load average of the last minute."): [(host.name, host.load) for host in views],
        (_FREE, "Free space on the file system of the spool."): [(host, disk.free_bytes) for host, disk in disks],
        ("spool_size_bytes", "Size of that file system."): [(host, disk.total_bytes) for host, disk in disks],
    }
    for (name, text), by_host in figures.items():
        known = [(host[:_MAX_NAME], figure) for host, figure in by_host if figure is not None]
        if rest := [figure for _, figure in known[MAX_HOSTS:]]:
            # The figure of the host that is nearest to its limit.
            known[MAX_HOSTS:] = [(OTHER, min(rest) if name == _FREE else max(rest))]
        yield _gauge(name, text, known, "host")


def _producers(shares: Sequence[Share]) -> Iterator[Metric]:
    documents: Counter[str] = Counter()
    malformed: Counter[str] = Counter()
    for share in shares:
        name = (share.producer or "(unnamed)")[:_MAX_NAME]
        documents[name] += share.documents
        malformed[name] += round(share.malformed * share.documents)
    first = {name for name, _ in documents.most_common(MAX_PRODUCERS)}
    for counts in (documents, malformed):
        for name in [name for name in counts if name not in first and name != OTHER]:
            counts[OTHER] += counts.pop(name)
    ratios = [(name, malformed[name] / count) for name, count in documents.items()]
    yield _gauge("producer_documents", "Today's ended documents of the producer (UTC).", documents.items(), "producer")
    yield _gauge("producer_malformed_ratio", "The share of them that were not valid JSON.", ratios, "producer")
