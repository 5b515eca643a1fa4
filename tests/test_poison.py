"""A document that kills, hangs or exhausts its worker is found out and told with the evidence; no other is hurt."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import KEYS, Fleet, account, mostly_slow, wait_until
from redis import Redis

from llm_scheduler.jobs.crash import CrashReport, crash_report, last_lines, verdict
from llm_scheduler.jobs.store import ledger

HANDLERS = """
import ctypes, itertools, os, re, signal, sys, time

def handle(document, context):
    kind = document["kind"]
    if isinstance(kind, int):
        return kind
    print("about to", kind, file=sys.stderr)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "abort":
        os.abort()
    if kind == "exit":
        os._exit(1)
    if kind == "leave":
        os._exit(0)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "loop":
        sum(itertools.repeat(1))
    if kind == "regex":
        re.match(r"(a+)+$", "a" * 40 + "b")
    if kind == "memory":
        hoard = bytearray()
        while True:
            hoard += bytes(1 << 20)
    if kind == "lock":
        ctypes.PyDLL(None).usleep(3_000_000)  # PyDLL: the interpreter lock is kept
    if kind == "shaky" and context.attempt == 2:
        raise OSError("once")
    if kind == "wait":
        path = f"begun.{context.attempt}"
        open(path, "w").close()
        time.sleep(600 if context.attempt == 1 else 0)
    return kind
"""

# The real daemons with shorter waits for what hangs, and, with "elsewhere", as seen from another machine.
IMPATIENT = """
import os, sys
from llm_scheduler.jobs.process import liveness
from llm_scheduler.jobs.scheduler import scheduler
from llm_scheduler.jobs.worker import reaper, worker
from llm_scheduler.jobs.worker.hang_guard import HangGuard
from llm_scheduler.jobs.worker.lease import Lease
from llm_scheduler.jobs.worker.pulse import Pulse
HangGuard.GRACE_SECONDS = 0.3
if "short" in os.environ.get("TEST_WORKER", ""):
    Pulse.BEAT_SECONDS, Lease.SECONDS, reaper.GRACE_SECONDS = 0.3, 1, 0.3
if "elsewhere" in os.environ.get("TEST_WORKER", "") and sys.argv[1] == "medium":
    liveness.here = lambda: "another machine"
if sys.argv[1] == "medium":
    worker.main()
else:
    del sys.argv[1]  # it has no name for itself
    scheduler.main()
"""


@pytest.fixture
def poisoned(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """A fleet whose handler does what the document says."""
    (fleet.folder / "my_handlers.py").write_text(HANDLERS)
    (fleet.folder / "impatient.py").write_text(IMPATIENT)
    monkeypatch.setenv("PYTHONPATH", str(fleet.folder))
    for name in ("medium", "scheduler"):
        monkeypatch.setitem(Fleet.MODULES, name, ("impatient", name))
    monkeypatch.setitem(Fleet.MODULES, "medium.2", ("impatient", "medium"))
    return fleet.configure(handlers={"default": "my_handlers:handle"})


# signal, exit status, code, and what the last lines say
POISONS = {
    "segfault": ("SIGSEGV", None, "worker_lost", "string_at"),
    "abort": ("SIGABRT", None, "worker_lost", "in handle"),
    "exit": (None, 1, "worker_lost", "about to exit"),
    "leave": (None, 0, "worker_lost", "about to leave"),
    "kill": ("SIGKILL", None, "worker_lost", "about to kill"),
    "loop": (None, 1, "timeout", "in handle"),
    "memory": (None, 83, "worker_lost", "MemoryError"),
}


@pytest.mark.parametrize("kind", mostly_slow(POISONS))
def test_one_poisonous_document_in_a_job_of_fifty(poisoned: Fleet, redis: Redis, kind: str) -> None:
    """Without a scheduler: the supervisor alone gives the work back."""
    poisoned.configure(
        processing={
            "mode": "batch",
            "batch_size": 50,
            "batch_timeout": 60,
            "worker_timeout": 0.3 if kind == "loop" else 30,
            "worker_memory": 192 * 1024 * 1024,
        }
    )
    contents = {f"{number}.json": b'{"kind": %d}' % number for number in range(49)}
    contents["poison.json"] = b'{"kind": "%s"}' % kind.encode()
    for name, content in contents.items():
        poisoned.drop(name, content)
    began = time.monotonic()
    poisoned.start("ingest", "collector", "medium")
    poisoned.wait_finished(50)
    print(f"{kind}: {time.monotonic() - began:.1f} s")
    account(poisoned, contents)
    assert {result["result"] for result in poisoned.results()} == set(range(49))
    log = poisoned.log("medium")
    assert "its 50 document(s) run again" in log, "all of them were in one job"
    assert len(re.findall("Worker .* died", log)) == 4, "once in company, then three times alone"

    name, status, code, words = POISONS[kind]
    [report] = poisoned.reports()
    assert (report["source"], report["code"]) == ("poison.json", code)
    assert re.search(r"3 workers (died|were ended) with this document in hand", report["message"])
    assert len(report["evidence"]) == 3
    for evidence in report["evidence"]:
        assert (evidence["signal"], evidence["exit_status"]) == (name, status)
        assert evidence["peak_memory_bytes"] > (150e6 if kind == "memory" else 10e6)
        assert any(words in line for line in evidence["last_lines"]), evidence["last_lines"]
    assert (name or words.removeprefix("about to ")) in report["message"]
    wait_until(lambda: poisoned.ledger_total("rejected") == 1, "the ledger's word")
    entry = ledger.get(redis, report["id"])
    assert entry is not None
    assert entry.message == report["message"][:500]
    assert (redis.zcard(KEYS.begun("medium")), redis.llen(KEYS.intermediate("medium"))) == (0, 0)
    assert poisoned.running["medium"].poll() is None, "its supervisor has lived through all of it"


@pytest.mark.slow
def test_a_lost_worker_costs_its_other_documents_none_of_their_retries(poisoned: Fleet) -> None:
    """The neighbour's worker dies, then its handler fails: that is one failure, and it may fail once."""
    poisoned.configure(
        processing={"mode": "batch", "batch_size": 2, "retry_attempts": 1, "retry_delay": 0.1, "settle_seconds": 0.3}
    )
    contents = {"shaky": b'{"kind": "shaky"}', "poison": b'{"kind": "exit"}'}
    for name, content in contents.items():
        poisoned.drop(f"{name}.json", content)
    poisoned.start("ingest", "collector", "scheduler", "medium")
    poisoned.wait_finished(2)
    account(poisoned, contents)
    assert [(each["result"], each["attempts"]) for each in poisoned.results()] == [("shaky", 3)]


