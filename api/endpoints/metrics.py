"""`GET /metrics`: the system for Prometheus, read from Redis at each scrape, so every API instance answers the same."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.http.context import api_context
from llm_scheduler.api.http.operation import Answer, EmptyQuery, Operation
from llm_scheduler.api.state.metric_families import local_families, system_families
from llm_scheduler.api.state.snapshot import SystemSnapshot, read_snapshot
from llm_scheduler.jobs.process.connection import AWAY


class _MetricCollector(Collector):
    """Finished metrics, in the form that prometheus_client needs."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def get_metrics(request: Request, query: EmptyQuery) -> Response:
    """The system's metrics, in Prometheus' text format, or in OpenMetrics if the client accepts it.

    While Redis is unreachable, `scheduler_redis_up` is 0 and most of the others are missing.
    """
    context = api_context(request)
    local = local_families(context.monitor.file_counts())
    snapshot: SystemSnapshot | None = None
    try:
        snapshot = read_snapshot(context.redis, context.levels, context.clock.now())
    except AWAY:
        context.monitor.redis_failed()
    else:
        context.monitor.redis_answered()
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    registry = CollectorRegistry()
    registry.register(_MetricCollector([*local, *system_families(snapshot, context.levels)]))
    return Response(encode(registry), media_type=media_type)


_ANSWERS = {200: Answer(None, "The metrics.", "text/plain; version=0.0.4")}
OPERATIONS = (Operation("GET", "/metrics", get_metrics, "condition", _ANSWERS),)
