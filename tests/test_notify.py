"""What the daemons tell systemd, over a real socket: ready when they are, and alive while their loop goes round."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Fleet, Server, mostly_slow, wait_until

from llm_scheduler.jobs.process.journal import JournalHandler
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.worker.pulse import Pulse

WATCHDOG = {"WATCHDOG_USEC": "600000"}


class Manager:
    """systemd's end of the socket: what was said, in order."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)
        self.said: list[str] = []

    def hear(self) -> list[str]:
        while True:
            try:
                self.said += self._socket.recv(65536).decode().split("\n")
            except BlockingIOError:
                return self.said

    def hears(self, start: str) -> bool:
        return any(line.startswith(start) for line in self.hear())

    def beats(self) -> int:
        return self.hear().count("WATCHDOG=1")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(redis_server: Server) -> Iterator[Manager]:
    made = Manager(redis_server.folder / "n")  # a short path: a socket's may have 107 bytes
    yield made
    made.close()


@pytest.mark.parametrize("name", mostly_slow(["medium", "ingest", "collector", "scheduler"]))
def test_a_daemon_is_ready_says_what_it_does_and_that_it_lives(fleet: Fleet, manager: Manager, name: str) -> None:
    fleet.start(name, env={"NOTIFY_SOCKET": manager.address, **WATCHDOG})
    wait_until(lambda: manager.hears("READY=1"), "a daemon that is ready")
    assert [line for line in manager.said if line.startswith("STATUS=")][-1] > "STATUS="
    beats = manager.beats()
    wait_until(lambda: manager.beats() >= beats + 3, "a daemon that lives")
    assert manager.said.count("READY=1") == 1
    assert fleet.stop(name) == {name: 0}
    assert manager.hears("STOPPING=1")


@pytest.mark.parametrize("name", mostly_slow(["ingest", "collector", "scheduler", "medium"]))
def test_without_redis_it_is_ready_waits_and_lives(
    fleet: Fleet, manager: Manager, redis_server: Server, name: str
) -> None:
    redis_server.kill()
    fleet.start(name, env={"NOTIFY_SOCKET": manager.address, **WATCHDOG})
    wait_until(lambda: manager.hears("STATUS=Waits for Redis"), "a daemon that says what it waits for")
    assert "READY=1" in manager.said
    beats = manager.beats()
    wait_until(lambda: manager.beats() >= beats + 2, "a daemon that waits and lives")


@pytest.mark.slow
def test_a_worker_lives_while_its_handler_takes_its_time(fleet: Fleet, manager: Manager) -> None:
    (fleet.folder / "slow.py").write_text("import time\ndef handle(document, context):\n    time.sleep(4)\n")
    fleet.configure(handlers={"default": "slow:handle"})
    fleet.start(env={"NOTIFY_SOCKET": manager.address, **WATCHDOG, "PYTHONPATH": str(fleet.folder)})
    fleet.drop("1.json", "{}")
    wait_until(lambda: manager.hears("STATUS=Works on 1 document"), "a worker at work")
    beats = manager.beats()
    wait_until(lambda: manager.beats() >= beats + 3, "a worker that lives")


def test_a_worker_promises_by_when_its_loop_comes_round() -> None:
    pulse = Pulse()
    assert pulse.deadline == 0, "it imports its handlers"
    pulse.set_deadline(time.monotonic() + 30, "Waits for a job of höchst")
    assert pulse.deadline > time.monotonic() + 29
    assert pulse.activity == "Waits for a job of höchst"
    pulse.set_deadline(time.monotonic() - 1)
    assert pulse.deadline < time.monotonic()
    assert pulse.activity == "Waits for a job of höchst"
    pulse.set_deadline(0, "x" * 1000)
    assert pulse.activity == "x" * 400
    pulse.close()


@pytest.mark.slow
def test_a_stopped_loop_feeds_no_watchdog(fleet: Fleet, manager: Manager) -> None:
    """The worker's own process hangs, and its supervisor, whom systemd watches, doesn't."""
    fleet.start("medium", env={"NOTIFY_SOCKET": manager.address, **WATCHDOG})
    wait_until(lambda: manager.beats() > 3, "a worker that lives")
    supervisor = fleet.running["medium"].pid
    worker = int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(supervisor)]).split()[0])
    os.kill(worker, signal.SIGSTOP)
    wait_until(lambda: any("s late" in line for line in manager.hear()), "word of a loop that is late", 60)
    manager.said.clear()
    time.sleep(2)
    assert manager.beats() == 0
    os.kill(worker, signal.SIGCONT)
    wait_until(lambda: manager.beats() > 1, "a worker that lives again")


def test_what_a_handler_starts_has_nothing_to_say(fleet: Fleet, manager: Manager) -> None:
    (fleet.folder / "curious.py").write_text("import os\ndef handle(document, context):\n    return dict(os.environ)\n")
    fleet.configure(handlers={"default": "curious:handle"})
    fleet.start(env={"NOTIFY_SOCKET": manager.address, **WATCHDOG, "PYTHONPATH": str(fleet.folder)})
    fleet.drop("1.json", "{}")
    wait_until(lambda: len(fleet.results()) == 1, "a result")
    text = str(fleet.results())
    assert "PYTHONPATH" in text
    assert "NOTIFY_SOCKET" not in text
    assert "WATCHDOG" not in text


def test_the_watchdog_of_another_process_is_not_ours(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    notify = Notify.from_environment(environ, Told())
    assert environ == {}
    for _ in range(5):
        notify.alive("works")
    assert manager.hear().count("WATCHDOG=1") == 1, "with the first word, and then once a minute"
    assert manager.said.count("STATUS=works") == 1


def test_without_systemd_nothing_is_sent() -> None:
    notify = Notify.from_environment({}, Told())
    notify.alive("works")
    notify.stopping()


def test_nobody_who_listens_is_no_trouble(tmp_path: Path) -> None:
    Notify(str(tmp_path / "nobody"), 1.0, Told()).alive("works")


class Told:
    """A clock that stands."""

    def now(self) -> float:
        return 1e9

    def monotonic(self) -> float:
        return 1000.0


# The journal


def test_the_journal_gets_priorities_and_fields(redis_server: Server) -> None:
    journal = Manager(redis_server.folder / "j")
    handler = JournalHandler("ingest", journal.address)
    log = logging.Logger("llm.ingest")
    log.addHandler(handler)
    log.error("Refused: %s", "two\nlines", extra={"document_id": "01M8", "code": None})
    log.debug("quiet")
    content = "\n".join(journal.hear())
    assert "PRIORITY=3" in content
    assert "DOCUMENT_ID=01M8" in content
    assert "CODE" not in content
    assert "two\nlines" in content
    assert "SYSLOG_IDENTIFIER=llm-ingest" in content
    assert "PRIORITY=7" in content
    journal.close()


def test_a_terminal_is_not_the_journal() -> None:
    script = (
        "import os; os.environ['JOURNAL_STREAM'] = '1:2'\n"
        "from llm_scheduler.jobs.process.logs import setup; from llm_scheduler.jobs.config.model import Logging\n"
        "setup(Logging(), 'x').error('words')"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr
    assert "ERROR   x: words" in said
