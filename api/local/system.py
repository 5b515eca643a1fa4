"""`llmctl up`: the whole system on one machine, kept running by one process that stops all of it in order."""

import logging
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from llm_scheduler.api.local import embedded_server
from llm_scheduler.api.local.child_processes import CHECK_SECONDS, Supervisor
from llm_scheduler.api.local.crew import LocalCrew
from llm_scheduler.api.local.daemons import STOPPING_ORDER, daemons, start_server, worker
from llm_scheduler.api.local.launch import port_problem, print_banner, wait_until_ready
from llm_scheduler.ingest.spool import FolderError, Folders
from llm_scheduler.ingest.spool.locks import SpoolLock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.process.logs import rotate, setup
from llm_scheduler.jobs.process.runtime import QUIET_VARIABLE, URL_VARIABLE
from llm_scheduler.jobs.process.termination import PARENT_VARIABLE, Stop

if TYPE_CHECKING:
    from llm_scheduler.api.local.periodic_autoscaler import PeriodicAutoscaler


def up(config: Config, config_path: Path | None) -> int:
    """Run everything until told to stop. Returns the exit status."""
    local = config.queue.type == "local"
    on_terminal = sys.stderr.isatty()
    file = config.logging.file if local else None
    log = setup(config.logging, "up", file, quiet=on_terminal)
    stop = Stop()
    stop.handle_signals()
    signal.signal(signal.SIGCHLD, lambda signum, frame: stop.wake())  # so that the children need no frequent checks
    folders = Folders.of(config.directories)
    try:
        folders.prepare()
        guard = SpoolLock(folders.temp, "up")
        if not guard.take():
            print(f"llmctl up already runs on this spool (process {guard.holder()}).", file=sys.stderr)
            return ExitCode.UNREACHABLE
    except (FolderError, OSError) as problem:
        return _unavailable(problem)
    taken = port_problem(config.api)
    if taken:
        return _unavailable(taken)
    url = embedded_server.socket_url(config) if local else config.queue.redis_url
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    if local:
        environment[URL_VARIABLE] = url
    if on_terminal:
        environment[QUIET_VARIABLE] = "1"
    supervisor = Supervisor(environment, log)
    redis = connect(url)
    autoscaler = _autoscaler(config, config_path, url, supervisor, log)
    status: int | None = None
    try:
        if local and not start_server(supervisor, config, redis, stop, log):
            return 0 if stop else ExitCode.UNREACHABLE
        for child in daemons(config, config_path):
            supervisor.start(child)
        status = wait_until_ready(supervisor, config, redis, stop)
        if status is None and not stop:
            print_banner(config, folders, config_path)
        rotated = time.monotonic()
        while status is None and not stop.wait(
            min(supervisor.due_in(), autoscaler.due_in() if autoscaler else math.inf)
        ):
            status = supervisor.watch()
            if autoscaler is not None:
                autoscaler.step_if_due()
            if file and time.monotonic() - rotated >= CHECK_SECONDS:
                rotated = time.monotonic()
                rotate(file)
    except embedded_server.NoServer as error:
        return _unavailable(error)
    finally:
        if supervisor.children:
            print("Stopping ...", file=sys.stderr, flush=True)
        supervisor.stop_in_order(STOPPING_ORDER)
        redis.close()
        if autoscaler is not None:
            autoscaler.close()
        guard.release()
    if status is None:
        print("Stopped. Nothing is lost: what was in flight goes on at the next start.", file=sys.stderr)
    return status or 0


def _unavailable(problem: object) -> int:
    print(f"llmctl up: {problem}", file=sys.stderr)
    return ExitCode.UNREACHABLE


def _autoscaler(
    config: Config, config_path: Path | None, url: str, supervisor: Supervisor, log: logging.Logger
) -> "PeriodicAutoscaler | None":
    """What starts and stops workers as needed; None if `processing.max_workers` is a number."""
    if config.processing.max_workers != "auto":
        return None
    # Imported here: it imports RQ, which takes 0.1 s and some megabytes.
    from llm_scheduler.api.local.periodic_autoscaler import PeriodicAutoscaler

    crew = LocalCrew(supervisor, config.queue.priority_levels, lambda queue, number: worker(queue, number, config_path))
    return PeriodicAutoscaler(config, url, crew, log)
