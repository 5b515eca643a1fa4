"""Idle: the CPU time that `llmctl up` takes while nothing is dropped."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import psutil

from benchmarks.contenders import ROOT, cpu_seconds
from benchmarks.server import wait_until

SECONDS = 45.0
_SETTLE = 8.0


class Idle(msgspec.Struct, frozen=True):
    """CPU seconds and resident bytes of each process of `llmctl up` over `seconds` of wall time."""

    seconds: float
    cpu: dict[str, float]
    memory: dict[str, int]


def idle(seconds: float, folder: Path) -> Idle:
    """Start everything with the embedded server, let it settle, and watch it do nothing."""
    home = folder / f"idle-{time.time_ns()}"
    home.mkdir()
    port = _free_port()
    config = home / "config.json"
    names = ("watch", "output", "archive", "error", "temp")
    directories = {f"{name}_directory": str(home / "spool" / name) for name in names}
    settings = {"directories": directories, "api": {"port": port}, "logging": {"file": str(home / "log")}}
    config.write_text(json.dumps(settings))
    program = [
        sys.executable,
        "-P",
        "-c",
        "from llm_scheduler.api.cli import main; main()",
        "--config",
        str(config),
        "up",
    ]
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(program, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until(lambda: _answers(port), "an answer from llmctl up", 60, 0.2)
        time.sleep(_SETTLE)
        everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        # Each by itself: cpu_seconds counts what is below a process, too.
        children = {_role(each): each.pid for each in everyone[1:] if each.ppid() == process.pid}
        began, before, all_before = time.monotonic(), _seconds(children), cpu_seconds(process.pid)
        time.sleep(seconds)
        took, after, all_after = time.monotonic() - began, _seconds(children), cpu_seconds(process.pid)
        cpu = {role: after[role] - before[role] for role in children}
        cpu["supervisor"] = max(0.0, all_after - all_before - sum(cpu.values()))
        return Idle(took, cpu, {_role(each): each.memory_info().rss for each in everyone})
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _seconds(children: dict[str, int]) -> dict[str, float]:
    return {role: cpu_seconds(pid) for role, pid in children.items()}


def _role(process: psutil.Process) -> str:
    words = process.cmdline()
    if "valkey-server" in words[0] or "redis-server" in words[0]:
        return "server"
    if "-m" in words:
        module = words[words.index("-m") + 1]
        names = {
            "llm_scheduler.ingest.daemon": "ingest",
            "llm_scheduler.ingest.collector": "collector",
            "llm_scheduler.jobs.scheduler.loop": "scheduler",
        }
        if module == "llm_scheduler.jobs.worker.loop":
            return f"worker {words[words.index('-m') + 2]}"
        return names.get(module, module.removesuffix(".server"))
    return "supervisor"


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
