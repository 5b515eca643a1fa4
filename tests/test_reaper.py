"""The work of dead workers is found and done, and a document that kills them hurts no other."""

import logging
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from conftest import KEYS, wait_until
from redis import Redis

from llm_scheduler.jobs.crash import CrashReport, crash_report
from llm_scheduler.jobs.document import Payload, Route, new_id
from llm_scheduler.jobs.process import liveness
from llm_scheduler.jobs.store import outcomes, submission
from llm_scheduler.jobs.worker.reaper import CURRENT_JOBS, GRACE_SECONDS, MAX_CRASHES, Reaper, current_jobs_field


class HandClock:
    at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def payload(crashes: int = 0) -> Payload:
    route = Route(priority="medium", queue="medium", handler="default", reasons=[])
    return Payload(new_id(1.0), "c", "a.json", 1.0, 1.0, route, b'{"kind": "x"}', crashes=crashes)


def in_hand(redis: Redis, payloads: list[Payload], job_id: str = "job") -> None:
    """`payloads` in a job that a worker, since dead, had begun."""
    with redis.pipeline() as pipeline:
        submission.enqueue(pipeline, redis, job_id, "medium", payloads)
        pipeline.execute()
    redis.delete(KEYS.queue("medium"))
    redis.zadd(KEYS.begun("medium"), {f"{job_id}:e1": 9e9})
    redis.hset(KEYS.execution(job_id, "e1"), mapping={"worker_name": "dead"})


def reap(redis: Redis) -> int:
    clock = HandClock()
    reaper = Reaper(redis, ["medium"], clock, logging.getLogger("test"))
    assert reaper.reap() == 0, "seen abandoned once is not enough"
    clock.at += GRACE_SECONDS
    return reaper.reap()


def queued(redis: Redis) -> list[list[Payload]]:
    from llm_scheduler.jobs.store.rq_job import DocumentJob

    names = [name.decode() for name in redis.lrange(KEYS.queue("medium"), 0, -1)]
    return [DocumentJob.fetch(name, connection=redis).payloads for name in names]


def test_a_living_workers_job_is_left_alone(redis: Redis) -> None:
    in_hand(redis, [payload()])
    redis.hset(KEYS.worker("dead"), "birth", "2026")
    assert reap(redis) == 0
    redis.hset(KEYS.worker("dead"), "death", "2026")
    assert reap(redis) == 1, "one that has said goodbye is dead"


class Living:
    """The worker that the jobs of `in_hand` are said to be in the hands of: it lives, and speaks."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.clock = HandClock()
        self.reaper = Reaper(redis, ["medium"], self.clock, logging.getLogger("test"))

    def say(self, *jobs: str) -> None:
        self.redis.hset(
            KEYS.worker("dead"), mapping={"birth": "2026", CURRENT_JOBS: current_jobs_field(self.clock, jobs)}
        )

    def taken_within(self, seconds: int, *jobs: str, silent: bool = False) -> int:
        """How many jobs are taken from it while it says once a second that it has `jobs` in hand."""
        self.say(*jobs)
        taken = 0
        for _ in range(seconds + 1):
            taken += self.reaper.reap()
            self.clock.at += 1
            if not silent:
                self.say(*jobs)
        return taken


@pytest.mark.parametrize("count", [1, 3])
def test_a_job_is_taken_from_a_living_worker_that_has_moved_on_and_nobody_is_blamed(redis: Redis, count: int) -> None:
    in_hand(redis, [payload(crashes=MAX_CRASHES - 1) for _ in range(count)])
    worker = Living(redis)
    assert worker.taken_within(2, "another") == 0, "not at once"
    assert worker.taken_within(2, "another") == 1
    assert [(each[0].crashes, each[0].attempts) for each in queued(redis)] == [(MAX_CRASHES - 1, 1)] * count
    assert redis.zcard(KEYS.begun("medium")) == 0
    assert worker.taken_within(10) == 0


def test_what_a_living_worker_has_in_hand_stays_there(redis: Redis) -> None:
    in_hand(redis, [payload()])
    worker = Living(redis)
    assert worker.taken_within(30, "another", "job") == 0
    assert worker.taken_within(2) == 0
    assert worker.taken_within(2, "job") == 0
    assert worker.taken_within(2) == 0, "the suspicion began anew"


def test_nothing_is_taken_from_a_worker_that_cannot_speak(redis: Redis) -> None:
    """A handler may hold the interpreter lock from the job's first moment on; what was said before says nothing."""
    in_hand(redis, [payload()])
    worker = Living(redis)
    assert worker.taken_within(30, silent=True) == 0
    assert worker.taken_within(1, "job") == 0
    redis.hset(KEYS.worker("dead"), CURRENT_JOBS, b"\xff \xfe")
    assert worker.reaper.reap() == 0


