"""Handlers that tamper with their worker: it stops when asked, does the others' documents, and is no two workers."""

import time

import pytest
from conftest import KEYS, Fleet, account, mostly_slow, wait_until
from redis import Redis

HANDLERS = """
import multiprocessing, os, signal, sys, threading, time

def handle(document, context):
    kind = document["kind"]
    if kind == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "block":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    if kind == "thread":
        threading.Thread(target=time.sleep, args=(600,)).start()
    if kind == "pool":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2])  # the pool ends its processes with SIGTERM, and waits for them
    if kind == "own":
        def ended(signum, frame):
            os._exit(7)
        signal.signal(signal.SIGTERM, ended)
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if kind in ("fork", "fork and fail"):
        pid = os.fork()
        if pid == 0:
            if kind == "fork":
                return "a copy's result"
            raise OSError("a copy's failure")
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return kind
"""


@pytest.fixture
def rude(fleet: Fleet) -> Fleet:
    (fleet.folder / "my_handlers.py").write_text(HANDLERS)
    return fleet.configure(handlers={"default": "my_handlers:handle"})


def stop_in_time(fleet: Fleet) -> None:
    began = time.monotonic()
    assert fleet.stop("medium") == {"medium": 0}
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", mostly_slow(["ignore", "block", "thread"]))
def test_a_worker_stops_when_asked_whatever_its_handlers_have_done(rude: Fleet, redis: Redis, kind: str) -> None:
    rude.drop("a.json", b'{"kind": "%s"}' % kind.encode())
    rude.start("ingest", "collector", "medium")
    rude.wait_finished(1)
    stop_in_time(rude)
    assert redis.scard(KEYS.workers_of("medium")) == 0, "it has said goodbye"
    assert ("its process goes on" in rude.log("medium")) == (kind == "thread")
    assert "died" not in rude.log("medium")


@pytest.mark.parametrize(
    ("kind", "result"),
    mostly_slow([("pool", [1, 2]), ("own", 7), ("fork", 1), ("fork and fail", 1)]),
    ids=lambda value: str(value),
)
def test_what_a_handler_forks_is_no_worker(rude: Fleet, kind: str, result: object) -> None:
    rude.configure(processing={"worker_timeout": 20})
    content = b'{"kind": "%s"}' % kind.encode()
    rude.drop("a.json", content)
    rude.start("ingest", "collector", "medium")
    rude.wait_finished(1)
    account(rude, {"a": content})
    assert [(each["result"], each["attempts"]) for each in rude.results()] == [(result, 1)]
    assert ("came back from the handler" in rude.log("medium")) == kind.startswith("fork")
    stop_in_time(rude)


def test_a_handler_that_exits_when_imported_stops_no_other(fleet: Fleet) -> None:
    (fleet.folder / "a_script.py").write_text("import sys\nsys.exit('usage: a_script FILE')\n")
    fleet.configure(handlers={"default": "a_script:handle", "well": "llm_scheduler.jobs.summary:summarise"})
    fleet.drop("a.json", b"{}")
    fleet.start("ingest", "collector", "medium")
    fleet.wait_finished(1)
    [report] = fleet.reports()
    assert (report["code"], "SystemExit: usage: a_script FILE" in report["message"]) == ("handler_missing", True)
    assert "died" not in fleet.log("medium")
    stop_in_time(fleet)


@pytest.mark.slow
def test_a_worker_whose_import_never_ends_can_be_stopped(fleet: Fleet) -> None:
    (fleet.folder / "endless.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(600)\n")
    fleet.configure(handlers={"default": "endless:handle"})
    fleet.start("medium")
    wait_until((fleet.folder / "importing").exists, "the import")
    stop_in_time(fleet)
    assert "has not begun, and does not stop" in fleet.log("medium")
