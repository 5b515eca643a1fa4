"""`llmctl up`: starts everything, keeps it running, stops it in order, and leaves nothing behind however it ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
from conftest import LLMCTL, SWITCHED_OFF, files, mostly_slow, wait_until

from llm_scheduler.api.local.crew import first_workers
from llm_scheduler.api.scaling.actuators import instance_name
from llm_scheduler.jobs.config import Config


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Home:
    """A folder in which a user runs `llmctl up`, and all that descends from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings: dict[str, Any] = {
            "api": {"port": self.port},
            "processing": {"settle_seconds": 0.3, "batch_idle": 0.2},
            "intelligent_routing": dict(SWITCHED_OFF),
        }
        self.spool = folder / "data" / "llm_generated"
        self.raw = self.spool / "raw"
        self.ups: list[subprocess.Popen[bytes]] = []

    def up(self) -> subprocess.Popen[bytes]:
        (self.folder / "scheduler_config.json").write_text(json.dumps(self.settings))
        with (self.folder / "out").open("ab") as out, (self.folder / "err").open("ab") as err:
            process = subprocess.Popen([LLMCTL, "up"], cwd=self.folder, stdout=out, stderr=err, start_new_session=True)
        self.ups.append(process)
        return process

    def started(self) -> subprocess.Popen[bytes]:
        before = self.out().count("is running")
        process = self.up()
        wait_until(lambda: self.out().count("is running") > before or process.poll() is not None, "the greeting")
        assert process.poll() is None, self.err()
        return process

    def out(self) -> str:
        return (self.folder / "out").read_text() if (self.folder / "out").exists() else ""

    def err(self) -> str:
        return (self.folder / "err").read_text() if (self.folder / "err").exists() else ""

    def drop(self, name: str, content: bytes) -> None:
        self.raw.mkdir(parents=True, exist_ok=True)
        (self.raw / name).write_bytes(content)

    def done(self) -> int:
        return len(files(self.spool / "processed"))

    def family(self, session: int) -> list[psutil.Process]:
        """Every living process of a session."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    def clean(self) -> None:
        for process in self.ups:
            for member in self.family(process.pid):
                with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                    member.kill()
            process.wait()


@pytest.fixture
def home() -> Iterator[Home]:
    folder = Path(tempfile.mkdtemp(prefix="llm-up-"))
    home = Home(folder)
    yield home
    home.clean()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_server_that_cannot_read_its_data_starts_without_them(home: Home) -> None:
    """Its file is damaged in the middle, which no option of the server's gets past."""
    home.settings["handlers"] = {"default": "slow:handle"}
    handler = "import time\ndef handle(document, context):\n    time.sleep(0.2)\n    return 1\n"
    (home.folder / "slow.py").write_text(handler)
    process = home.started()
    for number in range(30):
        home.drop(f"{number}.json", b'{"n": %d}' % number)
    wait_until(lambda: home.done() >= 2, "the first results")
    for member in home.family(process.pid):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    [data] = (home.spool / "server" / "appendonlydir").glob("*.incr.aof")
    raw = data.read_bytes()
    middle = len(raw) // 2
    data.write_bytes(raw[:middle] + b"garbage\r\n" * 20 + raw[middle:])
    home.started()
    assert "The server could not read its data" in home.err()
    assert (home.spool / "server" / "appendonlydir.unreadable").is_dir()
    wait_until(lambda: home.done() == 30, "every document, once")
    assert len(files(home.spool / "archive")) == 30


def named(home: Home, session: int, words: str) -> psutil.Process | None:
    for process in home.family(session):
        try:
            if words in " ".join(process.cmdline()):
                return process
        except psutil.NoSuchProcess:
            continue
    return None


