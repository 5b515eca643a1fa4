"""The scheduler: what is due happens once, whoever is killed, doubled, flushed away or not readable."""

import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta

import pytest
from conftest import KEYS, Fleet, Server, account, wait_until
from msgspec.structs import replace
from redis import Redis

from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import Config, Processing
from llm_scheduler.jobs.config.model import Monitoring
from llm_scheduler.jobs.document import Payload, Route, Status, new_id
from llm_scheduler.jobs.process import liveness
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.process.termination import Stop
from llm_scheduler.jobs.scheduler.scheduler import DocumentScheduler
from llm_scheduler.jobs.store import batches, ledger, submission
from llm_scheduler.jobs.store.rq_job import DocumentJob

LOCK = DocumentScheduler.scheduler_lock_key


class HandClock:
    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def payload() -> Payload:
    return Payload(
        new_id(1.0), "c", "a.json", 1.0, 1.0, Route(priority="low", queue="low", handler="h", reasons=[]), b"1"
    )


def schedule(redis: Redis, at: float) -> str:
    one = payload()
    job_id = f"{one.id}-r1"
    with redis.pipeline() as pipeline:
        submission.enqueue_at(pipeline, redis, job_id, one, at)
        pipeline.execute()
    return job_id


def scheduler(
    redis: Redis, clock: HandClock, name: str = "one", monitoring: Monitoring | None = None
) -> DocumentScheduler:
    config = Config(monitoring=monitoring or Monitoring())
    made = DocumentScheduler(Runtime(config, redis, clock, Stop(), logging.getLogger("test")))
    made.name = name
    return made


def queue(redis: Redis) -> list[str]:
    return [name.decode() for name in redis.lrange(KEYS.queue("low"), 0, -1)]


def test_a_retry_is_delivered_once_and_not_early(redis: Redis) -> None:
    clock = HandClock(1000)
    job_id = schedule(redis, 1005)
    one, other = scheduler(redis, clock), scheduler(redis, clock, "other")
    one.enqueue_jobs()
    assert queue(redis) == []
    clock.at = 1005
    for each in (one, other, one):
        each.enqueue_jobs()
    assert queue(redis) == [job_id]
    assert redis.zcard(KEYS.schedule) == 0
    assert redis.hget(KEYS.job(job_id), "status") == b"queued"


def test_a_delivery_brings_no_cancelled_document_back(redis: Redis) -> None:
    job_id = schedule(redis, 1000)
    one = job_id[:26]
    ledger.move(redis, Status.CANCELLED, 999, [(one, {"priority": "low"})])
    scheduler(redis, HandClock(1000)).enqueue_jobs()
    assert ledger.known(redis, [one])[0][0] == "cancelled"
    other = schedule(redis, 1000)
    ledger.move(redis, Status.RETRYING, 999, [(other[:26], {"priority": "low"})])
    scheduler(redis, HandClock(1000)).enqueue_jobs()
    assert ledger.known(redis, [other[:26]]) == [("queued", other)]
    assert ledger.counts(redis, ["low"])["retrying"]["low"] == 0
    entry = ledger.get(redis, other[:26])
    assert entry is not None
    assert entry.times["queued"] == 1000


def test_what_cannot_be_read_stops_nothing_else(redis: Redis) -> None:
    clock = HandClock(1000)
    redis.hset(KEYS.job("pickled"), mapping={"data": b"x", "d0": pickle.dumps("x"), "created_at": "2026"})
    redis.set(KEYS.job("string"), "x")
    redis.zadd(KEYS.schedule, {"pickled": 1, "string": 2, "gone": 3, b"\xff\xfe": 4, "negative": -5})
    job_id = schedule(redis, 999)
    scheduler(redis, clock).enqueue_jobs()
    assert queue(redis) == [job_id]
    left = dict(redis.zrange(KEYS.schedule, 0, -1, withscores=True))
    assert left == {b"pickled": 1060, b"string": 1060, b"\xff\xfe": 1060}, "put off, and what is gone is forgotten"


def test_the_lock_has_one_owner_until_it_runs_out(redis: Redis) -> None:
    one, other = scheduler(redis, HandClock(1000)), scheduler(redis, HandClock(1000), "other")
    assert one.acquire_lock()
    assert one.acquire_lock(), "renewed"
    assert not other.acquire_lock()
    other.remove_lock()
    assert not other.acquire_lock(), "nobody gives up another's lock"
    redis.pexpire(one.scheduler_lock_key, 1)
    wait_until(other.acquire_lock, "the lock to be taken over", 5)
    assert not one.acquire_lock()


