"""`llm-api`: the HTTP API under uvicorn, in this process or in several."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import ssl
import sys
from types import FrameType

import psutil  # type: ignore[import-untyped]
import uvicorn
from msgspec.structs import replace
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import ChangeReload, Multiprocess

from llm_scheduler.api.access.api_keys import KeyRing
from llm_scheduler.api.app import make_app
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import Api, Config, Security, find, load
from llm_scheduler.jobs.config.loader import EXIT_CONFIG
from llm_scheduler.jobs.process import arguments
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.process.startup import PARENT_VARIABLE, URL_VARIABLE, start

EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
GRACE_SECONDS = 3  # for requests that are being answered when the server is told to stop
_BACKLOG = 2048


class _Refused(Exception):
    """The server can't run as it is told to; the words and the exit status say why."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class _Server(uvicorn.Server):
    """uvicorn's server, which looks ten times a second whether it is to stop, and once a second at the time (for the
    `Date` of its answers). Here the signal itself ends the wait: an idle API wakes once a second."""

    def __init__(self, settings: uvicorn.Config, notify: Notify, words: str) -> None:
        super().__init__(settings)
        self._notify = notify
        self._words = words

    async def main_loop(self) -> None:
        self._loop, self._roused = asyncio.get_running_loop(), asyncio.Event()
        while not await self.on_tick(0):  # any multiple of ten: the time is looked at
            self._notify.turn(self._words)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._roused.wait(), 1.0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._roused.set)

    _loop: asyncio.AbstractEventLoop | None = None


class _Supervisor(Multiprocess):
    """uvicorn's, which looks twice a second whether each of its processes answers, and replaces one that doesn't."""

    def __init__(self, settings: uvicorn.Config, listeners: list[socket.socket], notify: Notify, words: str) -> None:
        super().__init__(settings, sockets=listeners)
        self._notify = notify
        self._words = words

    def terminate_all(self) -> None:
        self._notify.stopping()
        super().terminate_all()

    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        if not self.should_exit.is_set():
            self._notify.turn(self._words)


def main() -> None:
    """Entry point of `llm-api`. Redis need not be there: what needs it answers 503 until it is."""
    asked = arguments.read("llm-api", "Answer over HTTP.", port=True)
    told = asked.config
    config, log = start("api", told)
    if asked.port:
        config = replace(config, api=replace(config.api, port=asked.port))
    _quieten(config)
    try:
        _insist_on_keys(config.security)
        _check_certificate(config.api)
        listeners = _listen(config)
    except _Refused as refusal:
        print(f"llm-api: {refusal}", file=sys.stderr)
        raise SystemExit(refusal.status) from None
    try:
        status = _serve(config, listeners, log, told)
    finally:
        for listener in listeners:
            listener.close()
    raise SystemExit(status)


def worker_app() -> Starlette:
    """The application of one of several processes, made by uvicorn in that process."""
    config, _ = start("api")
    _quieten(config)
    return _app(config, None)


def _app(config: Config, told: str | None) -> Starlette:
    return make_app(
        config,
        connect(os.environ.get(URL_VARIABLE, config.queue.redis_url)),
        SystemClock(),
        recheck=lambda: load(find(told, os.environ)),
        # uvicorn ends this process in order, and what watches over it starts another.
        on_restart=lambda: os.kill(os.getpid(), signal.SIGTERM),
    )


