"""What is measured: the project, the plain loop, and watchdog with a task queue.

`prepare` starts the workers and waits until they have done some documents; `go` starts what feeds them.
"""

import compileall
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import corpus, envs
from benchmarks.server import Server, wait_until
from benchmarks.spool import Spool
from llm_scheduler.jobs.store.keys import Keys

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"
WARM_UP = 60
MODULES = {
    "ingest": "llm_scheduler.ingest.daemon",
    "collector": "llm_scheduler.ingest.collector",
    "scheduler": "llm_scheduler.jobs.scheduler.scheduler",
}
WORKER_MODULE = "llm_scheduler.jobs.worker.worker"
KEYS = Keys()
_WARM_UP_SECONDS = 60.0


class Contender:
    """One contender in one run: spool, server and processes by role."""

    needs_server = True

    def __init__(self, name: str, spool: Spool) -> None:
        self.name = name
        self.spool = spool
        self.server = Server(spool.folder / "server") if self.needs_server else None
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def prepare(self) -> None:
        """Start the workers, and return after they have done WARM_UP documents."""

    def go(self) -> None:
        """Start what takes the files. The time runs from this call."""
        raise NotImplementedError

    def watches(self) -> bool:
        """Whether the watch on the folder has begun."""
        return (self.spool.folder / "feeding").exists()

    def cpu(self) -> dict[str, float]:
        """CPU seconds by role so far, with those of ended children."""
        return {role: cpu_seconds(pid) for role, pid in self._pids().items()}

    def memory(self) -> dict[str, int]:
        """Resident bytes by role, with those of children."""
        return {role: _resident(pid) for role, pid in self._pids().items()}

    def _pids(self) -> dict[str, int]:
        pids = {role: process.pid for role, process in self.running.items()}
        return {**pids, "server": self.server.process.pid} if self.server else pids

    def start(self, role: str, command: Sequence[str | Path], cwd: Path, env: Mapping[str, str] | None = None) -> None:
        with self._log(role).open("ab") as log:
            self.running[role] = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _log(self, role: str) -> Path:
        return self.spool.folder / f"{role.replace(' ', '-')}.log"

    def stop(self, *roles: str) -> None:
        """SIGTERM to these roles, or to all; SIGKILL to what remains after 20 s (5 s for all)."""
        going = [self.running.pop(role) for role in (roles or list(self.running))]
        for process in going:
            process.terminate()
        for process in going:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5 if not roles else 20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """End everything."""
        self.stop()
        if self.server:
            self.server.stop()

    def ended_early(self) -> str | None:
        """A role that has ended, with the end of its log; None if all run."""
        for role, process in self.running.items():
            if process.poll() is not None:
                log = self._log(role).read_text(errors="replace")[-2000:]
                return f"{self.name}: {role} ended ({process.returncode}): {log}"
        return None

    def raise_if_ended(self) -> None:
        """Raise RuntimeError if a role has ended."""
        if trouble := self.ended_early():
            raise RuntimeError(trouble)

    def _warm_up(self, feed: Callable[[], object]) -> None:
        folder = self.spool.raw / "warm"
        folder.mkdir()
        for index in range(WARM_UP):
            (folder / f"{index}.json").write_bytes(corpus.document(10**6 + index))
        feed()
        archive = self.spool.archive / "warm"

        def is_done() -> bool:
            self.raise_if_ended()
            return archive.exists() and len(os.listdir(archive)) == WARM_UP

        wait_until(is_done, f"{WARM_UP} documents done by {self.name}", _WARM_UP_SECONDS)


class Project(Contender):
    """This project's daemons. Only the folders, the server and the handler differ from the default configuration.

    `SIGNALS` also detects place, industry and language in every document.
    """

    WORKERS = ("worker high", "worker medium", "worker low")

    def __init__(self, name: str, spool: Spool, **processing: Any) -> None:
        super().__init__(name, spool)
        assert self.server
        self._config = spool.folder / "config.json"
        settings = {
            "directories": spool.directories,
            "processing": processing,
            "queue": {"type": "redis", "redis_url": self.server.url},
            "handlers": {"default": "benchmarks.handler:handle"},
        }
        if name == SIGNALS:
            detectors = ("geo_detection", "industry_classification", "language_detection")
            settings["intelligent_routing"] = dict.fromkeys(detectors, True)
        self._config.write_text(json.dumps(settings, indent=2))

    def prepare(self) -> None:
        self.begin("collector", "scheduler", *self.WORKERS)
        self._warm_up(lambda: self.begin("ingest"))
        self.stop("ingest")

    def go(self) -> None:
        self.begin("ingest")

    def begin(self, *roles: str) -> None:
        for role in roles:
            module = [MODULES[role]] if role in MODULES else [WORKER_MODULE, role.removeprefix("worker ")]
            self.start(role, [sys.executable, "-P", "-m", *module, "--config", self._config], ROOT)

    def watches(self) -> bool:
        assert self.server
        return bool(self.server.client.exists(KEYS.heartbeat("ingest")))

    def count(self, *statuses: str) -> int:
        """How many documents have one of these statuses."""
        assert self.server
        keys = [KEYS.status_set(status, level) for status in statuses for level in ("high", "medium", "low")]
        return sum(self.server.client.zcard(key) for key in keys)


