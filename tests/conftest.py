"""Shared by tests: a real server and real daemons that can be killed, and waiting for conditions."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import msgspec
import pytest
import uvicorn
from redis import Redis
from starlette.applications import Starlette

from llm_scheduler.api.local.embedded_server import program
from llm_scheduler.jobs.config import Config, load
from llm_scheduler.jobs.config.model import Routing
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.store import ledger, outcomes
from llm_scheduler.jobs.store.keys import Keys

KEYS = Keys()

DEADLINE = 60.0
LEVELS = ["high", "medium", "low"]
LLMCTL = str(Path(sys.executable).with_name("llmctl"))


def mostly_slow(cases: Iterable[Any], quick: int = 1) -> list[Any]:
    """All cases; those after the first `quick` are marked slow."""
    return [
        case if number < quick else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.slow)
        for number, case in enumerate(cases)
    ]


def wait_until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE, every: float = 0.02) -> Any:
    """Wait until `condition()` is true and return its value. Fail with `what` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(every)
    pytest.fail(f"not within {deadline:g} s: {what}")


def listen() -> socket.socket:
    """A listener without Nagle's algorithm, as the real server has; with it each answer would take 40 ms."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextmanager
def serve(app: Starlette) -> Iterator[httpx.Client]:
    """A client of `app`, which runs behind a real port in a thread."""
    listener = listen()
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        wait_until(lambda: server.started, "a server that listens")
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


# Loading the detectors takes a second and 150 MB: only their own tests do it.
SWITCHED_OFF = {"geo_detection": False, "industry_classification": False, "language_detection": False}
QUIET = msgspec.convert(SWITCHED_OFF, Routing)


class Server:
    """A private Valkey on a unix socket, with an append-only file as in production."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.url = f"unix://{self.socket}?db=0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> "Server":
        self.process = subprocess.Popen(
            [
                program(),
                *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", ""),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "warning", *options),
            ],
            stdout=subprocess.DEVNULL,
        )
        client = self.client()
        wait_until(lambda: _answers(client), "an answer from the server")
        client.close()
        return self

    def client(self) -> Redis:
        return connect(self.url)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except Exception:
        return False


@pytest.fixture
def redis_server() -> Iterator[Server]:
    # Not tmp_path: the path of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="llm-"))
    server = Server(folder).start()
    yield server
    server.kill()  # faster than stop(); its data is no longer needed
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis(redis_server: Server) -> Iterator[Redis]:
    client = redis_server.client()
    yield client
    client.close()


