"""Every single send: processes that talk to the server through a wire that is cut, or held up, at the k-th of them.

What is due happens once, whether the process is killed when the server has done it but not yet answered, whether only
the connection breaks, before the server has heard it or after it has done it, or whether the process sleeps through its
own replacement. (To be killed before the server has heard a send is to be killed after the one before.)
"""

import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from conftest import KEYS, Fleet, Server, files, wait_until
from msgspec.structs import replace
from redis import Redis

from llm_scheduler.ingest.spool import Claims, Folders
from llm_scheduler.ingest.spool.claims import Candidate, FileStamp
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import Payload, Route, Status, new_id
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.process.termination import Stop
from llm_scheduler.jobs.scheduler.scheduler import DocumentScheduler
from llm_scheduler.jobs.store import batches, ledger, outcomes, submission
from llm_scheduler.jobs.store.outcomes import Outcome
from llm_scheduler.jobs.store.rq_job import DocumentJob
from llm_scheduler.jobs.worker.reaper import Reaper

pytestmark = pytest.mark.slow

LEVELS = ["high", "medium", "low"]
LOCK = DocumentScheduler.scheduler_lock_key
KEPT = 2  # final documents that the ledger of the schedulers here keeps

GREETINGS = 3  # sends of the client library's own, at the beginning of a connection
RECONCILED = b"SET\r\n$9\r\nllm:epoch\r\n"  # what ingest sends when every claim has been looked at

# Forks a process in milliseconds that would take half a second to start. It has one thread, so that forking is safe.
NURSERY = """
import json, os, sys, traceback
from pathlib import Path
from llm_scheduler.ingest import collector as collector_daemon
from llm_scheduler.ingest import daemon as ingest_daemon
from llm_scheduler.jobs.scheduler import scheduler as scheduler_daemon
from llm_scheduler.jobs.worker import worker as worker_daemon
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import load
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.worker.pulse import Pulse
from llm_scheduler.jobs.process.logs import setup
from llm_scheduler.jobs.process.outage import Outage
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.process.termination import Stop

failed = Outage.failed
Outage.failed = lambda outage, error: failed(outage, error) / 20  # the server is not away

def scheduler(url, path):
    config = load(Path(path), {})
    log = setup(config.logging, "scheduler", None)
    scheduler_daemon.DocumentScheduler(Runtime(config, connect(url), SystemClock(), Stop(), log)).run(burst=True)

def ingest_(url, path):
    os.environ["LLM_REDIS_URL"] = url
    sys.argv = ["llm-ingest", "--config", path]
    ingest_daemon.main()

def collector(url, path):
    os.environ["LLM_REDIS_URL"] = url
    sys.argv = ["llm-collector", "--config", path]
    collector_daemon.main()

def worker(url, path):
    os.environ["LLM_REDIS_URL"] = url
    worker_daemon.run_worker("w", "medium", load(Path(path), {}), Pulse())

RUN = {"scheduler": scheduler, "ingest": ingest_, "collector": collector, "worker": worker}

for line in sys.stdin:
    wanted = json.loads(line)
    if "wait" in wanted:
        print(os.waitpid(wanted["wait"], 0)[1], flush=True)
        continue
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    try:
        os.close(0)
        RUN[wanted["run"]](wanted["url"], wanted["config"])
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""


class Nursery:
    """Forks processes and waits for them."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", NURSERY],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=log.parent,
                text=True,
            )

    def _ask(self, **wanted: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, what: str, url: str, config: Path) -> int:
        """The process id of a new process: ingest, a collector, a worker of medium, or a scheduler for one round."""
        return self._ask(run=what, url=url, config=str(config))

    def wait(self, pid: int) -> int:
        """The wait status of a process that has ended: 0, or 9 for one that was killed."""
        status = self._ask(wait=pid)
        assert status in (0, signal.SIGKILL), self._log.read_text()[-3000:]
        return status

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Wire:
    """Passes on what a process and the server say, until the process's `send`-th send. Then, as `way` says:

    - `kill after`: it is killed once the server has done it and begun to answer;
    - `break after`: the same, but only the connection breaks;
    - `break before`: so it does, and the server never hears of that send;
    - `hold`: the send is held up until `release`.
    """

    def __init__(self, server: Server, send: int, way: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="llm-"))
        self._server = server
        self._send = send
        self._way = way
        self._lock = threading.Lock()
        self._victim = threading.Event()
        self._released = threading.Event()
        self._servers: list[socket.socket] = []
        self.sends = 0
        self.cut = self.since = b""  # what was to be sent when the wire was cut, and what has been sent from then on
        self.reached = threading.Event()
        self.url = f"unix://{self._folder / 'w'}?db=0"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._folder / "w"))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def set_victim(self, pid: int) -> None:
        self._pid = pid
        self._victim.set()

    def is_quiet(self) -> bool:
        """Whether nothing is sent for a while."""
        before = self.sends
        time.sleep(0.2)
        return self.sends == before

    def release(self) -> None:
        self._released.set()

    def close(self) -> None:
        self._released.set()
        for each in (self._listener, *self._servers):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()
        shutil.rmtree(self._folder)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._pass_on, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(str(self._server.socket))
            self._servers.append(server)
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if server in ready:
                    said = server.recv(1 << 20)
                    if not said:
                        return
                    client.sendall(said)
                if client in ready:
                    said = client.recv(1 << 20)
                    if not said or not self._forward(said, server):
                        return

    def _forward(self, said: bytes, server: socket.socket) -> bool:
        """Whether the connection goes on."""
        with self._lock:
            self.sends += 1
            here = self.sends == self._send
            if self.reached.is_set():
                self.since += said
        if here and self._way == "hold":
            self.reached.set()
            self._released.wait()
        elif here:
            self.cut = said
            if self._way.endswith("after"):
                server.sendall(said)
                if not server.recv(1):
                    return False
            if self._way.startswith("kill"):
                self._victim.wait()
                os.kill(self._pid, signal.SIGKILL)
            self.reached.set()
            return False
        server.sendall(said)
        return True


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path / "nursery.log")
    yield nursery
    nursery.close()


