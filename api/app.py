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

from llm_scheduler.api import dashboard
from llm_scheduler.api.access.access_control import make_gatehouse
from llm_scheduler.api.access.guard import Guard
from llm_scheduler.api.endpoints import (
    controls,
    documentation,
    fleet,
    job_actions,
    job_files,
    job_wait,
    jobs,
    metrics,
    readiness,
    stats,
    submit,
)
from llm_scheduler.api.endpoints import tokens as access
from llm_scheduler.api.events import following
from llm_scheduler.api.http.coalescing import Shared
from llm_scheduler.api.http.context import KnownLoad, Site
from llm_scheduler.api.http.dropper import Dropper
from llm_scheduler.api.http.operation import Operation, routes
from llm_scheduler.api.http.problems import ProblemError, on_disconnect, on_http_exception, on_problem, on_unforeseen
from llm_scheduler.api.state.health import Lookout, made_impatient
from llm_scheduler.ingest.spool import Folders
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import Ids
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.store.commands import RestartWatch

LOOK_FOR_RESTART_EVERY = 2.0

OPERATIONS: tuple[Operation, ...] = (
    *jobs.OPERATIONS,
    *job_wait.OPERATIONS,
    *following.OPERATIONS,
    *submit.OPERATIONS,
    *job_actions.OPERATIONS,
    *job_files.OPERATIONS,
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
