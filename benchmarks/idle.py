"""Idle: the CPU time of `llmctl up` while nothing is dropped."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import psutil

from benchmarks.contenders import MODULES, ROOT, WORKER_MODULE, cpu_seconds
from benchmarks.server import free_port, wait_until
from benchmarks.spool import Spool

SECONDS = 45.0
_SETTLE_SECONDS = 8.0


class IdleUse(msgspec.Struct, frozen=True):
    """CPU seconds and resident bytes of each process of `llmctl up` during `seconds` of wall time."""

    seconds: float
    cpu: dict[str, float]
    memory: dict[str, int]


def idle(seconds: float, folder: Path) -> IdleUse:
    """Start everything with the embedded server, let it settle, and measure."""
    home = folder / f"idle-{time.time_ns()}"
    home.mkdir()
    port = free_port()
    config = home / "config.json"
    settings = {
        "directories": Spool(home / "spool").directories,
        "api": {"port": port},
        "logging": {"file": str(home / "log")},
    }
    config.write_text(json.dumps(settings))
    start = "from llm_scheduler.api.cli import main; main()"
    program = [sys.executable, "-P", "-c", start, "--config", str(config), "up"]
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(program, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until(lambda: _answers(port), "an answer from llmctl up", 60, 0.2)
        time.sleep(_SETTLE_SECONDS)
        everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        # Only direct children: cpu_seconds adds their own children.
        children = {_role(each): each.pid for each in everyone[1:] if each.ppid() == process.pid}
        began, before, all_before = time.monotonic(), _seconds(children), cpu_seconds(process.pid)
        time.sleep(seconds)
        took, after, all_after = time.monotonic() - began, _seconds(children), cpu_seconds(process.pid)
        cpu = {role: after[role] - before[role] for role in children}
        cpu["supervisor"] = max(0.0, all_after - all_before - sum(cpu.values()))
        return IdleUse(took, cpu, {_role(each): each.memory_info().rss for each in everyone})
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
        if module == WORKER_MODULE:
            return f"worker {words[words.index('-m') + 2]}"
        roles = {module: role for role, module in MODULES.items()}
        return roles.get(module, module.removesuffix(".server"))
    return "supervisor"


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False