def payload(queue: str, at: float) -> Payload:
    route = Route(priority=queue, queue=queue, handler="default", reasons=[])
    return Payload(new_id(at), "c", "a.json", at, at, route, b"1")


class Scene:
    """All that a scheduler may find: batches due, not due and without a schedule; retries due and not; old entries."""

    def __init__(self, redis: Redis, config: Config) -> None:
        self.redis = redis
        self.config = config
        now = time.time()
        redis.flushall()
        self.full = self._join("low", 7, now - 100)
        self.early = self._join("medium", 1, now)
        self.lost = self._join("high", 1, now - 100)
        redis.zrem(KEYS.schedule, "flush-high")
        self.due = [self._retry(now - 1) for _ in range(3)]
        self.later = [self._retry(now + 3600)]
        redis.zadd(KEYS.schedule, {"gone": now - 5})
        done = [payload("low", now - 500 + number) for number in range(5)]
        submission.record(redis, Status.DONE, now, done, [1] * 5)  # type: ignore[arg-type]
        self.kept = sorted(each.id for each in done)[-KEPT:]
        self.everyone = self.full + self.early + self.lost + self.due + self.later

    def _join(self, queue: str, count: int, at: float) -> list[str]:
        payloads = [payload(queue, at) for _ in range(count)]
        with self.redis.pipeline() as pipeline:
            submission.record(pipeline, Status.BATCHED, at, payloads, [1] * count)
            batches.add(pipeline, queue, payloads, self.config.processing, at)
            pipeline.execute()
        return [each.id for each in payloads]

    def _retry(self, at: float) -> str:
        one = payload("high", at)
        job_id = f"{one.id}-r1"
        with self.redis.pipeline() as pipeline:
            submission.record(pipeline, Status.RETRYING, at, [one], [1], job_id)
            submission.enqueue_at(pipeline, self.redis, job_id, one, at)
            pipeline.execute()
        return one.id

    def scheduler(self) -> DocumentScheduler:
        """Another scheduler, at which no wire is cut."""
        return DocumentScheduler(Runtime(self.config, self.redis, SystemClock(), Stop(), logging.getLogger("test")))

    def replaced(self) -> DocumentScheduler:
        """The lock has run out, and another scheduler has taken over and done all that is due."""
        self.redis.delete(LOCK)
        other = self.scheduler()
        assert other.acquire_lock()
        other.tick()
        other.tick()
        return other

    def jobs(self) -> list[DocumentJob]:
        names = [name.decode() for queue in LEVELS for name in self.redis.lrange(KEYS.queue(queue), 0, -1)]
        assert len(names) == len(set(names)), "a job is on its queue twice"
        return [DocumentJob.fetch(name, connection=self.redis) for name in names]

    def places(self) -> Counter[str]:
        """In how many places of Redis each document is."""
        found = Counter(one.id for job in self.jobs() for one in job.payloads)
        for queue in LEVELS:
            found.update(raw[:26].decode() for raw in self.redis.lrange(KEYS.batch(queue), 0, -1))
        for member in self.redis.zrange(KEYS.schedule, 0, -1):
            if self.redis.exists(KEYS.job(member.decode())) and b"flush" not in member:
                found.update(one.id for one in DocumentJob.fetch(member.decode(), connection=self.redis).payloads)
        return found

    def statuses(self, ids: list[str]) -> set[str | None]:
        return {status for status, _ in ledger.known(self.redis, ids)}

    def check_once(self) -> None:
        """At whatever moment: each document in one place, and in one set of the ledger."""
        assert self.places() == Counter(self.everyone)
        listed: Counter[str] = Counter()
        for status in ("batched", "queued", "retrying"):
            for level in LEVELS:
                members = [member.decode() for member in self.redis.zrange(KEYS.status_set(status, level), 0, -1)]
                assert self.statuses(members) <= {status}
                listed.update(members)
        assert listed == Counter(self.everyone)

    def check_end(self) -> None:
        """All that was due is on its queue, once; all that wasn't waits, and is scheduled; the rest is in order."""
        self.check_once()
        carried = [[one.id for one in job.payloads] for job in self.jobs()]
        assert sorted(map(len, carried)) == [1] * 5 + [3, 3]
        assert sorted(chain(*carried)) == sorted(self.full + self.lost + self.due)
        assert [each for each in chain(*carried) if each in self.full] == self.full, "in the order of arrival"
        for job in self.jobs():
            assert ledger.known(self.redis, [job.payloads[0].id]) == [("queued", job.id)]
        assert self.redis.zrange(KEYS.schedule, 0, -1) == [b"flush-medium", f"{self.later[0]}-r1".encode()]
        assert [self.redis.exists(KEYS.job(f"flush-{queue}")) for queue in LEVELS] == [1, 1, 1]
        kept = [member.decode() for member in self.redis.zrange(KEYS.status_set("done", "low"), 0, -1)]
        assert kept == self.kept
        records = {key.decode().removeprefix(KEYS.record("")) for key in self.redis.keys(KEYS.record("*"))}
        assert records == {*self.everyone, *kept}


