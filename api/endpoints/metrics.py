"""`GET /metrics`: the system for Prometheus, read from Redis at each scrape, so every API instance answers the same."""

from typing import NamedTuple

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.http.context import api_context
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.state.metric_families import local_families, redis_up, system_families
from llm_scheduler.jobs.process.connection import AWAY


class _Families(NamedTuple):
    """Finished metrics, in the form that prometheus_client encodes."""

    families: list[Metric]

    def collect(self) -> list[Metric]:
        return self.families


def get_metrics(request: Request) -> Response:
    """The system's metrics, in Prometheus' text format, or in OpenMetrics if the client accepts it.

    While Redis is unreachable, `scheduler_redis_up` is 0 and most of the others are missing.
    """
    context = api_context(request)
    local = local_families(context.monitor.file_counts())
    try:
        system = list(system_families(context.redis, context.levels, context.clock.now()))
        context.monitor.redis_answered()
    except AWAY:
        context.monitor.redis_failed()
        system = [redis_up(False)]
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(_Families([*local, *system])), media_type=media_type)


_ANSWERS = {200: Answer(None, "The metrics.", "text/plain; version=0.0.4")}
OPERATIONS = (Operation("GET", "/metrics", get_metrics, "condition", _ANSWERS),)
