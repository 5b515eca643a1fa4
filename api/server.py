"""`llm-api`: the HTTP API under uvicorn, in this process or in several."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn
from msgspec.structs import replace
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import ChangeReload, Multiprocess

from llm_scheduler.api.app import make_app
from llm_scheduler.api.listeners import ServerStartError, listen, url
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import Config, find, load
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.process.runtime import arguments, redis_url, start
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.process.termination import PARENT_VARIABLE

GRACE_SECONDS = 3  # for requests that are being answered when the server is told to stop


class _Server(uvicorn.Server):
    """uvicorn's server polls ten times a second whether to stop, and updates the time for the `Date` header once a
    second. This one is woken by the signal: an idle API wakes once a second."""

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, settings: uvicorn.Config, notify: Notify, status: str) -> None:
        super().__init__(settings)
        self._notify, self._status = notify, status

    async def main_loop(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        while not await self.on_tick(0):  # uvicorn updates its time at every multiple of ten
            self._notify.alive(self._status)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), 1.0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)


class _ProcessSupervisor(Multiprocess):
    """uvicorn's supervisor, which checks its processes twice a second and replaces one that doesn't answer."""

    def __init__(self, settings: uvicorn.Config, listeners: list[socket.socket], notify: Notify, status: str) -> None:
        super().__init__(settings, sockets=listeners)
        self._notify, self._status = notify, status

    def terminate_all(self) -> None:
        self._notify.stopping()
        super().terminate_all()

    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        if not self.should_exit.is_set():
            self._notify.alive(self._status)


def main() -> None:
    """Entry point of `llm-api`. Redis need not be there: operations that need it answer 503 until it is."""
    parsed = arguments("llm-api", "Answer over HTTP.", port=True)
    config, log = start("api", parsed.config)
    if parsed.port:
        config = replace(config, api=replace(config.api, port=parsed.port))
    _quieten_uvicorn(config)
    try:
        listeners = listen(config)
    except ServerStartError as error:
        print(f"llm-api: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
    try:
        status = _serve(config, listeners, log, parsed.config)
    finally:
        for listener in listeners:
            listener.close()
    raise SystemExit(status)


def worker_app() -> Starlette:
    """The application of one of several processes; uvicorn calls this in that process."""
    config, _ = start("api")
    _quieten_uvicorn(config)
    return _app(config, None)


def _app(config: Config, config_file: str | None) -> Starlette:
    return make_app(
        config,
        connect(redis_url(config)),
        SystemClock(),
        recheck=lambda: load(find(config_file, os.environ)),
        # uvicorn ends this process in order, and its supervisor starts another.
        on_restart=lambda: os.kill(os.getpid(), signal.SIGTERM),
    )


def _serve(config: Config, listeners: list[socket.socket], log: logging.Logger, config_file: str | None) -> int:
    """Serve until told to stop. Returns the exit status. `config_file`: as given on the command line."""
    api = config.api
    workers = 1 if api.reload else api.workers or (1 if config.queue.type == "local" else 4)
    several = workers > 1 or api.reload
    if several:
        # The child processes find their configuration and their parent by these variables.
        if config_file:
            os.environ["LLM_CONFIG"] = os.path.abspath(config_file)
        os.environ[PARENT_VARIABLE] = str(os.getpid())
    settings = uvicorn.Config(
        "llm_scheduler.api.server:worker_app" if several else _app(config, config_file),
        factory=several,
        host=api.host,
        port=api.port,
        workers=workers,
        reload=api.reload,
        access_log=api.access_log,
        log_config=None,
        server_header=False,
        ssl_certfile=api.ssl_cert_file if api.ssl_enabled else None,
        ssl_keyfile=api.ssl_key_file if api.ssl_enabled else None,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    notify = Notify.from_environment(os.environ, SystemClock())
    where = f"{url(api)} ({workers} process{'' if workers == 1 else 'es'})"
    server = _Server(settings, notify, f"Answers on {where}")

    def stop(signum: int, frame: FrameType | None) -> None:
        # Reached by a signal before uvicorn has its own handlers, and by the signal that uvicorn raises again once it
        # has stopped, which would kill the process.
        server.should_exit = True
        notify.stopping()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    log.info("Listening on %s", where)
    if api.reload:
        ChangeReload(settings, target=server.run, sockets=listeners).run()
    elif several:
        supervisor = _ProcessSupervisor(settings, listeners, notify, f"Answers on {where}")
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            return 1
    else:
        server.run(sockets=listeners)
    log.info("The API has stopped")
    return 0


def _quieten_uvicorn(config: Config) -> None:
    """uvicorn logs eight lines about its start and stop; this server logs two of its own."""
    if config.logging.level != "debug":
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