@pytest.fixture
def config(fleet: Fleet) -> Config:
    return fleet.configure(
        processing={"mode": "batch", "batch_size": 3, "batch_timeout": 30},
        monitoring={"ledger_documents": KEPT},
        logging={"level": "error"},
    ).config()


@pytest.mark.parametrize("way", ["kill after", "break before", "break after"])
def test_no_schedule_is_lost_or_doubled_at_any_send_of_the_schedulers(
    way: str, redis_server: Server, redis: Redis, fleet: Fleet, config: Config, nursery: Nursery
) -> None:
    for send in range(GREETINGS + 1, 500):
        scene = Scene(redis, config)
        wire = Wire(redis_server, send, way)
        try:
            pid = nursery.start("scheduler", wire.url, fleet.config_path)
            wire.set_victim(pid)
            status = nursery.wait(pid)
        finally:
            wire.close()
        assert status == (signal.SIGKILL if way.startswith("kill") and wire.reached.is_set() else 0)
        scene.check_once()
        if not wire.reached.is_set():
            break
        scene.replaced()
        scene.check_end()
    assert send > 20, "the scheduler has had its full round"
    scene.replaced()
    scene.check_end()


def test_a_scheduler_that_sleeps_at_any_send_through_its_replacement_does_no_harm(
    redis_server: Server, redis: Redis, fleet: Fleet, config: Config, nursery: Nursery
) -> None:
    for send in range(GREETINGS + 1, 500):
        scene = Scene(redis, config)
        wire = Wire(redis_server, send, "hold")
        try:
            pid = nursery.start("scheduler", wire.url, fleet.config_path)
            while not wire.reached.wait(0.005):
                if not Path(f"/proc/{pid}").exists() or _has_ended(pid):
                    break
            held = wire.reached.is_set()
            if held:
                other = scene.replaced()
                scene.check_end()
                ids = _work(scene)
                again = _fails_again(scene, ids[0])
            wire.release()
            nursery.wait(pid)
        finally:
            wire.close()
        if not held:
            break
        assert redis.get(LOCK) == other.name.encode(), "a lock is given up by its owner only"
        other.tick()
        assert scene.jobs() == [], "what was done before is not done again"
        assert scene.statuses(ids[1:]) == {"started"}
        assert scene.statuses([again]) == {"retrying"}
        assert redis.zcard(KEYS.schedule) == 3
        assert scene.places() == Counter([*scene.early, *scene.later, again])
    assert send > 20


