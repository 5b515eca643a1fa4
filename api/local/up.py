"""`llmctl up`: the whole system on one machine, kept running by one process that stops all of it in order."""

import ctypes
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from redis import Redis
from redis.exceptions import RedisError

from llm_scheduler.api.local import embedded_server
from llm_scheduler.api.local.crew import LocalCrew, first_workers
from llm_scheduler.api.scaling.actuators import instance_name
from llm_scheduler.api.state.rollcall import missing
from llm_scheduler.ingest.spool import Folders, Trouble
from llm_scheduler.ingest.spool.spool_lock import SpoolLock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.process.logs import rotate, setup
from llm_scheduler.jobs.process.startup import PARENT_VARIABLE, QUIET_VARIABLE, URL_VARIABLE, Stop

if TYPE_CHECKING:
    from llm_scheduler.api.local.autoscaling import Scaling

EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
EXIT_CONFIG = 78
LOOK_SECONDS = 5.0  # at the log and, should the word of a child's end have been lost, at the children
READY_SECONDS = 30.0
_LONG_LIFE = 10.0  # a child that lived so long is started again at once
_MAX_PAUSE = 10.0
_PR_SET_PDEATHSIG = 1


# What takes documents in stops first, what brings them home last, the server after all.
STOPPING_ORDER: Sequence[Callable[[str], bool]] = (
    lambda name: name in ("ingest", "api"),
    lambda name: name == "scheduler" or name.startswith("worker "),
    lambda name: name == "collector",
    lambda name: name == "server",
)


@dataclass
class Child:
    """A process that is kept running. `patience`: seconds it is given to stop before it is killed."""

    name: str
    command: Callable[[], Sequence[str]]
    patience: float
    inherits: Callable[[], Sequence[int]] = field(default=lambda: ())
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    pause: float = 0.0
    start_at: float = 0.0


class Supervisor:
    """Starts children in order, starts again those that end, and stops them in the order it is told."""

    def __init__(self, environment: dict[str, str], log: logging.Logger, output: int | None = None) -> None:
        """`output`: the descriptor for what the children print, instead of this process's stderr."""
        self._environment = environment
        self._output = output if output is not None else (sys.stderr.fileno() if _has_descriptor(sys.stderr) else None)
        self._log = log
        self.children: list[Child] = []
        self.leaving: list[Child] = []

    def start(self, child: Child) -> None:
        """Start a child in this session, in a process group of its own: Ctrl-C is for the supervisor alone."""
        inherited = list(child.inherits())
        try:
            child.process = subprocess.Popen(
                list(child.command()),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=inherited,
                process_group=0,
                preexec_fn=_die_with_parent,
            )
        finally:
            for descriptor in inherited:
                os.close(descriptor)
        child.started = time.monotonic()
        if child not in self.children:
            self.children.append(child)

    def watch(self) -> int | None:
        """Start again what has ended. Returns an exit status when going on makes no sense (a bad configuration)."""
        now = time.monotonic()
        self.leaving = [child for child in self.leaving if child.process is not None and child.process.poll() is None]
        for child in self.children:
            if child.process is None:
                if now >= child.start_at:
                    self._try_again(child)
            elif (status := child.process.poll()) is not None:
                child.process = None
                if status == EXIT_CONFIG:
                    return EXIT_CONFIG
                long_lived = now - child.started >= _LONG_LIFE
                child.pause = 0.0 if long_lived else min(_MAX_PAUSE, child.pause * 2 or 0.2)
                child.start_at = now + child.pause
                self._log.warning("%s ended (%s) and is started again", child.name, _ending(status))
        return None

    def due_in(self) -> float:
        """Seconds until a child is to be started again, `LOOK_SECONDS` at most."""
        pauses = [child.start_at for child in self.children if child.process is None]
        return min(LOOK_SECONDS, max(0.0, min(pauses, default=math.inf) - time.monotonic()))

    def _try_again(self, child: Child) -> None:
        try:
            self.start(child)
        except OSError as error:
            self._log.error("%s could not be started: %s", child.name, error)
            child.start_at = time.monotonic() + 1.0

    def dismiss(self, name: str) -> None:
        """Ask one child to stop, and don't wait for it: it is not started again, and may take its time."""
        for child in [child for child in self.children if child.name == name]:
            self.children.remove(child)
            if child.process is not None:
                child.process.terminate()
                self.leaving.append(child)

    def stop(self, names: Callable[[str], bool]) -> None:
        """Ask the children whose names fit to stop, wait for them, and kill those that don't within their patience."""
        everyone = [*self.children, *self.leaving]
        going = [child for child in everyone if names(child.name) and child.process is not None]
        for child in going:
            if child.process is not None:
                child.process.terminate()
        for child in going:
            if child.process is None:
                continue
            left = max(0.1, child.patience - (time.monotonic() - self._asked))
            try:
                child.process.wait(left)
            except subprocess.TimeoutExpired:
                self._log.warning(
                    "%s did not stop in %.0f s and is killed; its work goes on at the next start",
                    child.name,
                    child.patience,
                )
                child.process.kill()
                child.process.wait()
        self.children = [child for child in self.children if child not in going]
        self.leaving = [child for child in self.leaving if child not in going]

    _asked = 0.0

    def stop_in_order(self, steps: Sequence[Callable[[str], bool]]) -> None:
        """Stop the children step by step."""
        for step in steps:
            self._asked = time.monotonic()
            self.stop(step)


