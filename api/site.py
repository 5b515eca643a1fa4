"""What the endpoints work with, and the two ways in which they answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from redis import Redis
from starlette.requests import Request
from starlette.responses import Response

from api.health import Lookout
from api.problems import redis_away
from jobs.clock import Clock
from jobs.config import Config
from jobs.connection import AWAY

Endpoint = Callable[[Request], Response]


@dataclass(frozen=True)
class Site:
    """One application's configuration, its way to Redis and what it remembers of it."""

    config: Config
    redis: Redis
    clock: Clock
    lookout: Lookout

    @property
    def levels(self) -> list[str]:
        return self.config.queue.priority_levels


def site(request: Request) -> Site:
    """The site of the application that serves `request`."""
    found = request.app.state.site
    assert isinstance(found, Site)
    return found


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def asks_redis(endpoint: Endpoint) -> Endpoint:
    """An endpoint that asks nothing but Redis: when that is away it answers 503, in words.

    Not an exception handler of the application, since `AWAY` includes every OSError, the disk's too.
    """

    def guarded(request: Request) -> Response:
        lookout = site(request).lookout
        try:
            response = endpoint(request)
        except AWAY as error:
            lookout.failed()
            raise redis_away(error) from None
        lookout.answered()
        return response

    return guarded