def _outcomes(fields: dict[bytes, bytes]) -> list[Outcome]:
    return outcomes.decode(fields[outcomes.FIELD.encode()])


def _has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _work(scene: Scene) -> list[str]:
    """Workers take every job and begin it. Returns the documents, retried ones first."""
    ids = []
    for job in scene.jobs():
        scene.redis.lrem(KEYS.queue(job.origin), 0, job.id)
        scene.redis.delete(job.key)
        ids += [one.id for one in job.payloads]
    ledger.move(scene.redis, Status.STARTED, time.time(), [(each, {}) for each in ids])
    return sorted(ids, key=lambda each: each not in scene.due)


def _fails_again(scene: Scene, document_id: str) -> str:
    """A document that was retried fails and is to be tried once more, later."""
    one = payload("high", time.time())
    again = Payload(document_id, *[getattr(one, name) for name in one.__struct_fields__[1:]])
    job_id = f"{document_id}-r2"
    with scene.redis.pipeline() as pipeline:
        submission.enqueue_at(pipeline, scene.redis, job_id, again, time.time() + 3600)
        ledger.move(pipeline, Status.RETRYING, time.time(), [(document_id, {"rq_job_id": job_id})])
        pipeline.execute()
    return document_id


# Ingest


class Arrivals:
    """One waits in a batch of medium, five more come, and two make a batch. One of high comes, and one is too large."""

    def __init__(self, fleet: Fleet, redis: Redis) -> None:
        self._redis = redis
        fleet.configure(
            processing={"mode": "hybrid", "batch_size": 2, "batch_timeout": 3600, "max_document_bytes": 100},
            logging={"level": "error"},
        )
        self.config = fleet.config()
        redis.flushall()
        for folder in (fleet.raw, fleet.temp):
            shutil.rmtree(folder, ignore_errors=True)
        for number in range(5):
            fleet.drop(f"{number}.json", b'{"n": %d}' % number)
        fleet.drop("urgent.json", b'{"metadata": {"priority": "high"}}')
        fleet.drop("large.json", b'"%s"' % (b"large" * 50))
        waiting = payload("medium", time.time())
        with redis.pipeline() as pipeline:
            submission.record(pipeline, Status.BATCHED, time.time(), [waiting], [1])
            batches.add(pipeline, "medium", [waiting], self.config.processing, time.time())
            pipeline.execute()

    def are_placed(self) -> bool:
        sets = [f"batched:{level}" for level in LEVELS] + [f"queued:{level}" for level in LEVELS] + ["received:medium"]
        with self._redis.pipeline() as pipeline:  # at one moment: a flush moves documents from one set to another
            for each in sets:
                pipeline.zcard(KEYS.status_set(*each.split(":")))
            return sum(pipeline.execute()) == 8

    def check(self) -> None:
        """Three full batches, a job for the urgent one, and one outcome for the refused one."""
        DocumentScheduler(Runtime(self.config, self._redis, SystemClock(), Stop(), logging.getLogger("test"))).tick()
        assert not self._redis.exists(KEYS.batch("medium"))
        assert self._redis.zscore(KEYS.schedule, "flush-medium") is None
        carried = {}
        for queue in LEVELS:
            names = [name.decode() for name in self._redis.lrange(KEYS.queue(queue), 0, -1)]
            assert len(names) == len(set(names)), "a job is on its queue twice"
            jobs = [DocumentJob.fetch(name, connection=self._redis) for name in names]
            carried[queue] = [[one.id for one in job.payloads] for job in jobs]
        sizes = {queue: list(map(len, jobs)) for queue, jobs in carried.items()}
        assert sizes == {"high": [1], "medium": [2, 2, 2], "low": []}, "a full batch does not wait for the timer"
        assert len({*chain(*carried["medium"])}) == 6, "a document is in its batch twice"
        refused = [each for _, fields in self._redis.xrange(KEYS.outcomes("medium")) for each in _outcomes(fields)]
        assert [each.code for each in refused] == ["too_large"]


