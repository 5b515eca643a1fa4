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
from llm_scheduler.api.access.access_control import AccessControl
from llm_scheduler.api.access.guard import Guard
from llm_scheduler.api.endpoints import (
    audit,
    fleet,
    job_actions,
    job_files,
    job_wait,
    jobs,
    metrics,
    producers,
    queues,
    readiness,
    schedules,
    stats,
    submit,
    token,
)
from llm_scheduler.api.events import sse
from llm_scheduler.api.events.followers import Followers
from llm_scheduler.api.http.context import ApiContext
from llm_scheduler.api.http.operation import Operation, routes
from llm_scheduler.api.http.problems import (
    ProblemError,
    on_disconnect,
    on_http_exception,
    on_problem,
    on_unexpected_error,
)
from llm_scheduler.api.state.health import short_timeout_client
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.store.commands import RestartWatch

RESTART_CHECK_SECONDS = 2.0

OPERATIONS: tuple[Operation, ...] = tuple(
    operation
    for module in (
        *(jobs, job_wait, sse, submit, job_actions, job_files),
        *(queues, fleet, schedules, producers, stats, token, audit, readiness, metrics),
    )
    for operation in module.OPERATIONS
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

    `redis` stays open: the application uses its own client for the same server, and closes it at the end of its
    lifespan. `recheck` raises `ConfigError` if a process that starts now could not use its configuration. `on_restart`
    is called when a restart of the fleet is requested; without it nothing watches for that.
    """
    own = short_timeout_client(redis)
    access = AccessControl(config, own, clock)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with TaskGroup() as tasks:
            watching = tasks.create_task(_watch_for_restart(own, on_restart)) if on_restart else None
            async with app.state.followers.running():
                yield
            if watching:
                watching.cancel()
        await run_in_threadpool(access.audit.close)  # writes the last calls while Redis is reachable
        own.close()

    app = Starlette(
        routes=[*routes(OPERATIONS), *dashboard.routes(OPERATIONS, config)],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={
            ProblemError: on_problem,
            HTTPException: on_http_exception,
            ClientDisconnect: on_disconnect,
            Exception: on_unexpected_error,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.followers = Followers(own)
    app.state.api_context = ApiContext(config, own, clock, recheck)
    return app


async def _watch_for_restart(redis: Redis, on_restart: Callable[[], None]) -> None:
    watch = RestartWatch()
    while True:
        with suppress(*AWAY):
            if await run_in_threadpool(watch.check, redis):
                on_restart()
        await asyncio.sleep(RESTART_CHECK_SECONDS)