def _serve(config: Config, listeners: list[socket.socket], log: logging.Logger, told: str | None) -> int:
    """Serve until told to stop; returns the exit status. `told` is the file of the configuration."""
    api = config.api
    workers = 1 if api.reload else api.workers or (1 if config.queue.type == "local" else 4)
    if workers > 1 or api.reload:
        # What the other processes find their configuration and their parent by.
        if told:
            os.environ["LLM_CONFIG"] = os.path.abspath(told)
        os.environ[PARENT_VARIABLE] = str(os.getpid())
    settings = uvicorn.Config(
        "llm_scheduler.api.server:worker_app" if workers > 1 or api.reload else _app(config, told),
        factory=workers > 1 or api.reload,
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
    notify = Notify.of(os.environ, SystemClock())
    scheme = "https" if api.ssl_enabled else "http"
    where = f"{scheme}://{_address(api)} ({workers} process{'' if workers == 1 else 'es'})"
    server = _Server(settings, notify, f"Answers on {where}")

    def stop(signum: int, frame: FrameType | None) -> None:
        # uvicorn raises a signal again once it has stopped, to die of it. This is where that ends, and where
        # one arrives that comes before uvicorn listens to signals itself.
        server.should_exit = True
        notify.stopping()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    log.info("Listening on %s", where)
    if api.reload:
        ChangeReload(settings, target=server.run, sockets=listeners).run()
    elif workers > 1:
        supervisor = _Supervisor(settings, listeners, notify, f"Answers on {where}")
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            return 1
    else:
        server.run(sockets=listeners)
    log.info("The API has stopped")
    return 0


# Before the first request


def _listen(config: Config) -> list[socket.socket]:
    """Sockets that listen on every address of api.host. Raises `_Refused`."""
    api = config.api
    try:
        addresses = socket.getaddrinfo(api.host, api.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _Refused(
            EXIT_UNAVAILABLE, f"The host {api.host!r} is not known ({error.strerror}). Change api.host."
        ) from None
    security = config.security
    if not (security.api_key_enabled or security.jwt_enabled):
        _insist_on_loopback(api, [str(address[4][0]) for address in addresses])
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(addresses):
        try:
            listeners.append(_listener(family, kind, protocol, address))
        except OSError as error:
            failure = error
            if error.errno == errno.EADDRINUSE:
                break
    # A name may have an address of a kind that this machine hasn't; one that is taken is a conflict all the same.
    if failure is not None and (not listeners or failure.errno == errno.EADDRINUSE):
        for listener in listeners:
            listener.close()
        raise _Refused(EXIT_UNAVAILABLE, _why_not(api, failure))
    return listeners


def _listener(family: int, kind: int, protocol: int, address: object) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen(_BACKLOG)  # only here does Linux notice another that is bound, but doesn't listen yet
        listener.set_inheritable(True)
    except OSError:
        listener.close()
        raise
    return listener


def _insist_on_loopback(api: Api, addresses: list[str]) -> None:
    if all(ipaddress.ip_address(address.split("%")[0]).is_loopback for address in addresses):
        return
    raise _Refused(
        EXIT_CONFIG,
        f"api.host {api.host!r} can be reached from other machines, and there are no API keys. "
        "Set security.api_key_enabled and make a key (llmctl key create), or api.host to 127.0.0.1.",
    )


def _insist_on_keys(security: Security) -> None:
    if (security.api_key_enabled or security.jwt_enabled) and not KeyRing(security, SystemClock()):
        raise _Refused(
            EXIT_CONFIG,
            "The API asks for keys, and there are none. Make one: llmctl key create NAME --role admin",
        )


def _why_not(api: Api, error: OSError) -> str:
    address = _address(api)
    match error.errno:
        case errno.EADDRINUSE:
            return f"{address} is in use{_holder(api.port)}. Stop that, or set api.port to another port."
        case errno.EACCES:
            return f"{address} may not be listened on by this user. Set api.port to 1024 or higher."
        case errno.EADDRNOTAVAIL:
            return f"{address} can't be listened on: this machine has no such address. Change api.host."
    return f"{address} can't be listened on ({error.strerror or error}). Change api.host or api.port."


def _holder(port: int) -> str:
    """` by process 123 (name)` when the system lets this user know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return ""


def _check_certificate(api: Api) -> None:
    """Here rather than in every process: one sentence, not a traceback or a question for a password from each."""
    if not api.ssl_enabled:
        return
    assert api.ssl_cert_file
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(api.ssl_cert_file, api.ssl_key_file, password="")
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or str(error)
        raise _Refused(
            EXIT_CONFIG, f"The certificate can't be used ({reason}). Check api.ssl_cert_file and api.ssl_key_file."
        ) from None


def _address(api: Api) -> str:
    return f"[{api.host}]:{api.port}" if ":" in api.host else f"{api.host}:{api.port}"


def _quieten(config: Config) -> None:
    """uvicorn tells its life in eight lines; two of our own say it."""
    if config.logging.level != "debug":
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
