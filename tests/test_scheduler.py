"""The scheduler: what is due happens once, whoever is killed, doubled, flushed away or not readable."""

import logging
import pickle
import random
import time

import pytest
from conftest import Fleet, Server, account, wait_until
from redis import Redis

from jobs import batch, submission
from jobs.clock import SystemClock
from jobs.config import Config, Processing
from jobs.document import Packet, Route, new_id
from jobs.process import Stop
from jobs.scheduler import DocumentScheduler
from jobs.submission import SCHEDULE

LOCK = DocumentScheduler.scheduler_lock_key


class HandClock:
    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def packet() -> Packet:
    return Packet(
        new_id(1.0), "c", "a.json", 1.0, 1.0, Route(priority="low", queue="low", handler="h", reasons=[]), b"1"
    )


def schedule(redis: Redis, at: float) -> str:
    one = packet()
    job_id = f"{one.id}-r1"
    with redis.pipeline() as pipeline:
        submission.enqueue_at(pipeline, redis, job_id, one, at)
        pipeline.execute()
    return job_id


def scheduler(redis: Redis, clock: HandClock, name: str = "one") -> DocumentScheduler:
    made = DocumentScheduler(Config(), redis, clock, Stop(), logging.getLogger("test"))
    made.name = name
    return made


def queue(redis: Redis) -> list[str]:
    return [name.decode() for name in redis.lrange("rq:queue:low", 0, -1)]


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
    assert redis.zcard(SCHEDULE) == 0
    assert redis.hget(f"rq:job:{job_id}", "status") == b"queued"


def test_what_cannot_be_read_stops_nothing_else(redis: Redis) -> None:
    clock = HandClock(1000)
    redis.hset("rq:job:pickled", mapping={"data": b"x", "d0": pickle.dumps("x"), "created_at": "2026"})
    redis.set("rq:job:string", "x")
    redis.zadd(SCHEDULE, {"pickled": 1, "string": 2, "gone": 3, b"\xff\xfe": 4, "negative": -5})
    job_id = schedule(redis, 999)
    scheduler(redis, clock).enqueue_jobs()
    assert queue(redis) == [job_id]
    left = dict(redis.zrange(SCHEDULE, 0, -1, withscores=True))
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


def test_a_lost_schedule_of_a_batch_is_put_back(redis: Redis) -> None:
    with redis.pipeline() as pipeline:
        batch.add(pipeline, "low", [packet()], Processing(batch_timeout=30), 1000)
        pipeline.execute()
    redis.delete(SCHEDULE)
    clock = HandClock(1001)
    one = scheduler(redis, clock)
    one.tick()
    one.tick()
    assert redis.zscore(SCHEDULE, "flush-low") == pytest.approx(1003, abs=2)
    clock.at = 1400
    one.enqueue_jobs()
    assert len(queue(redis)) == 1


def test_batch_timeout_holds_within_a_second(fleet: Fleet, redis: Redis) -> None:
    config = fleet.configure(processing={"batch_timeout": 1.5}).config()
    fleet.start("scheduler")
    wait_until(lambda: redis.exists(LOCK), "a scheduler at work")
    began = time.time()
    with redis.pipeline() as pipeline:
        batch.add(pipeline, "low", [packet()], config.processing, began)
        pipeline.execute()
    wait_until(lambda: queue(redis), "the flush", 20)
    assert 1.5 <= time.time() - began < 2.5


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
        redis.delete(LOCK)  # the lock's ten seconds are another test's matter
    fleet.start("scheduler")
    wait_until(lambda: len(queue(redis)) >= 300, "every job on its queue", 20)
    assert sorted(queue(redis)) == sorted(jobs)


@pytest.mark.slow
def test_another_scheduler_takes_over_from_a_killed_one(fleet: Fleet, redis: Redis) -> None:
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
    wait_until(lambda: len(queue(redis)) >= 1 and not redis.zcard(SCHEDULE), "work after the outage", 20)
    assert fleet.running["scheduler"].poll() is None
    assert "is back" in fleet.log("scheduler")
    assert fleet.stop("scheduler") == {"scheduler": 0}
    assert not redis.exists(LOCK), "a scheduler that stops gives the lock up"


def test_batches_in_a_fleet_outlive_flushall(fleet: Fleet, redis: Redis) -> None:
    fleet.configure(processing={"mode": "batch", "batch_timeout": 2})
    fleet.start("ingest", "collector", "scheduler", "medium")
    fleet.drop("a.json", b'{"n": 1}')
    wait_until(lambda: redis.llen("llm:batch:medium"), "a waiting batch")
    redis.flushall()
    fleet.wait_finished(1, deadline=40)
    account(fleet, {"a": b'{"n": 1}'})


def test_the_systems_clock_is_the_default() -> None:
    assert abs(SystemClock().now() - time.time()) < 5