def test_a_beginning_that_was_told_twice_is_struck_off_once_the_job_has_ended(redis: Redis) -> None:
    in_hand(redis, [payload()])
    redis.zadd(KEYS.begun("medium"), {"job:e0": 9e9})
    redis.hset(KEYS.execution("job", "e0"), "worker_name", "dead")
    worker = Living(redis)
    assert worker.taken_within(10, "job") == 0
    redis.zrem(KEYS.begun("medium"), "job:e1")
    redis.delete(KEYS.job("job"), KEYS.execution("job", "e1"))
    assert worker.taken_within(5) == 1
    assert redis.zcard(KEYS.begun("medium")) == 0
    assert queued(redis) == []


def test_a_job_of_several_is_split_and_none_is_blamed(redis: Redis) -> None:
    in_hand(redis, [payload(), payload(), payload()])
    assert reap(redis) == 1
    assert sorted((len(each), each[0].crashes, each[0].attempts) for each in queued(redis)) == [(1, 0, 1)] * 3
    assert redis.zcard(KEYS.begun("medium")) == 0
    assert not redis.exists(KEYS.job("job"), KEYS.execution("job", "e1"))
    assert reap(redis) == 0


def test_a_document_alone_is_counted_and_rejected_in_the_end(redis: Redis) -> None:
    in_hand(redis, [payload(crashes=MAX_CRASHES - 2)])
    reap(redis)
    assert [each[0].crashes for each in queued(redis)] == [MAX_CRASHES - 1]
    in_hand(redis, [payload(crashes=MAX_CRASHES - 1)])
    reap(redis)
    assert queued(redis) == []
    [(_, fields)] = redis.xrange(KEYS.outcomes("medium"))
    [rejected] = outcomes.decode(fields[outcomes.FIELD.encode()])
    assert (rejected.kind, rejected.code, rejected.message[:9]) == ("rejected", "worker_lost", "3 workers")


def test_a_job_between_queue_and_worker_comes_back_as_it_is(redis: Redis) -> None:
    with redis.pipeline() as pipeline:
        submission.enqueue(pipeline, redis, "job", "medium", [payload(), payload()])
        pipeline.execute()
    redis.lmove(KEYS.queue("medium"), KEYS.intermediate("medium"), "LEFT", "RIGHT")
    assert reap(redis) == 1
    assert [len(each) for each in queued(redis)] == [2]
    assert redis.llen(KEYS.intermediate("medium")) == 0


def test_an_unreadable_job_is_dropped_and_stops_nothing(redis: Redis) -> None:
    redis.hset(KEYS.job("bad"), mapping={"d0": b"\x80garbage", "created_at": "x"})
    redis.set(KEYS.job("string"), "x")
    redis.rpush(KEYS.intermediate("medium"), "bad", "string", b"\xff\xfe", "absent")
    in_hand(redis, [payload()])
    assert reap(redis) == 4
    assert len(queued(redis)) == 1
    assert redis.llen(KEYS.intermediate("medium")) == 0


def crash() -> CrashReport:
    return crash_report("dead", "2026-11-23T00:00:00.000Z", -11, 1000, b"the last line\n")


def test_what_is_known_of_each_crash_travels_with_the_document(redis: Redis) -> None:
    in_hand(redis, [payload(crashes=MAX_CRASHES - 2)])
    reaper = Reaper(redis, ["medium"], HandClock(), logging.getLogger("test"))
    assert reaper.take_from("dead", crash()) == 1, "at once"
    [[once]] = queued(redis)
    assert (once.crashes, once.evidence) == (MAX_CRASHES - 1, [crash()])
    assert redis.hexists(KEYS.worker("dead"), "death")
    in_hand(redis, [once])
    assert reaper.take_from("dead", crash()) == 1
    [(_, fields)] = redis.xrange(KEYS.outcomes("medium"))
    [rejected] = outcomes.decode(fields[outcomes.FIELD.encode()])
    assert rejected.evidence == [crash(), crash()]
    assert "SIGSEGV" in rejected.message