@pytest.mark.parametrize("way", ["kill after", "break before", "break after"])
def test_documents_are_submitted_and_batches_flushed_once_at_any_send_of_ingest(
    way: str, redis_server: Server, redis: Redis, fleet: Fleet, nursery: Nursery
) -> None:
    for send in range(GREETINGS + 1, 500):
        arrivals = Arrivals(fleet, redis)
        wire = Wire(redis_server, send, way)
        try:
            pid = nursery.start("ingest", wire.url, fleet.config_path)
            wire.set_victim(pid)
            wait_until(
                lambda wire=wire, arrivals=arrivals: wire.reached.is_set() or arrivals.are_placed(),
                "the cut or the end",
            )
            cut = wire.reached.wait(0.1)
            if cut and way.startswith("break"):
                wait_until(lambda wire=wire: RECONCILED in wire.since, "that it has looked what the server knows")
                wait_until(arrivals.are_placed, "every document submitted")
            if not (cut and way.startswith("kill")):
                os.kill(pid, signal.SIGKILL)
            nursery.wait(pid)
        finally:
            wire.close()
        if cut and way.startswith("kill"):
            redis.delete(KEYS.epoch)
            pid = nursery.start("ingest", redis_server.url, fleet.config_path)
            wait_until(lambda arrivals=arrivals: redis.exists(KEYS.epoch) and arrivals.are_placed(), "every document")
            os.kill(pid, signal.SIGKILL)
            nursery.wait(pid)
        arrivals.check()
        if not cut:
            break
    assert send > 8


# Workers


class Work:
    """A job of four documents: one is done, one fails and is to be tried again, at the next the worker is told to stop
    (and finishes it), and one is left."""

    HANDLER = """
import os, signal

def handle(document, context):
    if document == "again":
        raise RuntimeError("not yet")
    if document == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    return document
"""
    BODIES = (b'"first"', b'"again"', b'"stop"', b'"left"')

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        redis.flushall()
        now = time.time()
        payloads = [payload("medium", now) for _ in self.BODIES]
        payloads = [replace(each, body=body) for each, body in zip(payloads, self.BODIES, strict=True)]
        self.ids = [each.id for each in payloads]
        with redis.pipeline() as pipeline:
            submission.enqueue(pipeline, redis, "work", "medium", payloads)
            submission.record(pipeline, Status.QUEUED, now, payloads, [1] * 4, "work")
            pipeline.execute()

    def give_back(self, wire: Wire, pid: int) -> None:
        """If the worker was not told what it got from its queue, and waits for more: the reaper puts it back."""
        wait_until(lambda: b"BLMOVE" in wire.since or _has_ended(pid), "a worker that waits again, or its end")
        if _has_ended(pid):
            return
        clock = Later()
        reaper = Reaper(self._redis, ["medium"], clock, logging.getLogger("test"))
        reaper.reap()
        clock.seconds += 10
        assert reaper.reap() == 1

    def check(self) -> None:
        told = [each.id for _, fields in self._redis.xrange(KEYS.outcomes("medium")) for each in _outcomes(fields)]
        assert told == [self.ids[0], self.ids[2]]
        assert self._redis.zrange(KEYS.schedule, 0, -1) == [f"{self.ids[1]}-r1".encode()]
        assert self._redis.lrange(KEYS.queue("medium"), 0, -1) == [b"work-rest"]
        for name, document in ((f"{self.ids[1]}-r1", self.ids[1]), ("work-rest", self.ids[3])):
            assert [one.id for one in DocumentJob.fetch(name, connection=self._redis).payloads] == [document]
        places = ledger.known(self._redis, self.ids)
        assert places[1::2] == [("retrying", f"{self.ids[1]}-r1"), ("queued", "work-rest")]
        leftovers = [
            KEYS.job("work"),
            KEYS.begun("medium"),
            KEYS.execution("*", "*"),
            KEYS.executions("*"),
            KEYS.intermediate("medium"),
        ]
        assert [key for pattern in leftovers for key in self._redis.keys(pattern)] == []
        assert self._redis.hget(KEYS.worker("w"), "successful_job_count") in (None, b"1")


class Later(SystemClock):
    """A clock that can be put forward."""

    seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.seconds


