"""The keeper of a worker: signals, stderr, and worker after worker. What it does for documents is in test_poison.py."""

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

from llm_scheduler.jobs.worker.supervisor import BEAT_SECONDS, Pulse

# A keeper whose worker is the function named on the command line.
KEPT = """
import ctypes, logging, os, signal, subprocess, sys, time
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.worker.supervisor import STOP_SIGNALS, Keeper

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

sys.exit(Keeper("high", sys.argv[2], SystemClock(), logging.getLogger()).run(globals()[sys.argv[1]]))
"""


class Kept:
    def __init__(self, folder: Path, work: str, url: str) -> None:
        self._log = folder / "stderr"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-c", KEPT, work, url], stderr=log)

    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, words: str, times: int = 1) -> None:
        wait_until(lambda: self.said().count(words) >= times, f"{words!r} in what was said", 20)

    def asked(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(10)


@pytest.fixture
def kept(tmp_path: Path, redis_server: Server) -> Iterator[Callable[[str], Kept]]:
    made: list[Kept] = []

    def make(work: str) -> Kept:
        made.append(Kept(tmp_path, work, redis_server.url))
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        each.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_however_often_it_is_asked_its_worker_is_asked_once(kept: Callable[[str], Kept], how: signal.Signals) -> None:
    keeper = kept("until_asked")
    keeper.wait_for("working high-")
    keeper.process.send_signal(how)
    keeper.wait_for("heard")
    keeper.process.send_signal(how)
    assert keeper.asked(how) == 0
    assert "asked 1\n" in keeper.said()


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("work", mostly_slow(["with_a_child", "quiet", "talkative"]))
def test_stderr_is_passed_on_whatever_is_done_with_it(kept: Callable[[str], Kept], work: str) -> None:
    keeper = kept(work)
    keeper.wait_for("working")
    if work == "quiet":
        before = processor_seconds(keeper.process.pid)
        time.sleep(1)
        assert processor_seconds(keeper.process.pid) - before < 0.3, "it does not spin over what is closed"
    assert keeper.asked() == 0
    assert ("x" * 1_000_000 in keeper.said()) == (work == "talkative")


def test_a_worker_that_dies_at_once_is_started_again_later_and_later(kept: Callable[[str], Kept]) -> None:
    keeper = kept("crash")
    keeper.wait_for("died of SIGSEGV", times=3)
    assert keeper.asked() == 0, "in a pause there is nothing to wait for"
    said = keeper.said()
    assert len(re.findall(r"Worker high-\S+ died of SIGSEGV; peak memory \d+ MB", said)) == said.count("crashing") <= 4


def test_a_worker_that_dies_when_it_is_asked_to_stop_has_not_stopped_well(kept: Callable[[str], Kept]) -> None:
    keeper = kept("crash_when_asked")
    keeper.wait_for("working")
    assert keeper.asked() == 1
    assert "died with exit status 0" in keeper.said(), "it never said goodbye"


def test_a_worker_that_somebody_else_stops_is_replaced(kept: Callable[[str], Kept]) -> None:
    keeper = kept("until_asked")
    keeper.wait_for("working high-")
    [pid] = re.findall(r"working high-.*-(\d+)-[0-9a-f]{4}", keeper.said())
    subprocess.run(["kill", pid], check=True)
    keeper.wait_for("working high-", times=2)
    assert keeper.asked() == 0
    assert "died" not in keeper.said()


def test_a_pulse_is_silent_only_between_birth_and_goodbye() -> None:
    pulse = Pulse()
    assert not pulse.is_silent(1e9)
    pulse.beat(100.0)
    assert not pulse.is_silent(100.0 + 2 * BEAT_SECONDS)
    assert pulse.is_silent(100.0 + 3 * BEAT_SECONDS)
    assert pulse.is_silent(100.0 + pulse.silent_in(100.0)), "a keeper that waits so long looks neither twice nor late"
    assert not pulse.has_ended
    pulse.end()
    assert pulse.has_ended
    assert not pulse.is_silent(1e9)
    pulse.close()