def test_a_regular_expression_that_never_ends_costs_no_worker(poisoned: Fleet) -> None:
    poisoned.configure(processing={"worker_timeout": 0.5, "retry_attempts": 0})
    contents = {"regex": b'{"kind": "regex"}', "fine": b'{"kind": 1}'}
    for name, content in contents.items():
        poisoned.drop(f"{name}.json", content)
    poisoned.start("ingest", "collector", "medium")
    poisoned.wait_finished(2)
    account(poisoned, contents)
    [report] = poisoned.reports()
    assert (report["code"], "evidence" in report) == ("timeout", False)
    assert "died" not in poisoned.log("medium")


@pytest.mark.slow
def test_a_worker_that_holds_the_interpreter_lock_keeps_its_lease(
    poisoned: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seconds deep in C, with a lease of one second and a grace of a third: its supervisor speaks for it."""
    monkeypatch.setenv("TEST_WORKER", "short")
    poisoned.drop("lock.json", b'{"kind": "lock"}')
    poisoned.start("ingest", "collector", "scheduler", "medium")
    poisoned.wait_finished(1)
    assert [(result["attempts"], result["result"]) for result in poisoned.results()] == [(1, "lock")]
    assert "lost its worker" not in poisoned.log("scheduler")


# Deaths from outside


def worker_pid(redis: Redis) -> int | None:
    """The process that has the document in hand."""
    for key in redis.smembers(KEYS.workers_of("medium")):
        state, pid = redis.hmget(key.decode(), "state", "pid")  # type: ignore[union-attr]
        if state == b"busy" and pid:
            return int(pid)
    return None


def begun(poisoned: Fleet, attempt: int) -> Path | None:
    path = poisoned.folder / f"begun.{attempt}"
    return path if path.exists() else None


def in_hand(poisoned: Fleet, redis: Redis, *daemons: str) -> int:
    """The fleet with a document in the hands of `medium`; returns its worker's process id."""
    poisoned.drop("wait.json", b'{"kind": "wait"}')
    poisoned.start("ingest", "collector", "medium", *daemons)
    wait_until(lambda: begun(poisoned, 1), "the document in hand", 20)
    return int(wait_until(lambda: worker_pid(redis), "the worker's process id", 5))


def elsewhere(poisoned: Fleet, killed: float) -> float:
    """Seconds from the kill until the document was in hand again."""
    wait_until(lambda: begun(poisoned, 2), "the document in another's hand", 20)
    seconds = time.monotonic() - killed
    poisoned.wait_finished(1)
    account(poisoned, {"wait": b'{"kind": "wait"}'})
    return seconds


def test_a_killed_workers_document_is_in_hand_again_at_once(poisoned: Fleet, redis: Redis) -> None:
    os.kill(in_hand(poisoned, redis), signal.SIGKILL)
    seconds = elsewhere(poisoned, time.monotonic())
    print(f"from kill -9 of the worker: {seconds:.2f} s")
    assert seconds < 10


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("helped_by", ["its successor", "the reaper"])
def test_supervisor_and_worker_die_together(poisoned: Fleet, redis: Redis, helped_by: str) -> None:
    pid = in_hand(poisoned, redis, *(["scheduler"] if helped_by == "the reaper" else []))
    if helped_by == "the reaper":
        poisoned.start("medium.2")
        wait_until(lambda: redis.scard(KEYS.workers_of("medium")) == 2, "another worker")
    poisoned.kill("medium")
    killed = time.monotonic()
    wait_until(lambda: has_ended(pid), "the end of the worker, whose supervisor was killed", 5)
    gone = time.monotonic() - killed
    if helped_by == "its successor":
        poisoned.start("medium")
    seconds = elsewhere(poisoned, killed)
    print(
        f"from kill -9 of the supervisor: worker gone {gone:.2f} s, document in hand with {helped_by} {seconds:.2f} s"
    )
    assert seconds < 10


@pytest.mark.slow
def test_the_document_of_a_machine_that_is_gone(poisoned: Fleet, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can look at its processes: the lease runs out."""
    monkeypatch.setenv("TEST_WORKER", "elsewhere")
    in_hand(poisoned, redis)
    monkeypatch.setenv("TEST_WORKER", "")
    poisoned.start("scheduler", "medium.2")
    wait_until(lambda: redis.scard(KEYS.workers_of("medium")) == 2 and redis.exists(KEYS.scheduler_lock), "the others")
    poisoned.kill("medium")
    seconds = elsewhere(poisoned, time.monotonic())
    print(f"from the end of a machine: {seconds:.1f} s")
    assert 2 < seconds < 10


@pytest.mark.slow
def test_a_crash_while_redis_is_away_is_handed_back_when_it_is_there_again(poisoned: Fleet, redis: Redis) -> None:
    pid = in_hand(poisoned, redis)
    poisoned.server.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "died of SIGKILL" in poisoned.log("medium"), "the supervisor's word", 10)
    poisoned.server.start()
    wait_until(lambda: begun(poisoned, 2), "the document in hand again", 20)
    poisoned.wait_finished(1)
    account(poisoned, {"wait": b'{"kind": "wait"}'})


# Words


def evidence(code: int, said: bytes = b"", **changes: Any) -> CrashReport:
    return crash_report("w", "2026-11-23T00:00:00.000Z", code, 143_000_000, said)


def test_what_ends_mean() -> None:
    timeout = b'Timeout (0:05:10)!\nThread 0x1 (most recent call first):\n  File "a"\n'
    assert [
        (each.cause, each.signal, each.exit_status)
        for each in (
            evidence(-11),
            evidence(-63),
            evidence(1),
            evidence(1, timeout),
            evidence(2, timeout),
            evidence(83),
        )
    ] == [
        ("signal", "SIGSEGV", None),
        ("signal", "signal 63", None),
        ("exit", None, 1),
        ("hang", None, 1),
        ("exit", None, 2),
        ("memory", None, 83),
    ]


def test_the_verdict_tells_how_many_how_and_the_last_lines() -> None:
    code, message = verdict(3, [evidence(1), evidence(-11, b"one\n\xfftwo\n")])
    assert code == "worker_lost"
    assert message == (
        "3 workers died with this document in hand, one of them of SIGSEGV; peak memory 143 MB. "
        "Last lines: one | \ufffdtwo"
    )
    assert "the last with exit status 1" in verdict(1, [evidence(1)])[1]
    assert verdict(3, [])[0] == "worker_lost"


def test_the_last_lines_are_bounded_and_a_dump_is_kept_from_its_beginning() -> None:
    assert last_lines("\n".join(str(number) for number in range(100))) == [str(number) for number in range(80, 100)]
    assert sum(map(len, last_lines("x" * 399 + "\n" + ("y" * 1000 + "\n") * 50))) <= 4096
    frames = [f'  File "f.py", line {number} in f' for number in range(60)]
    dump = ["Fatal Python error: Aborted", "Current thread 0x1 (most recent call first):", *frames]
    kept = last_lines("\n".join([*"abcdefghij", *dump]))
    assert kept[:5] == ["i", "j", *dump[:3]]
    assert len(kept) == 42