def test_only_the_dead_ones_jobs_are_taken(redis: Redis) -> None:
    in_hand(redis, [payload()], "theirs")
    in_hand(redis, [payload()], "another")
    redis.hset(KEYS.execution("another", "e1"), "worker_name", "alive")
    reaper = Reaper(redis, ["medium"], HandClock(), logging.getLogger("test"))
    assert reaper.take_from("dead", None) == 1
    assert reaper.take_from("dead", None) == 0
    assert redis.zrange(KEYS.begun("medium"), 0, -1) == [b"another:e1"]


class Slow(Reaper):
    """Is overtaken between its look and its taking."""

    overtake: Callable[[], object]

    def _is_there(self, pipeline: Any, abandoned: Any) -> bool:
        there = super()._is_there(pipeline, abandoned)
        self.overtake()
        return there


@pytest.mark.parametrize("by", ["another reaper", "its worker"])
def test_two_that_take_the_same_job_get_it_once(redis: Redis, by: str) -> None:
    in_hand(redis, [payload()])
    slow = Slow(redis, ["medium"], HandClock(), logging.getLogger("test"))
    if by == "another reaper":
        fast = Reaper(redis, ["medium"], HandClock(), logging.getLogger("test"))
        slow.overtake = lambda: fast.take_from("dead", crash())
    else:  # it ends the job after all
        slow.overtake = lambda: redis.delete(KEYS.job("job"), KEYS.execution("job", "e1"))
    assert slow.take_from("dead", crash()) == 0
    assert [len(each) for each in queued(redis)] == ([1] if by == "another reaper" else [])


def ended_process() -> str:
    """A process that was there, as a worker's key would name it."""
    process = subprocess.Popen(["sleep", "60"])
    known = liveness.identity(process.pid)
    process.kill()
    process.wait()
    return known


@pytest.mark.parametrize(
    ("place", "processes", "taken"),
    [
        (liveness.here(), lambda: f"{ended_process()} {ended_process()}", 1),
        (liveness.here(), lambda: f"{os.getpid()}:1 {ended_process()}", 1),
        (liveness.here(), lambda: f"{ended_process()} {liveness.identity(os.getpid())}", 0),
        ("another machine", lambda: f"{ended_process()} {ended_process()}", 0),
        ("", ended_process, 0),
        (liveness.here(), lambda: "", 0),
        (liveness.here(), lambda: "nonsense", 0),
    ],
    ids=[
        "both ended",
        "the id was given out again",
        "its supervisor lives",
        "elsewhere",
        "nowhere",
        "none",
        "unreadable",
    ],
)
def test_a_lease_is_not_waited_for_when_the_processes_are_known_to_be_gone(
    redis: Redis, place: str, processes: Callable[[], str], taken: int
) -> None:
    in_hand(redis, [payload()])
    redis.hset(KEYS.worker("dead"), mapping={"birth": "2026", "place": place, "processes": processes()})
    reaper = Reaper(redis, ["medium"], HandClock(), logging.getLogger("test"))
    assert reaper.reap() == taken
    in_hand(redis, [payload()], "second")
    assert reaper.take_from_ended() == taken
    assert redis.hexists(KEYS.worker("dead"), "death") == bool(taken)


def test_a_zombie_has_ended_and_a_frozen_process_has_not() -> None:
    process = subprocess.Popen(["sleep", "60"])
    known = liveness.identity(process.pid)
    try:
        assert not liveness.is_gone(liveness.here(), known)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: liveness.is_stopped(process.pid), "a frozen process")
        assert not liveness.is_gone(liveness.here(), known)
        process.kill()
        wait_until(lambda: liveness.is_gone(liveness.here(), known), "its end, before anybody has waited for it")
    finally:
        process.kill()
        process.wait()
    assert liveness.identity(process.pid) == ""
