"""Around the start of `llmctl up`: the check of the port, the wait until every process answers, and the banner."""

import os
import socket
import sys
import time
import urllib.request
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from llm_scheduler.api.local.child_processes import Supervisor
from llm_scheduler.api.local.daemons import READY_SECONDS
from llm_scheduler.api.state.processes import read_processes
from llm_scheduler.ingest.spool import Folders
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.config.model import Api
from llm_scheduler.jobs.process.termination import Stop


def port_problem(api: Api) -> str | None:
    """Why the API can't listen at its address; None if it can."""
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((api.host, api.port))
        except OSError as error:
            place = f"Port {api.port} on {api.host}"
            return f"{place} can't be used ({error.strerror}). Free it, or set api.port to another one."
    return None


def wait_until_ready(supervisor: Supervisor, config: Config, redis: Redis, stop: Stop) -> int | None:
    """Wait until every process answers, and print after `READY_SECONDS` which do not. Returns an exit status if one
    can't run."""
    deadline = time.monotonic() + READY_SECONDS
    while not stop:
        status = supervisor.watch()
        if status is not None:
            return status
        absent = _absent(config, redis)
        if not absent:
            break
        if time.monotonic() > deadline:
            print(f"llmctl up: still waiting for: {', '.join(absent)} (see the log)", file=sys.stderr)
            break
        stop.wait(0.1)
    return None


def _absent(config: Config, redis: Redis) -> list[str]:
    """The processes that do not answer. An API behind TLS is not asked: its certificate may not name this host."""
    try:
        absent = read_processes(redis).missing(config.queue.priority_levels)
    except RedisError:
        absent = ["redis"]
    if not config.api.ssl_enabled:
        try:
            with urllib.request.urlopen(f"{_address(config.api)}/health", timeout=2):  # noqa: S310 - our own address
                pass
        except OSError:
            absent.append("llm-api")
    return absent


def print_banner(config: Config, folders: Folders, config_path: Path | None) -> None:
    lines = [
        ("Drop files into", " and ".join(_short(folder) for folder in folders.watch)),
        ("Results appear in", f"{_short(folders.output)}   (originals: {_short(folders.archive)})"),
        ("Rejected files in", f"{_short(folders.error)}   (each with a .error.json that says why)"),
        ("Dashboard and API", f"{_address(config.api)}/"),
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


def _address(api: Api) -> str:
    """The API's URL for a client on this host."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(api.host, api.host)  # noqa: S104 - not bound
    return f"{'https' if api.ssl_enabled else 'http'}://{f'[{host}]' if ':' in host else host}:{api.port}"
