"""The HTTP API as an ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis import Redis
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from api import dashboard
from api.accepting import accept
from api.fleet import list_producers, list_queues, list_workers
from api.health import Lookout, made_impatient
from api.listing import get_job, list_jobs
from api.problems import ProblemError, on_disconnect, on_http_exception, on_problem, on_unforeseen
from api.query import parameters
from api.security import Guard
from api.site import Site, answer, site
from jobs.clock import Clock
from jobs.config import Config


async def jobs(request: Request) -> Response:
    """One route for both, so that a refusal of any other method names both."""
    if request.method == "POST":
        return await accept(request)
    return await run_in_threadpool(list_jobs, request)


def health(request: Request) -> Response:
    """200 for as long as the process lives: `status` and `message` say how the rest is."""
    parameters(request)
    return answer(site(request).lookout.look())


ROUTES = (
    Route("/health", health),
    Route("/jobs", jobs, methods=["GET", "POST"]),
    Route("/jobs/{id}", get_job),
    Route("/queues", list_queues),
    Route("/workers", list_workers),
    Route("/producers", list_producers),
    *dashboard.ROUTES,
)


def make_app(config: Config, redis: Redis, clock: Clock) -> Starlette:
    """The application. It asks nothing of Redis before it is asked itself, and never waits for it longer than 2 s.

    `redis` stays the caller's: the application has a client of its own to the same place, closed with its lifespan.
    """
    own = made_impatient(redis)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        own.close()

    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(Guard, config=config)],
        exception_handlers={
            ProblemError: on_problem,
            HTTPException: on_http_exception,
            ClientDisconnect: on_disconnect,
            Exception: on_unforeseen,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.site = Site(config, own, clock, Lookout(config, own, clock))
    return app