class Fleet:
    """Real daemons on a spool, each a process that can be killed and started again."""

    MODULES: ClassVar = {
        "ingest": ("llm_scheduler.ingest.daemon",),
        "collector": ("llm_scheduler.ingest.collector",),
        "scheduler": ("llm_scheduler.jobs.scheduler.scheduler",),
        "high": ("llm_scheduler.jobs.worker.worker", "high"),
        "medium": ("llm_scheduler.jobs.worker.worker", "medium"),
        "low": ("llm_scheduler.jobs.worker.worker", "low"),
    }

    def __init__(self, folder: Path, server: Server, logs: Path | None = None) -> None:
        self.folder = folder
        self.logs = logs or folder
        self.server = server
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.raw = folder / "raw"
        self.processed = folder / "processed"
        self.archive = folder / "archive"
        self.errors = folder / "errors"
        self.temp = folder / "temp"
        self.raw.mkdir(parents=True, exist_ok=True)
        self.settings: dict[str, Any] = {
            "directories": {
                "watch_directory": str(self.raw),
                "output_directory": str(self.processed),
                "archive_directory": str(self.archive),
                "error_directory": str(self.errors),
                "temp_directory": str(self.temp),
            },
            "processing": {
                "mode": "real_time",
                "settle_seconds": 0.3,
                "scan_interval": 0.5,
                "retry_delay": 0.1,
                "retry_attempts": 2,
            },
            "queue": {"type": "redis", "redis_url": server.url},
            "intelligent_routing": dict(SWITCHED_OFF),
        }

    def configure(self, **parts: Any) -> "Fleet":
        """Change settings, a part at a time: `configure(processing={"mode": "batch"})`."""
        for name, values in parts.items():
            if isinstance(values, dict):
                self.settings.setdefault(name, {}).update(values)
            else:
                self.settings[name] = values
        return self

    @property
    def config_path(self) -> Path:
        return self.folder / "config.json"

    def config(self) -> Config:
        self.config_path.write_text(json.dumps(self.settings))
        return load(self.config_path, {})

    def start(self, *names: str, faults: str = "", env: dict[str, str] | None = None) -> "Fleet":
        """Start these daemons, or all. `faults` is their LLM_FAULTS."""
        self.config()
        for name in names or self.MODULES:
            module, *arguments = self.MODULES[name]
            environment = {**os.environ, **(env or {})}
            environment.pop("LLM_FAULTS", None)
            if faults:
                environment["LLM_FAULTS"] = faults
            with (self.logs / f"{name}.log").open("ab") as log:
                self.running[name] = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, *arguments, "--config", str(self.config_path)],
                    cwd=self.folder,
                    env=environment,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                )
        return self

    def kill(self, *names: str) -> None:
        """kill -9."""
        for name in names or list(self.running):
            process = self.running.pop(name)
            process.kill()
            process.wait()

    def stop(self, *names: str, deadline: float = 20) -> dict[str, int]:
        """SIGTERM. Returns the exit statuses."""
        going = {name: self.running.pop(name) for name in (names or list(self.running))}
        for process in going.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(deadline) for name, process in going.items()}

    def log(self, name: str) -> str:
        path = self.logs / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def drop(self, source: str, content: bytes | str) -> Path:
        """Write a file under a hidden name in the watch folder, then rename it, as a good producer does."""
        path = self.raw / source
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name[:40]}.tmp")
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        unfinished.rename(path)
        return path

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_bytes()) for path in sorted(files(self.processed))]

    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_bytes()) for path in sorted(files(self.errors)) if is_report(path)]

    def finished(self) -> int:
        """How many originals are in a final place."""
        rejected = [path for path in files(self.errors) if not is_report(path)]
        return len(files(self.archive)) + len(rejected)

    def in_flight(self) -> list[Path]:
        return [path for path in files(self.temp) if path.name != "manifest"]

    def temp_groups(self) -> list[str]:
        return [name for name in os.listdir(self.temp) if len(name) == 26]

    def all_ready(self) -> bool:
        """Whether every daemon works."""
        client = self.server.client()
        try:
            keys = [KEYS.heartbeat("ingest"), KEYS.heartbeat("collector"), KEYS.scheduler_lock]
            return client.exists(*keys) == len(keys) and client.scard(KEYS.workers) >= 3
        finally:
            client.close()

    def stream_documents(self) -> int:
        """How many outcomes wait for the collector."""
        client = self.server.client()
        try:
            entries = [entry for level in LEVELS for entry in client.xrange(KEYS.outcomes(level))]
        finally:
            client.close()
        return sum(len(outcomes.decode(fields[b"o"])) for _, fields in entries)

    def ledger_total(self, *statuses: str) -> int:
        """How many documents the ledger has under these statuses."""
        client = self.server.client()
        try:
            counts = ledger.counts(client, LEVELS)
        finally:
            client.close()
        return sum(sum(counts[status].values()) for status in statuses)

    def wait_finished(self, count: int, deadline: float = DEADLINE) -> None:
        try:
            wait_until(lambda: self.finished() >= count, f"{count} documents finished", deadline, every=0.05)
        except BaseException:
            print(f"finished {self.finished()} of {count}; in flight {self.in_flight()[:5]}")
            for name in self.MODULES:
                print(f"--- {name}: {self.log(name)[-1500:]}")
            raise


def is_report(path: Path) -> bool:
    return path.name.endswith(".error.json")


def files(folder: Path) -> list[Path]:
    """All files below a folder, except hidden ones and the note of a Redis outage."""
    return [
        Path(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and name != "redis-outage.json"
    ]


@pytest.fixture
def fleet(tmp_path: Path, redis_server: Server) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path / "spool", redis_server)
    yield fleet
    for process in fleet.running.values():
        process.kill()
        process.wait()


def account(fleet: Fleet, dropped: dict[str, bytes]) -> None:
    """Assert that each dropped document is in one final place, byte for byte, with one result or report.

    `dropped` maps names to contents, which have to differ.
    """
    originals: dict[bytes, list[Path]] = {}
    for folder in (fleet.raw, fleet.temp, fleet.archive, fleet.errors):
        for path in files(folder):
            if path.name != "manifest" and not is_report(path) and path.is_file():
                originals.setdefault(path.read_bytes(), []).append(path)
    for name, content in dropped.items():
        places = originals.pop(content, [])
        assert len(places) == 1, f"{name} is in {len(places)} places: {places}"
        assert fleet.archive in places[0].parents or fleet.errors in places[0].parents, f"{name} is still {places[0]}"
    assert not originals, f"unknown originals: {list(originals.values())[:3]}"
    ids = [result["id"] for result in fleet.results()] + [report["id"] for report in fleet.reports()]
    assert len(ids) == len(set(ids)), "a document has two outcomes"
    assert len(ids) == len(dropped), f"{len(ids)} outcomes for {len(dropped)} documents"
    hidden = [path for root, _, names in os.walk(fleet.processed) for path in names if path.startswith(".")]
    assert not hidden, f"unfinished results are left: {hidden}"
