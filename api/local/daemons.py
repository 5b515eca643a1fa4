"""The processes of `llmctl up`: which they are, how the embedded server starts, and in which order all stop."""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from llm_scheduler.api.local import embedded_server
from llm_scheduler.api.local.child_processes import Child, Supervisor
from llm_scheduler.api.local.crew import WORKER_PREFIX, first_workers
from llm_scheduler.api.scaling.actuators import instance_name
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.process.termination import Stop

READY_SECONDS = 30.0

# First what accepts documents, then what works on them, then what publishes them, at last the server.
STOPPING_ORDER: Sequence[Callable[[str], bool]] = (
    lambda name: name in ("ingest", "api"),
    lambda name: name == "scheduler" or name.startswith(WORKER_PREFIX),
    lambda name: name == "collector",
    lambda name: name == "server",
)


def daemons(config: Config, config_path: Path | None) -> list[Child]:
    """All processes but the server, in the order in which they start."""
    return [
        _child("collector", "llm_scheduler.ingest.collector", config_path=config_path, patience=6),
        _child("scheduler", "llm_scheduler.jobs.scheduler.scheduler", config_path=config_path, patience=3),
        *(worker(queue, number, config_path) for queue, number in first_workers(config)),
        _child("ingest", "llm_scheduler.ingest.daemon", config_path=config_path, patience=4),
        _child("api", "llm_scheduler.api.server", config_path=config_path, patience=4),
    ]


def worker(queue: str, number: int, config_path: Path | None) -> Child:
    """The worker `number` of `queue`."""
    instance = instance_name(queue, number)
    return _child(
        WORKER_PREFIX + instance, "llm_scheduler.jobs.worker.worker", instance, config_path=config_path, patience=10
    )


def _child(name: str, module: str, *arguments: str, config_path: Path | None, patience: float) -> Child:
    options = ["--config", str(config_path)] if config_path else []
    # -P: Python must not import from the user's working directory.
    return Child(name, lambda: [sys.executable, "-P", "-m", module, *arguments, *options], patience)


def start_server(supervisor: Supervisor, config: Config, redis: Redis, stop: Stop, log: logging.Logger) -> bool:
    """Start the embedded server and wait until it answers. It waits first for an earlier server that is still ending.

    False if it does not answer, or if `stop` ended the wait.
    """
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
        log_file = f"{embedded_server.folder(config)}/server.log"
        print(f"llmctl up: the server does not answer after {READY_SECONDS:.0f} s; see {log_file}", file=sys.stderr)
    return False


def _server_command(config: Config, log: logging.Logger) -> list[str]:
    aside = embedded_server.set_unreadable_aside(config)
    if aside is not None:
        log.error("The server could not read its data; they are in %s now. It starts empty: nothing is lost.", aside)
    return embedded_server.command(config)


def _server_lock(config: Config, stop: Stop, log: logging.Logger) -> list[int]:
    """The descriptor of the lock on the server's data. Raises OSError if another server keeps it."""
    folder = embedded_server.folder(config)
    is_logged = False
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and not stop:
        descriptor = embedded_server.lock(config)
        if descriptor is not None:
            return [descriptor]
        if not is_logged:
            is_logged = True
            log.warning("An earlier server still uses %s; waiting for it to end", folder)
        stop.wait(0.1)
    raise OSError(f"another server uses {folder}")