class Plain(Contender):
    """One process, one loop, no queue. `group` documents share a sync; 0: no sync."""

    needs_server = False

    def __init__(self, name: str, spool: Spool, group: int) -> None:
        super().__init__(name, spool)
        self._group = group

    def go(self) -> None:
        self.start("loop", [sys.executable, PEERS / "plain.py", self.spool.folder, str(self._group)], PEERS)

    def ended_early(self) -> str | None:
        if "loop" in self.running:
            # It ends by itself, with 0. It stays unreaped, so that its CPU time can still be read.
            ended = os.waitid(os.P_PID, self.running["loop"].pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended and ended.si_status:
                return super().ended_early()
        return None


@dataclass(frozen=True)
class PeerKind:
    """How a peer's workers are started. `workers`: commands by role; the first word is a program of its environment."""

    env: str
    packages: tuple[str, ...]
    workers: Mapping[str, Sequence[str]]


def _twice(*command: str) -> dict[str, Sequence[str]]:
    return {"worker 1": command, "worker 2": command}


# README.md explains the choices.
PEER_KINDS: dict[str, PeerKind] = {
    "rq-fork": PeerKind("rq", ("rq",), _twice("rq", "worker", "-q", "-u", "{redis}", "default")),
    "rq-simple": PeerKind(
        "rq", ("rq",), _twice("rq", "worker", "-q", "-w", "rq.SimpleWorker", "-u", "{redis}", "default")
    ),
    "celery": PeerKind(
        "celery",
        ("celery", "kombu"),
        {
            f"worker {number}": (
                *("celery", "-A", "tasks", "worker", "--pool=solo", "-l", "WARNING", "-n", f"w{number}@localhost"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            )
            for number in (1, 2)
        },
    ),
    "dramatiq": PeerKind("dramatiq", ("dramatiq",), {"workers": ("dramatiq", "tasks", "-p", "2", "-t", "8")}),
    "huey": PeerKind(
        "huey", ("huey",), {"workers": ("huey_consumer", "tasks.huey", "-w", "2", "-k", "process", "-q", "-n")}
    ),
    "taskiq": PeerKind(
        "taskiq",
        ("taskiq", "taskiq-redis"),
        {"workers": ("taskiq", "worker", "tasks:broker", "--workers", "2", "--log-level", "WARNING")},
    ),
    "arq": PeerKind("arq", ("arq",), _twice("arq", "tasks.WorkerSettings")),
}


class Peer(Contender):
    """watchdog and a task queue, as a user would combine them."""

    def __init__(self, name: str, spool: Spool) -> None:
        self.kind = PEER_KINDS[name]
        self._python = envs.python(self.kind.env)
        super().__init__(name, spool)
        assert self.server
        self._folder = PEERS / self.kind.env
        self._env = {
            "BENCH_SPOOL": str(spool.folder),
            "BENCH_REDIS": self.server.url,
            "PYTHONPATH": f"{self._folder}{os.pathsep}{PEERS}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def prepare(self) -> None:
        assert self.server
        for role, (program, *arguments) in self.kind.workers.items():
            filled = [argument.replace("{redis}", self.server.url) for argument in arguments]
            self.start(role, [self._python.parent / program, *filled], self._folder, self._env)
        time.sleep(2)  # until all of them run, not only the first
        self._warm_up(lambda: self._feed("once"))
        self.stop("feeder")
        time.sleep(1)

    def go(self) -> None:
        self._feed()

    def ended_early(self) -> str | None:
        feeder = self.running.get("feeder")
        if feeder and feeder.poll() == 0:
            return None
        return super().ended_early()

    def _feed(self, *how: str) -> None:
        self.start("feeder", [self._python, PEERS / "feeder.py", self.spool.folder, *how], self._folder, self._env)


PLAIN_GROUPS = {"plain-sync": 512, "plain": 0}
PROJECT = "project"
SIGNALS = "project-signals"
ALL = (PROJECT, SIGNALS, *PLAIN_GROUPS, *PEER_KINDS)


def make(name: str, spool: Spool) -> Contender:
    """The contender called `name`, with its environment and its server, not started yet."""
    for folder in ("jobs", "ingest", "benchmarks/peers"):  # as after a first start; pip does it for libraries
        compileall.compile_dir(ROOT / folder, quiet=1)
    if name in (PROJECT, SIGNALS):
        return Project(name, spool)
    if name in PLAIN_GROUPS:
        return Plain(name, spool, PLAIN_GROUPS[name])
    return Peer(name, spool)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and its descendants, with those of ended children that were waited for."""
    total = 0.0
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _resident(pid: int) -> int:
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
