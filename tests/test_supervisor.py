"""The supervisor of a worker: signals, stderr, one worker after another. test_poison.py tests its work on documents."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Server, mostly_slow, wait_until

from llm_scheduler.jobs.worker.pulse import Pulse

# A supervisor whose worker is the function named on the command line.
PROGRAM = """
import ctypes, logging, os, signal, subprocess, sys, time
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.worker.supervisor import STOP_SIGNALS, WorkerSupervisor

logging.basicConfig(level="INFO", format="%(message)s")
signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

def say(*words):
    print(*words, file=sys.stderr, flush=True)

def until_asked(name, pulse):
    asked = []
    signal.signal(signal.SIGTERM, lambda signum, frame: asked.append(signum))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    say("working", name)
    while not asked:
        time.sleep(0.01)
    say("heard")
    time.sleep(0.5)  # for more of them
    say("asked", len(asked))
    pulse.end()
    return 0

def crash(name, pulse):
    say("crashing")
    ctypes.string_at(0)

def crash_when_asked(name, pulse):
    signal.signal(signal.SIGTERM, lambda signum, frame: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    say("working")
    time.sleep(60)

def quiet(name, pulse):
    say("working")
    os.close(2)
    return until_asked_quietly(pulse)

def until_asked_quietly(pulse):
    signal.sigwait(STOP_SIGNALS)
    pulse.end()
    return 0

def with_a_child(name, pulse):
    subprocess.Popen(["sleep", "8"])  # has the worker's stderr, and lives on
    say("working")
    return until_asked_quietly(pulse)

def talkative(name, pulse):
    say("x" * 1_000_000)
    say("working")
    return until_asked_quietly(pulse)

sys.exit(WorkerSupervisor("high", sys.argv[2], SystemClock(), logging.getLogger()).run(globals()[sys.argv[1]]))
"""


class SupervisorProcess:
    def __init__(self, folder: Path, work: str, url: str) -> None:
        self._log = folder / "stderr"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, work, url], stderr=log)

    def stderr(self) -> str:
        return self._log.read_text()

    def wait_for(self, words: str, times: int = 1) -> None:
        wait_until(lambda: self.stderr().count(words) >= times, f"{words!r} in what was said", 20)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(10)


Start = Callable[[str], SupervisorProcess]


@pytest.fixture
def start(tmp_path: Path, redis_server: Server) -> Iterator[Start]:
    made: list[SupervisorProcess] = []

    def make(work: str) -> SupervisorProcess:
        made.append(SupervisorProcess(tmp_path, work, redis_server.url))
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        each.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_many_stop_signals_reach_the_worker_once(start: Start, how: signal.Signals) -> None:
    supervisor = start("until_asked")
    supervisor.wait_for("working high-")
    supervisor.process.send_signal(how)
    supervisor.wait_for("heard")
    supervisor.process.send_signal(how)
    assert supervisor.stop(how) == 0
    assert "asked 1\n" in supervisor.stderr()


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("work", mostly_slow(["with_a_child", "quiet", "talkative"]))
def test_stderr_is_passed_on_whatever_is_done_with_it(start: Start, work: str) -> None:
    supervisor = start(work)
    supervisor.wait_for("working")
    if work == "quiet":
        before = processor_seconds(supervisor.process.pid)
        time.sleep(1)
        assert processor_seconds(supervisor.process.pid) - before < 0.3, "it does not spin over what is closed"
    assert supervisor.stop() == 0
    assert ("x" * 1_000_000 in supervisor.stderr()) == (work == "talkative")


def test_a_worker_that_dies_at_once_is_started_again_later_and_later(start: Start) -> None:
    supervisor = start("crash")
    supervisor.wait_for("died of SIGSEGV", times=3)
    assert supervisor.stop() == 0, "in a pause there is nothing to wait for"
    said = supervisor.stderr()
    assert len(re.findall(r"Worker high-\S+ died of SIGSEGV; peak memory \d+ MB", said)) == said.count("crashing") <= 4


def test_a_worker_that_dies_when_it_is_asked_to_stop_has_not_stopped_well(start: Start) -> None:
    supervisor = start("crash_when_asked")
    supervisor.wait_for("working")
    assert supervisor.stop() == 1
    assert "died with exit status 0" in supervisor.stderr(), "it never said goodbye"


def test_a_worker_that_somebody_else_stops_is_replaced(start: Start) -> None:
    supervisor = start("until_asked")
    supervisor.wait_for("working high-")
    [pid] = re.findall(r"working high-.*-(\d+)-[0-9a-f]{4}", supervisor.stderr())
    subprocess.run(["kill", pid], check=True)
    supervisor.wait_for("working high-", times=2)
    assert supervisor.stop() == 0
    assert "died" not in supervisor.stderr()


def test_a_pulse_is_silent_only_between_birth_and_goodbye() -> None:
    pulse = Pulse()
    assert not pulse.is_silent(1e9)
    pulse.beat(100.0)
    assert not pulse.is_silent(100.0 + 2 * Pulse.BEAT_SECONDS)
    assert pulse.is_silent(100.0 + 3 * Pulse.BEAT_SECONDS)
    assert pulse.is_silent(100.0 + pulse.silent_in(100.0)), "a supervisor that waits so long is neither early nor late"
    assert not pulse.has_ended
    pulse.end()
    assert pulse.has_ended
    assert not pulse.is_silent(1e9)
    pulse.close()