@pytest.mark.parametrize("how", mostly_slow([signal.SIGINT, signal.SIGTERM]))
def test_it_runs_everything_and_stops_all_of_it(home: Home, how: signal.Signals) -> None:
    del home.settings["intelligent_routing"]
    process = home.started()
    for words in ("data/llm_generated/raw", "data/llm_generated/processed", f"127.0.0.1:{home.port}", "Ctrl-C"):
        assert words in home.out()
    modules = [
        "valkey-server",
        "llm_scheduler.ingest.daemon",
        "llm_scheduler.ingest.collector",
        "llm_scheduler.jobs.scheduler.scheduler",
        "llm_scheduler.api.server",
    ]
    modules += [f"llm_scheduler.jobs.worker.worker {level}" for level in ("high", "medium", "low")]
    for module in modules:
        assert named(home, process.pid, module), f"{module} runs in the session of llmctl up"
    assert workers(home, process.pid) == {"high", "high.2", "medium", "low"}, "four, as max_workers has it"
    for number in range(30):
        home.drop(f"{number}.json", b'{"n": %d}' % number)
    wait_until(lambda: home.done() == 30, "30 results")
    assert httpx.get(f"http://127.0.0.1:{home.port}/jobs?limit=100").json()["jobs"].__len__() == 30
    process.send_signal(how)
    process.send_signal(how)  # a person who presses Ctrl-C twice
    assert process.wait(30) == 0
    assert not home.family(process.pid), "no process is left"
    log = (home.folder / "logs" / "scheduler.log").read_text()
    assert "Task completed" in log


@pytest.mark.slow
def test_what_was_in_flight_goes_on_at_the_next_start(home: Home) -> None:
    (home.folder / "slow.py").write_text(
        "import time\ndef handle(document, context):\n    time.sleep(0.05)\n    return 1\n"
    )
    home.settings["handlers"] = {"default": "slow:handle"}
    process = home.started()
    for number in range(100):
        home.drop(f"{number}.json", b'{"n": %d}' % number)
    wait_until(lambda: home.done() >= 5, "a few results")
    process.terminate()
    assert process.wait(30) == 0
    assert home.done() < 100, "stopped in the middle"
    home.started()
    wait_until(lambda: home.done() == 100, "100 results")
    assert len({json.loads(path.read_bytes())["document"]["n"] for path in files(home.spool / "processed")}) == 100


@pytest.mark.slow
def test_a_killed_child_is_started_again(home: Home) -> None:
    process = home.started()
    for words in (
        "llm_scheduler.ingest.daemon",
        "llm_scheduler.ingest.collector",
        "llm_scheduler.jobs.worker.worker high",
        "llm_scheduler.jobs.scheduler.scheduler",
        "llm_scheduler.api.server",
        "valkey-server",
    ):
        victim = named(home, process.pid, words)
        assert victim is not None
        victim.kill()
        wait_until(
            lambda words=words, old=victim.pid: (new := named(home, process.pid, words)) and new.pid != old,
            f"another {words}",
        )
    home.drop("after.json", b'{"metadata": {"priority": "high"}}')
    wait_until(lambda: home.done() == 1, "a result all the same")


@pytest.mark.slow
def test_kill_9_leaves_no_orphans_and_a_new_start_goes_on(home: Home) -> None:
    process = home.started()
    for number in range(200):
        home.drop(f"{number}.json", b'{"n": %d}' % number)
    process.kill()
    process.wait()
    home.started()
    wait_until(lambda: home.done() == 200, "200 results")
    wait_until(lambda: not home.family(process.pid), "the first one's processes to be gone", deadline=20)
    assert len({json.loads(path.read_bytes())["document"]["n"] for path in files(home.spool / "processed")}) == 200


@pytest.mark.slow
def test_a_second_one_on_the_same_spool_says_so(home: Home) -> None:
    process = home.started()
    second = home.up()
    assert second.wait(20) == 69
    assert f"already runs on this spool (process {process.pid})" in home.err()
    assert process.poll() is None


