"""Who is measured: the project, the plain loop, and what people would otherwise write. Each starts the same way.

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

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"
WARM_UP = 60
_PATIENCE = 60.0


class Contender:
    """One contender in one run: its spool, its server and its processes by role."""

    needs_server = True

    def __init__(self, name: str, spool: Spool) -> None:
        self.name = name
        self.spool = spool
        self.server = Server(spool.folder / "server") if self.needs_server else None
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def prepare(self) -> None:
        """Start the workers; they have done WARM_UP documents when this returns."""

    def go(self) -> None:
        """Start what takes the files: the clock runs from the moment this is called."""
        raise NotImplementedError

    def watches(self) -> bool:
        """Whether a file that is dropped now would be noticed at once."""
        return (self.spool.folder / "feeding").exists()

    def cpu(self) -> dict[str, float]:
        """CPU seconds by role so far, those of children that have ended included."""
        roles = {role: process.pid for role, process in self.running.items()}
        if self.server:
            roles["server"] = self.server.process.pid
        return {role: cpu_seconds(pid) for role, pid in roles.items()}

    def memory(self) -> dict[str, int]:
        """Resident bytes by role, children included."""
        roles = {role: process.pid for role, process in self.running.items()}
        if self.server:
            roles["server"] = self.server.process.pid
        return {role: _resident(pid) for role, pid in roles.items()}

    def start(self, role: str, command: Sequence[str | Path], cwd: Path, env: Mapping[str, str] | None = None) -> None:
        with (self.spool.folder / f"{role.replace(' ', '-')}.log").open("ab") as log:
            self.running[role] = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, *roles: str) -> None:
        """SIGTERM to the roles (all, without one), and SIGKILL to what is left of them after a while."""
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
        """Which role has ended, with the end of its log."""
        for role, process in self.running.items():
            if process.poll() is not None:
                log = self.spool.folder / f"{role.replace(' ', '-')}.log"
                return f"{self.name}: {role} ended ({process.returncode}): {log.read_text(errors='replace')[-2000:]}"
        return None

    def _warm_up(self, feed: Callable[[], object]) -> None:
        folder = self.spool.raw / "warm"
        folder.mkdir()
        for index in range(WARM_UP):
            (folder / f"{index}.json").write_bytes(corpus.document(10**6 + index))
        feed()
        archive = self.spool.archive / "warm"
        wait_until(
            lambda: self._is_well() and archive.exists() and len(os.listdir(archive)) == WARM_UP,
            f"{WARM_UP} documents done by {self.name}",
            _PATIENCE,
        )

    def _is_well(self) -> bool:
        trouble = self.ended_early()
        if trouble:
            raise RuntimeError(trouble)
        return True


class Project(Contender):
    """This project's daemons with their default configuration, apart from the folders, the server and the handler.

    `SIGNALS` is it with place, industry and language looked for in every document.
    """

    WORKERS = ("worker high", "worker medium", "worker low")

    def __init__(self, name: str, spool: Spool, **processing: Any) -> None:
        super().__init__(name, spool)
        assert self.server
        self._config = spool.folder / "config.json"
        settings = {
            "directories": {
                "watch_directory": str(spool.raw),
                "output_directory": str(spool.processed),
                "archive_directory": str(spool.archive),
                "error_directory": str(spool.errors),
                "temp_directory": str(spool.temp),
            },
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
        modules = {
            "ingest": "llm_scheduler.ingest.daemon",
            "collector": "llm_scheduler.ingest.collector",
            "scheduler": "llm_scheduler.jobs.scheduler.loop",
        }
        for role in roles:
            module = (
                [modules[role]] if role in modules else ["llm_scheduler.jobs.worker.loop", role.removeprefix("worker ")]
            )
            self.start(role, [sys.executable, "-P", "-m", *module, "--config", self._config], ROOT)

    def watches(self) -> bool:
        assert self.server
        return bool(self.server.client.exists("llm:process:ingest"))

    def counted(self, *statuses: str) -> int:
        """How many documents the ledger has under these statuses."""
        assert self.server
        keys = [f"llm:ledger:{status}:{level}" for status in statuses for level in ("high", "medium", "low")]
        return sum(self.server.client.zcard(key) for key in keys)


class Plain(Contender):
    """One process, one loop, no queue. `group` documents share a sync; 0: none."""

    needs_server = False

    def __init__(self, name: str, spool: Spool, group: int) -> None:
        super().__init__(name, spool)
        self._group = group

    def go(self) -> None:
        self.start("loop", [sys.executable, PEERS / "plain.py", self.spool.folder, str(self._group)], PEERS)

    def ended_early(self) -> str | None:
        if "loop" in self.running:
            # It ends by itself, with 0; left unreaped, its CPU time can still be read.
            ended = os.waitid(os.P_PID, self.running["loop"].pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended and ended.si_status:
                return super().ended_early()
        return None


@dataclass(frozen=True)
class PeerKind:
    """How a peer's workers are started: commands by role, their first word a program of its environment."""

    env: str
    packages: tuple[str, ...]
    workers: Mapping[str, Sequence[str]]


def _twice(*command: str) -> dict[str, Sequence[str]]:
    return {"worker 1": command, "worker 2": command}


# Every choice is explained in README.md.
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
    """watchdog and a task queue, as one would put them together."""

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
        time.sleep(2)  # for all of them to be there, not only the first
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
    """The contender called `name`, not started yet; its environment and its server are there."""
    for folder in ("jobs", "ingest", "benchmarks/peers"):  # as a first start would leave it, and pip does for libraries
        compileall.compile_dir(ROOT / folder, quiet=1)
    if name in (PROJECT, SIGNALS):
        return Project(name, spool)
    if name in PLAIN_GROUPS:
        return Plain(name, spool, PLAIN_GROUPS[name])
    return Peer(name, spool)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and everything below it, ended children included (as far as they were waited for)."""
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
