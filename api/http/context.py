"""What the endpoints work with, and the two ways in which they answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import msgspec
from redis import Redis
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.http.coalescing import Shared
from llm_scheduler.api.http.dropper import Dropper
from llm_scheduler.api.http.problems import redis_away
from llm_scheduler.api.state.health import Lookout
from llm_scheduler.ingest.spool import Folders
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import Ids
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.store import ledger

Q = TypeVar("Q")


@dataclass(frozen=True)
class Site:
    """One application's configuration, its way to Redis and what it remembers of it."""

    config: Config
    redis: Redis
    clock: Clock
    lookout: Lookout
    folders: Folders
    load: "KnownLoad"
    dropper: Dropper
    ids: Ids
    recheck: Callable[[], object]
    pages: Shared[bytes]

    @property
    def levels(self) -> list[str]:
        return self.config.queue.priority_levels


class KnownLoad:
    """How many documents are in flight, asked for at most twice a second."""

    KEPT_SECONDS = 0.5

    def __init__(self, redis: Redis, levels: Sequence[str], clock: Clock) -> None:
        self._redis = redis
        self._levels = levels
        self._clock = clock
        self._known = 0
        self._asked_at = float("-inf")

    def documents(self) -> int:
        """Raises RedisError."""
        now = self._clock.monotonic()
        if now - self._asked_at >= self.KEPT_SECONDS:
            self._known = ledger.load(self._redis, self._levels).documents
            self._asked_at = now
        return self._known


def site(request: Request) -> Site:
    """The site of the application that serves `request`."""
    found = request.app.state.site
    assert isinstance(found, Site)
    return found


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(content), status, headers, "application/json")


@contextmanager
def asking(here: Site) -> Iterator[None]:
    """What is done here asks nothing but Redis: when that is away, the answer is a 503, in words.

    Not an exception handler of the application, since `AWAY` includes every OSError, the disk's too.
    """
    try:
        yield
    except AWAY as error:
        here.lookout.failed()
        raise redis_away(error) from None
    here.lookout.answered()


def asks_redis(endpoint: Callable[[Request, Q], Response]) -> Callable[[Request, Q], Response]:
    """An endpoint that asks nothing but Redis."""

    @wraps(endpoint)
    def guarded(request: Request, query: Q) -> Response:
        with asking(site(request)):
            return endpoint(request, query)

    return guarded