def up(config: Config, config_path: Path | None) -> int:
    """Run everything until told to stop. Returns the exit status."""
    local = config.queue.type == "local"
    on_terminal = sys.stderr.isatty()
    file = config.logging.file if local else None
    log = setup(config.logging, "up", file, quiet=on_terminal)
    stop = Stop()
    stop.on_signals()
    _heed_children(stop)
    folders = Folders.of(config.directories)
    try:
        folders.prepare()
        guard = SpoolLock(folders.temp, "up")
        if not guard.take():
            print(f"llmctl up already runs on this spool (process {guard.holder()}).", file=sys.stderr)
            return EXIT_UNAVAILABLE
    except (Trouble, OSError) as trouble:
        print(f"llmctl up: {trouble}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    taken = _port_taken(config.api.host, config.api.port)
    if taken:
        print(f"llmctl up: {taken}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    url = embedded_server.socket_url(config) if local else config.queue.redis_url
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    if local:
        environment[URL_VARIABLE] = url
    if on_terminal:
        environment[QUIET_VARIABLE] = "1"
    supervisor = Supervisor(environment, log)
    redis = connect(url)
    scaling = _scaling(config, config_path, url, supervisor, log)
    status: int | None = None
    try:
        if local and not start_server(supervisor, config, redis, stop, log):
            return 0 if stop else EXIT_UNAVAILABLE
        for child in daemons(config, config_path):
            supervisor.start(child)
        status = _until_ready(supervisor, config, redis, stop)
        if status is None and not stop:
            _greet(config, folders, config_path)
        rotated = time.monotonic()
        while status is None and not stop.wait(min(supervisor.due_in(), scaling.due_in() if scaling else math.inf)):
            status = supervisor.watch()
            if scaling is not None:
                scaling.look_if_due()
            if file and time.monotonic() - rotated >= LOOK_SECONDS:
                rotated = time.monotonic()
                rotate(file)
    except embedded_server.NoServer as error:
        print(f"llmctl up: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    finally:
        if supervisor.children:
            print("Stopping ...", file=sys.stderr, flush=True)
        supervisor.stop_in_order(STOPPING_ORDER)
        redis.close()
        if scaling is not None:
            scaling.close()
        guard.release()
    if status is None:
        print("Stopped. Nothing is lost: what was in flight goes on at the next start.", file=sys.stderr)
    return status or 0


def _scaling(
    config: Config, config_path: Path | None, url: str, supervisor: Supervisor, log: logging.Logger
) -> "Scaling | None":
    """What makes the workers as many as are needed; None where their number is fixed."""
    if config.processing.max_workers != "auto":
        return None
    from llm_scheduler.api.local.autoscaling import (
        Scaling,  # RQ comes with it: 0.1 s and some megabytes for those who need it
    )

    levels = config.queue.priority_levels
    crew = LocalCrew(supervisor, levels, lambda queue, number: worker(queue, number, config_path))
    return Scaling(config, url, crew, log)


def daemons(config: Config, config_path: Path | None) -> list[Child]:
    return [
        _child("collector", "llm_scheduler.ingest.collector", config_path=config_path, patience=6),
        _child("scheduler", "llm_scheduler.jobs.scheduler.loop", config_path=config_path, patience=3),
        *(worker(queue, number, config_path) for queue, number in first_workers(config)),
        _child("ingest", "llm_scheduler.ingest.daemon", config_path=config_path, patience=4),
        _child("api", "llm_scheduler.api.server", config_path=config_path, patience=4),
    ]


def worker(queue: str, number: int, config_path: Path | None) -> Child:
    """The worker `number` of `queue`."""
    instance = instance_name(queue, number)
    return _child(
        f"worker {instance}", "llm_scheduler.jobs.worker.loop", instance, config_path=config_path, patience=10
    )


def _child(name: str, module: str, *arguments: str, config_path: Path | None, patience: float) -> Child:
    options = ["--config", str(config_path)] if config_path else []
    # -P: a folder called `api` or `jobs` where the user stands must not be taken for ours.
    return Child(name, lambda: [sys.executable, "-P", "-m", module, *arguments, *options], patience)


def start_server(supervisor: Supervisor, config: Config, redis: Redis, stop: Stop, log: logging.Logger) -> bool:
    """Start the embedded server and wait until it answers; first for a predecessor that is still on its way out."""
    server = Child("server", lambda: _server_command(config, log), 5, lambda: _server_lock(config, stop, log))
    supervisor.start(server)
    deadline = time.monotonic() + READY_SECONDS
    while not stop and time.monotonic() < deadline:
        try:
            redis.ping()
        except RedisError:
            stop.wait(0.05)
            supervisor.watch()
        else:
            return True
    if not stop:
        print(
            f"llmctl up: the server does not answer; see {embedded_server.folder(config)}/server.log", file=sys.stderr
        )
    return False


def _server_command(config: Config, log: logging.Logger) -> list[str]:
    aside = embedded_server.set_unreadable_aside(config)
    if aside is not None:
        log.error("The server could not read its data; they are in %s now. It starts empty: nothing is lost.", aside)
    return embedded_server.command(config)


def _server_lock(config: Config, stop: Stop, log: logging.Logger) -> list[int]:
    told = False
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and not stop:
        descriptor = embedded_server.lock(config)
        if descriptor is not None:
            return [descriptor]
        if not told:
            told = True
            log.warning("An earlier server still uses %s; waiting for it to end", embedded_server.folder(config))
        stop.wait(0.1)
    raise OSError(f"another server uses {embedded_server.folder(config)}")


def _until_ready(supervisor: Supervisor, config: Config, redis: Redis, stop: Stop) -> int | None:
    """Wait until every part answers. Returns an exit status when one can't; says what is late after a while."""
    deadline = time.monotonic() + READY_SECONDS
    absent = ["everything"]
    while absent and not stop:
        status = supervisor.watch()
        if status is not None:
            return status
        absent = _missing(config, redis)
        if absent and time.monotonic() > deadline:
            print(f"llmctl up: still waiting for: {', '.join(absent)} (see the log)", file=sys.stderr)
            return None
        if absent:
            stop.wait(0.1)
    return None


def _missing(config: Config, redis: Redis) -> list[str]:
    try:
        absent = missing(redis, config.queue.priority_levels)
    except RedisError:
        absent = ["redis"]
    try:
        scheme = "https" if config.api.ssl_enabled else "http"
        if scheme == "http":
            address = f"http://{_reachable(config.api.host)}:{config.api.port}/health"
            with urllib.request.urlopen(address, timeout=2):
                pass
    except (urllib.error.URLError, OSError):
        absent.append("llm-api")
    return absent


def _greet(config: Config, folders: Folders, config_path: Path | None) -> None:
    scheme = "https" if config.api.ssl_enabled else "http"
    lines = [
        ("Drop files into", " and ".join(_short(folder) for folder in folders.watch)),
        ("Results appear in", f"{_short(folders.output)}   (originals: {_short(folders.archive)})"),
        ("Refused files in", f"{_short(folders.error)}   (each with a .error.json that says why)"),
        ("Dashboard and API", f"{scheme}://{_reachable(config.api.host)}:{config.api.port}/"),
        ("Configuration", str(config_path) if config_path else "built-in defaults"),
    ]
    if config.queue.type == "local" and config.logging.file:
        lines.append(("Log", _short(os.path.abspath(config.logging.file))))
    lines.append(("Stop", "Ctrl-C"))
    print("The LLM JSON scheduler is running.", flush=True)
    for name, value in lines:
        print(f"  {name:<18} {value}", flush=True)


def _short(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]" if ":" in host else host


def _port_taken(host: str, port: int) -> str | None:
    """Why the API could not listen, or None."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"Port {port} on {host} can't be used ({error.strerror}). Free it, or set api.port to another one."
    return None


def _die_with_parent() -> None:
    """Runs in the child before its program: SIGTERM when this supervisor dies, however it dies (prctl(2), Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _heed_children(stop: Stop) -> None:
    """Let the end of a child end the wait, too: then nobody has to look at the children now and then."""
    if sys.platform != "win32":
        signal.signal(signal.SIGCHLD, lambda signum, frame: stop.rouse())


def _has_descriptor(stream: object) -> bool:
    try:
        stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True


def _ending(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
