"""The HTTP API as an ASGI application."""

import asyncio
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from redis import Redis
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from api import (
    accepting,
    acting,
    controls,
    dashboard,
    documentation,
    files,
    fleet,
    following,
    listing,
    metrics,
    readiness,
    stats,
    waiting,
)
from api.access import operations as access
from api.access.gatehouse import make_gatehouse
from api.access.guard import Guard
from api.dropping import Dropper
from api.health import Lookout, made_impatient
from api.operation import Operation, routes
from api.problems import ProblemError, on_disconnect, on_http_exception, on_problem, on_unforeseen
from api.sharing import Shared
from api.site import KnownLoad, Site
from ingest.spool import Folders
from jobs.clock import Clock
from jobs.config import Config
from jobs.connection import AWAY
from jobs.document import Ids
from jobs.orders import RestartWatch

LOOK_FOR_RESTART_EVERY = 2.0

OPERATIONS: tuple[Operation, ...] = (
    *listing.OPERATIONS,
    *waiting.OPERATIONS,
    *following.OPERATIONS,
    *accepting.OPERATIONS,
    *acting.OPERATIONS,
    *files.OPERATIONS,
    *fleet.OPERATIONS,
    *controls.OPERATIONS,
    *access.OPERATIONS,
    *stats.OPERATIONS,
    *readiness.OPERATIONS,
    *metrics.OPERATIONS,
)


def make_app(
    config: Config,
    redis: Redis,
    clock: Clock,
    *,
    recheck: Callable[[], object] = lambda: None,
    on_restart: Callable[[], None] | None = None,
) -> Starlette:
    """The application. It never waits longer than 2 s for Redis.

    `redis` stays the caller's: the application has a client of its own to the same place, closed with its lifespan.
    `recheck` raises `ConfigError` when a process that is started now could not use its configuration. `on_restart` is
    called when a restart of the fleet was asked for; without it nobody looks.
    """
    own = made_impatient(redis)
    gate = make_gatehouse(config, own, clock)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with TaskGroup() as tasks:
            looking = tasks.create_task(_look_for_restart(own, on_restart)) if on_restart else None
            async with app.state.following.running():
                yield
            if looking:
                looking.cancel()
        await run_in_threadpool(gate.close)  # the last of the record, while there is Redis
        own.close()

    app = Starlette(
        routes=[*routes(OPERATIONS), *documentation.routes(OPERATIONS, config), *dashboard.ROUTES],
        middleware=[Middleware(Guard, gate=gate)],
        exception_handlers={
            ProblemError: on_problem,
            HTTPException: on_http_exception,
            ClientDisconnect: on_disconnect,
            Exception: on_unforeseen,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    lookout = Lookout(config, own, clock)
    app.state.following = following.Following(own)
    app.state.site = Site(
        config=config,
        redis=own,
        clock=clock,
        lookout=lookout,
        folders=Folders.of(config.directories),
        load=KnownLoad(own, config.queue.priority_levels, clock),
        dropper=Dropper(config, own, lookout),
        ids=Ids(),
        recheck=recheck,
        pages=Shared(),
    )
    return app


async def _look_for_restart(redis: Redis, on_restart: Callable[[], None]) -> None:
    watch = RestartWatch()
    while True:
        with suppress(*AWAY):
            if await run_in_threadpool(watch.look, redis):
                on_restart()
        await asyncio.sleep(LOOK_FOR_RESTART_EVERY)