def ended_process() -> str:
    """A process of this machine that has lived, as the lock says it."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = liveness.identity(process.pid)
    process.communicate(b"\n")
    return known


def test_only_who_is_known_to_be_dead_loses_the_lock_before_its_time(redis: Redis) -> None:
    one = scheduler(redis, HandClock(1000))
    here, known, gone = liveness.here(), liveness.identity(os.getpid()), ended_process()
    for holder in ("somebody", f"other {here} {known}", f"other elsewhere/1 {gone}", f"other {here} ", f"other {here}"):
        redis.set(LOCK, holder, px=60_000)
        assert not one.acquire_lock(), f"{holder} may live"
    for holder in (f"other {here} {gone}", f"other {here} {os.getpid()}:1"):  # an id may be given out again
        redis.set(LOCK, holder, px=60_000)
        assert one.acquire_lock(), f"{holder} is dead"
        assert redis.get(LOCK) == b"one"


def test_of_two_who_see_that_the_holder_is_dead_one_takes_the_lock(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = scheduler(redis, HandClock(1000)), scheduler(redis, HandClock(1000), "other")
    redis.set(LOCK, f"dead {liveness.here()} {ended_process()}", px=60_000)
    is_gone = liveness.is_gone

    def overtaken(place: str, processes: str) -> bool:
        monkeypatch.setattr("llm_scheduler.jobs.process.liveness.is_gone", is_gone)
        assert one.acquire_lock()
        return is_gone(place, processes)

    monkeypatch.setattr("llm_scheduler.jobs.process.liveness.is_gone", overtaken)
    assert not other.acquire_lock()
    assert redis.get(LOCK) == b"one"


def test_a_lost_schedule_of_a_batch_is_put_back(redis: Redis) -> None:
    with redis.pipeline() as pipeline:
        batches.add(pipeline, "low", [payload()], Processing(batch_timeout=30), 1000)
        pipeline.execute()
    redis.delete(KEYS.schedule)
    clock = HandClock(1000.1)
    one = scheduler(redis, clock)
    one.tick()
    one.tick()
    assert redis.zscore(KEYS.schedule, "flush-low") == pytest.approx(1000.2)
    clock.at = 1400
    one.tick()
    assert len(queue(redis)) == 1


def test_a_shorter_batch_timeout_holds_for_a_batch_that_waits_already(redis: Redis) -> None:
    with redis.pipeline() as pipeline:
        batches.add(pipeline, "low", [payload()], Processing(batch_timeout=3600), 1000)
        pipeline.execute()
    assert redis.zscore(KEYS.schedule, "flush-low") == 4600
    one = scheduler(redis, HandClock(1100))  # started anew, with the default: two seconds of idleness
    one.tick()
    one.tick()
    assert len(queue(redis)) == 1


def test_a_batch_that_breaks_the_script_stops_nothing_else(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    redis.rpush(KEYS.batch("high"), "x", "y")
    redis.hset(KEYS.batch_times("high"), "first", "never")
    redis.set(KEYS.batch("medium"), "not a list")
    redis.zadd(KEYS.schedule, {"flush-high": 1, "flush-medium": 1})
    job_id = schedule(redis, 999)
    clock = HandClock(1000)
    one = scheduler(redis, clock)
    for _ in range(10):
        one.tick()
        clock.at += 0.5
    assert queue(redis) == [job_id]
    failures = [record.getMessage() for record in caplog.records if "failed" in record.getMessage()]
    assert len(failures) == len(set(failures)) <= 3, f"each is told once: {failures}"
    assert any("the flush of medium" in failure for failure in failures)


def test_a_flush_does_not_wait_behind_a_thousand_jobs(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the lock is renewed between two loads of them."""
    monkeypatch.setattr("llm_scheduler.jobs.scheduler.delivery.MAX_JOBS", 20)
    clock = HandClock(5000)
    for number in range(50):
        schedule(redis, 1000 + number)
    with redis.pipeline() as pipeline:
        batches.add(pipeline, "high", [payload()], Processing(batch_timeout=30), 4000)
        pipeline.execute()
    one = scheduler(redis, clock)
    assert [one.tick() for _ in range(3)] == [True, True, False]
    assert (len(queue(redis)), redis.llen(KEYS.queue("high"))) == (50, 1)
    schedule(redis, 1)
    with redis.pipeline() as pipeline:
        batches.add(pipeline, "high", [payload()], Processing(batch_timeout=30), 4000)
        pipeline.execute()
    monkeypatch.setattr("llm_scheduler.jobs.scheduler.delivery.MAX_JOBS", 0)
    one.tick()
    assert redis.llen(KEYS.queue("high")) == 2, "the flush comes first"


def test_batch_timeout_holds_within_a_second(fleet: Fleet, redis: Redis) -> None:
    config = fleet.configure(processing={"batch_timeout": 1.5}).config()
    fleet.start("scheduler")
    wait_until(lambda: redis.exists(LOCK), "a scheduler at work")
    began = time.time()
    with redis.pipeline() as pipeline:
        batches.add(pipeline, "low", [payload()], config.processing, began)
        pipeline.execute()
    wait_until(lambda: queue(redis), "the flush", 20)
    assert 1.5 <= time.time() - began < 2.5