def test_a_port_in_use_is_said_before_anything_starts(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", home.port))
        taken.listen()
        began = time.monotonic()
        process = home.up()
        assert process.wait(20) == 69
        assert time.monotonic() - began < 10
    assert f"Port {home.port} on 127.0.0.1" in home.err()
    assert "api.port" in home.err()
    assert not home.family(process.pid)


def test_a_bad_configuration_ends_with_78(home: Home) -> None:
    home.settings["procesing"] = {}
    process = home.up()
    assert process.wait(20) == 78
    assert "procesing" in home.err()
    assert "'processing'" in home.err()


def workers(home: Home, session: int) -> set[str]:
    """The workers that run, by their instances: `high`, `high.2`."""
    found = set()
    for process in home.family(session):
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if "llm_scheduler.jobs.worker.worker" in words:
            found.add(words[words.index("llm_scheduler.jobs.worker.worker") + 1])
    return found


@pytest.mark.parametrize(
    ("levels", "most", "first"),
    [
        (["high", "medium", "low"], 4, ["high", "high.2", "medium", "low"]),
        (["high", "medium", "low"], 1, ["high", "medium", "low"]),
        (["high", "medium", "low"], 7, ["high", "high.2", "high.3", "medium", "medium.2", "low", "low.2"]),
        (["only"], 3, ["only", "only.2", "only.3"]),
        (["high", "low"], "auto", ["high", "low"]),
    ],
)
def test_each_queue_has_a_worker_at_the_least(levels: list[str], most: int | str, first: list[str]) -> None:
    config = msgspec.convert({"processing": {"max_workers": most}, "queue": {"priority_levels": levels}}, Config)
    assert [instance_name(*each) for each in first_workers(config)] == first


@pytest.mark.slow
def test_workers_come_with_a_backlog_and_go_after_it(home: Home) -> None:
    (home.folder / "slow.py").write_text("import time\ndef handle(document, context):\n    time.sleep(0.2)\n")
    home.settings["handlers"] = {"default": "slow:handle"}
    home.settings["processing"] |= {
        "max_workers": "auto",
        "batch_size": 5,
        "autoscale": {"target_seconds": 1, "max_workers": 7, "shrink_after": 3, "look_every": 0.3},
    }
    # The handlers sleep; the CPU of the machine that runs the tests may be anybody's.
    home.settings["monitoring"] = {"alert_thresholds": {"cpu_usage": 100, "memory_usage": 100}}
    process = home.started()
    assert workers(home, process.pid) == {"high", "medium", "low"}
    for number in range(200):
        home.drop(f"{number}.json", b'{"n": %d, "metadata": {"priority": "high"}}' % number)
    most = wait_until(lambda: len(found := workers(home, process.pid)) >= 5 and found, "more workers")
    assert {"high", "high.2", "high.3", "medium", "low"} <= most
    wait_until(lambda: home.done() == 200, "200 results")
    wait_until(lambda: workers(home, process.pid) == {"high", "medium", "low"}, "no more workers than at first")
    assert len({json.loads(path.read_bytes())["document"]["n"] for path in files(home.spool / "processed")}) == 200
    assert len(files(home.spool / "archive")) == 200
    assert not files(home.spool / "errors")
    log = (home.folder / "logs" / "scheduler.log").read_text()
    assert re.search(r"up: high: 1 -> \d workers: .* wait, [0-9.]+ documents/s arrive", log)
    assert re.search(r"up: high: 2 -> 1 worker: for 3 s one worker would have been enough", log)
    assert "is started again" not in log, "those that were sent home were not taken for dead"
    process.terminate()
    assert process.wait(30) == 0
    assert not home.family(process.pid)


@pytest.mark.slow
def test_an_outage_of_redis_changes_no_number_of_workers(home: Home) -> None:
    home.settings["processing"] |= {"max_workers": "auto", "autoscale": {"look_every": 0.2}}
    process = home.started()
    server = named(home, process.pid, "valkey-server")
    assert server is not None
    server.suspend()
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 2, "some looks")
    assert workers(home, process.pid) == {"high", "medium", "low"}
    victim = named(home, process.pid, "llm_scheduler.api.server")
    assert victim is not None
    victim.kill()
    wait_until(
        lambda: (new := named(home, process.pid, "llm_scheduler.api.server")) and new.pid != victim.pid,
        "another api",
        15,
    )
    server.resume()
    process.terminate()
    assert process.wait(30) == 0
