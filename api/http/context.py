"""What every endpoint works with: the application's context, JSON answers, and the 503 for an unreachable Redis."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from redis import Redis
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.document_writer import DocumentWriter
from llm_scheduler.api.http.coalescing import SharedReads
from llm_scheduler.api.http.problems import redis_unavailable
from llm_scheduler.api.state.health import HealthMonitor
from llm_scheduler.ingest.spool import Folders
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import Ids
from llm_scheduler.jobs.process.connection import AWAY


class ApiContext:
    """What one application's endpoints share. `recheck` is that of `make_app`."""

    def __init__(self, config: Config, redis: Redis, clock: Clock, recheck: Callable[[], object]) -> None:
        self.config = config
        self.redis = redis
        self.clock = clock
        self.recheck = recheck
        self.levels = config.queue.priority_levels
        self.folders = Folders.of(config.directories)
        self.monitor = HealthMonitor(config, redis, clock)
        self.writer = DocumentWriter(config, redis, self.monitor)
        self.ids = Ids()
        self.pages: SharedReads[bytes] = SharedReads()


def api_context(request: Request) -> ApiContext:
    """The context of the application that serves `request`."""
    found = request.app.state.api_context
    assert isinstance(found, ApiContext)
    return found


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, "application/json")


@contextmanager
def redis_access(context: ApiContext) -> Iterator[None]:
    """For a block whose only OSErrors can come from Redis: one that can't be reached becomes a 503.

    This is no exception handler of the application, because `AWAY` includes every OSError, also those of the disk.
    """
    try:
        yield
    except AWAY as error:
        context.monitor.redis_failed()
        raise redis_unavailable(error) from None
    context.monitor.redis_answered()