@pytest.mark.slow
def test_no_schedule_is_lost_or_done_twice_under_kill_9(fleet: Fleet, redis: Redis) -> None:
    chance = random.Random(7)
    now = time.time()
    jobs = [schedule(redis, now + number * 0.01) for number in range(300)]
    for _ in range(4):
        fleet.start("scheduler")
        before = len(queue(redis))
        wait_until(lambda before=before: len(queue(redis)) > before or len(queue(redis)) == 300, "progress", 20)
        time.sleep(chance.random() * 0.3)  # where it is killed is left to chance
        fleet.kill("scheduler")
    fleet.start("scheduler")
    wait_until(lambda: len(queue(redis)) >= 300, "every job on its queue", 20)
    assert sorted(queue(redis)) == sorted(jobs)


def with_lock(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let schedulers have a lock that runs out after `seconds`."""
    (fleet.folder / "with_lock.py").write_text(
        f"from llm_scheduler.jobs.scheduler import scheduler\nscheduler.LOCK_SECONDS = {seconds}\nscheduler.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(fleet.folder))
    monkeypatch.setitem(Fleet.MODULES, "scheduler", ("with_lock",))


def test_another_scheduler_takes_over_from_a_killed_one(
    fleet: Fleet, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, since it can see that the holder is dead: the lock's time is far from over."""
    with_lock(fleet, monkeypatch, 600)
    fleet.start("scheduler")
    first = wait_until(lambda: redis.get(LOCK), "a holder of the lock")
    killed = fleet.running.pop("scheduler")
    fleet.start("scheduler")
    wait_until(lambda: "stands by" in fleet.log("scheduler"), "the second to stand by")
    assert redis.get(LOCK) == first
    killed.kill()
    killed.wait()
    schedule(redis, time.time())
    wait_until(lambda: queue(redis), "the second to take over", 15)
    assert len(queue(redis)) == 1


def test_the_successor_of_a_killed_scheduler_begins_at_once(
    fleet: Fleet, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_lock(fleet, monkeypatch, 600)
    processing = fleet.configure(processing={"batch_timeout": 1.5}).config().processing
    fleet.start("scheduler")
    wait_until(lambda: redis.exists(LOCK), "a scheduler at work")
    fleet.kill("scheduler")
    fleet.start("scheduler")
    with redis.pipeline() as pipeline:
        batches.add(pipeline, "low", [payload()], processing, time.time())
        pipeline.execute()
    wait_until(lambda: queue(redis), "the flush", 15)


@pytest.mark.slow
def test_a_holder_that_is_frozen_and_wakes_up_doubles_nothing(
    fleet: Fleet, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two schedulers, work that falls due all the time, and whoever holds the lock frozen until the other has it."""
    with_lock(fleet, monkeypatch, 0.5)
    processing = (
        fleet.configure(processing={"mode": "batch", "batch_size": 4, "batch_timeout": 0.3}).config().processing
    )
    fleet.start("scheduler")
    fleet.running["another"] = fleet.running.pop("scheduler")
    fleet.start("scheduler")
    wait_until(lambda: "stands by" in fleet.log("scheduler"), "two schedulers")
    frozen: list[int] = []
    retries: list[str] = []
    batched: list[str] = []
    while len(frozen) < 4 or len(set(frozen)) < 2:
        now = time.time()
        waiting, retried = [payload() for _ in range(10)], [payload() for _ in range(600)]
        with redis.pipeline() as pipeline:
            batches.add(pipeline, "low", waiting, processing, now)
            for one in retried:
                submission.enqueue_at(pipeline, redis, f"{one.id}-r1", one, now)
            before = redis.llen(KEYS.queue("low"))
            pipeline.execute()
        batched += [one.id for one in waiting]
        retries += [f"{one.id}-r1" for one in retried]
        wait_until(lambda before=before: redis.llen(KEYS.queue("low")) > before + 10, "delivery", 20, every=0.001)
        owner = wait_until(lambda: redis.get(LOCK), "a holder of the lock")
        frozen.append(int(owner.split()[0].rsplit(b"-", 2)[1]))
        os.kill(frozen[-1], signal.SIGSTOP)
        wait_until(lambda owner=owner: redis.get(LOCK) not in (None, owner), "a takeover", 20)
        os.kill(frozen[-1], signal.SIGCONT)
    wait_until(lambda: not redis.zcard(KEYS.schedule) and not redis.exists(KEYS.batch("low")), "everything done", 30)
    assert set(frozen) == {process.pid for process in fleet.running.values()}, "each of them was frozen"
    assert fleet.stop() == {"another": 0, "scheduler": 0}
    names = queue(redis)
    assert len(names) == len(set(names))
    assert sorted(name for name in names if name.endswith("-r1")) == sorted(retries)
    flushed = [DocumentJob.fetch(name, connection=redis) for name in names if not name.endswith("-r1")]
    assert sorted(one.id for job in flushed for one in job.payloads) == sorted(batched)


@pytest.mark.parametrize("zone", ["Asia/Taipei", "America/New_York"])
def test_times_are_utc_wherever_the_scheduler_runs(fleet: Fleet, redis: Redis, zone: str) -> None:
    fleet.configure(processing={"batch_timeout": 1800})
    fleet.start("scheduler", env={"TZ": zone})
    wait_until(lambda: redis.exists(LOCK), "a scheduler at work")
    now = time.time()
    due = schedule(redis, now + 1)
    later = schedule(redis, now + 1800)  # any zone is further off than that
    with redis.pipeline() as pipeline:
        batches.add(pipeline, "high", [payload()], Processing(batch_timeout=1800), now)
        pipeline.execute()
    wait_until(lambda: queue(redis), "the delivery", 20)
    assert 1 <= time.time() - now < 5
    assert queue(redis) == [due]
    assert {member.decode() for member in redis.zrange(KEYS.schedule, 0, -1)} == {"flush-high", later}
    wait_until(lambda: redis.exists(KEYS.job("flush-high")), "the registered schedule")
    for key, name in ((KEYS.job(due), "enqueued_at"), (KEYS.job("flush-high"), "created_at")):
        moment = datetime.fromisoformat(redis.hget(key, name).decode())
        assert moment.utcoffset() == timedelta(0)
        assert abs(moment.timestamp() - now) < 60


def test_finished_documents_are_forgotten_by_count_and_age(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest 40 that ended, and of them those of the last two days; what has not ended stays, however old."""
    monkeypatch.setattr("llm_scheduler.jobs.scheduler.maintenance._TRIM_CHUNK", 5)
    day = 86400.0
    old = [_ended(redis, at) for at in (1.0, 2.0, 3.0)]
    new = [_ended(redis, 10 * day + number) for number in range(50)]
    waits = payload()
    submission.record(redis, Status.QUEUED, 1.0, [waits], [1], "j")  # type: ignore[arg-type]
    clock = HandClock(10 * day + 100)
    monitoring = Monitoring(metrics_retention_days=2, ledger_documents=40)
    scheduler(redis, clock, monitoring=monitoring).tick()
    known = [status for status, _ in ledger.known(redis, [waits.id, *old, *new])]
    assert known == ["queued"] + [None] * 13 + ["done"] * 40
    redis.delete(LOCK)
    clock.at += 2 * day + 1
    scheduler(redis, clock, name="two", monitoring=monitoring).tick()
    assert [status for status, _ in ledger.known(redis, [waits.id, *new])] == ["queued"] + [None] * 50


def _ended(redis: Redis, at: float) -> str:
    one = replace(payload(), id=new_id(at))
    submission.record(redis, Status.DONE, at, [one], [1])  # type: ignore[arg-type]
    return one.id


def test_flushall_and_an_outage_are_survived(fleet: Fleet, redis_server: Server, redis: Redis) -> None:
    fleet.start("scheduler")
    wait_until(lambda: redis.exists(LOCK), "a scheduler at work")
    redis.flushall()
    schedule(redis, time.time())
    wait_until(lambda: queue(redis), "work after FLUSHALL", 20)
    redis_server.kill()
    wait_until(lambda: "unreachable" in fleet.log("scheduler"), "word of the outage", 20)
    redis_server.start()
    schedule(redis, time.time())
    wait_until(lambda: len(queue(redis)) >= 1 and not redis.zcard(KEYS.schedule), "work after the outage", 20)
    assert fleet.running["scheduler"].poll() is None
    wait_until(lambda: "is back" in fleet.log("scheduler"), "a word of its end")
    assert fleet.stop("scheduler") == {"scheduler": 0}
    assert not redis.exists(LOCK), "a scheduler that stops gives the lock up"


@pytest.mark.slow
def test_batches_in_a_fleet_outlive_flushall(fleet: Fleet, redis: Redis) -> None:
    fleet.configure(processing={"mode": "batch", "batch_timeout": 2})
    fleet.start("ingest", "collector", "scheduler", "medium")
    fleet.drop("a.json", b'{"n": 1}')
    wait_until(lambda: redis.llen(KEYS.batch("medium")), "a waiting batch")
    redis.flushall()
    fleet.wait_finished(1, deadline=40)
    account(fleet, {"a": b'{"n": 1}'})


def test_the_systems_clock_is_the_default() -> None:
    assert abs(SystemClock().now() - time.time()) < 5