@pytest.mark.parametrize("way", ["break before", "break after"])
def test_a_job_is_begun_and_ended_once_at_any_send_of_a_worker(
    way: str, redis_server: Server, redis: Redis, fleet: Fleet, nursery: Nursery, tmp_path: Path
) -> None:
    (tmp_path / "my_handlers.py").write_text(Work.HANDLER)
    fleet.configure(
        processing={"retry_delay": 3600},
        handlers={"default": "my_handlers:handle"},
        logging={"level": "error"},
    ).config()
    for send in range(GREETINGS + 1, 500):
        work = Work(redis)
        wire = Wire(redis_server, send, way)
        try:
            pid = nursery.start("worker", wire.url, fleet.config_path)
            wait_until(lambda pid=pid, wire=wire: wire.reached.is_set() or _has_ended(pid), "the cut, or the end")
            cut = wire.reached.is_set()
            if b"HGETALL" in wire.cut or (way == "break after" and b"BLMOVE" in wire.cut):
                work.give_back(wire, pid)
            wait_until(lambda pid=pid: _has_ended(pid), "the worker's end", every=0.005)
            nursery.wait(pid)
        finally:
            wire.close()
        work.check()
        if not cut:
            break
    assert send > 12


# The collector


class Ends:
    """Three documents have been worked on: two in one job, one of them in vain, and an urgent one."""

    def __init__(self, fleet: Fleet, redis: Redis) -> None:
        self._fleet = fleet
        self._redis = redis
        redis.flushall()
        for folder in (fleet.raw, fleet.temp, fleet.processed, fleet.archive, fleet.errors):
            shutil.rmtree(folder, ignore_errors=True)
        folders = Folders.of(fleet.config().directories)
        folders.prepare()
        now = time.time()
        found = []
        for name in ("done.json", "bad.json", "urgent.json"):
            path = fleet.drop(name, b"1")
            found.append(Candidate(str(fleet.raw), name, new_id(now), FileStamp.of(path.stat()), now))
        group, claims = Claims(folders.temp).take(found, now)
        payloads = [
            replace(payload("high" if each.source == "urgent.json" else "medium", now), id=each.id, group=group)
            for each in claims
        ]
        self.ids = [each.id for each in payloads]
        ended = [
            Outcome(
                kind="rejected" if each.source == "bad.json" else "done",
                code="handler_rejected" if each.source == "bad.json" else "",
                id=each.id,
                group=group,
                attempts=1,
                completed_at=now,
                route=one.route,
                result=b"1",
            )
            for each, one in zip(claims, payloads, strict=True)
        ]
        submission.record(redis, Status.STARTED, now, payloads, [1] * 3)  # type: ignore[arg-type]
        for part in (ended[:2], ended[2:]):
            redis.xadd(KEYS.outcomes(part[0].route.queue), {outcomes.FIELD: outcomes.encode(part)})

    def are_told(self) -> bool:
        streams = [KEYS.outcomes(level) for level in LEVELS]
        return self.statuses() == ["done", "rejected", "done"] and not any(map(self._redis.xlen, streams))

    def statuses(self) -> list[str | None]:
        return [status for status, _ in ledger.known(self._redis, self.ids)]

    def check(self) -> None:
        assert len(files(self._fleet.processed)) == 2
        assert sorted(path.name for path in files(self._fleet.archive)) == ["done.json", "urgent.json"]
        assert sorted(path.name for path in files(self._fleet.errors)) == ["bad.json", "bad.json.error.json"]
        assert self._fleet.in_flight() == []
        assert self.are_told()
        assert [self._redis.zcard(KEYS.status_set(*each.split(":"))) for each in ("done:medium", "done:high")] == [1, 1]
        assert int(self._redis.get(KEYS.in_flight_bytes) or 0) == 0


@pytest.mark.parametrize("way", ["break before", "break after"])
def test_documents_end_once_at_any_send_of_the_collector(
    way: str, redis_server: Server, redis: Redis, fleet: Fleet, nursery: Nursery
) -> None:
    fleet.configure(logging={"level": "error"})
    for send in range(GREETINGS + 1, 500):
        ends = Ends(fleet, redis)
        wire = Wire(redis_server, send, way)
        try:
            pid = nursery.start("collector", wire.url, fleet.config_path)
            wait_until(ends.are_told, "the end of every document")
            cut = wire.reached.is_set()
            os.kill(pid, signal.SIGTERM)
            nursery.wait(pid)
        finally:
            wire.close()
        ends.check()
        if not cut:
            break
    assert send > 8
