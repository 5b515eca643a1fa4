"""What every endpoint works with: the application's context, JSON answers, and the 503 for an unreachable Redis."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ApiContext:
    """What one application's endpoints share."""

    config: Config
    redis: Redis
    clock: Clock
    monitor: HealthMonitor
    folders: Folders
    writer: DocumentWriter
    ids: Ids
    recheck: Callable[[], object]
    pages: SharedReads[bytes]

    @property
    def levels(self) -> list[str]:
        return self.config.queue.priority_levels


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
