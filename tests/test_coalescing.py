"""How many documents share a job: one on an idle system, more behind a backlog, 250 ms of work at most."""

import time

import pytest
from conftest import KEYS, Fleet, account, mostly_slow, wait_until
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from llm_scheduler.ingest.submitter import shared, whole
from llm_scheduler.jobs.document import Payload, Route, Status, new_id
from llm_scheduler.jobs.groups import bounded
from llm_scheduler.jobs.store import submission
from llm_scheduler.jobs.store.rq_job import DocumentJob

MEDIUM = Route(priority="medium", queue="medium", handler="default", reasons=[])


def test_jobs_grow_with_the_queue_ahead_of_them() -> None:
    assert list(shared(1, 0, 50)) == [1]
    assert list(shared(20, 0, 50)) == [1, 1, 2, 4, 8, 4]
    assert list(shared(256, 0, 50)) == [1, 1, 2, 4, 8, 16, 32, 50, 50, 50, 42]
    assert list(shared(120, 1000, 50)) == [50, 50, 20]
    assert list(shared(5, 1000, 1)) == [1] * 5
    assert list(whole(149, 50)) == [50, 50]


@given(st.integers(0, 2000), st.integers(0, 500), st.integers(1, 100))
def test_all_documents_get_a_job_no_larger_than_allowed(count: int, waiting: int, limit: int) -> None:
    sizes = list(shared(count, waiting, limit))
    assert sum(sizes) == count
    for place, size in enumerate(sizes):
        assert 1 <= size <= max(1, min(limit, waiting + sum(sizes[:place])))


def test_a_job_has_a_bounded_number_of_bytes() -> None:
    assert list(bounded([], 1000)) == []
    assert list(bounded([400] * 5, 1000)) == [2, 2, 1]
    assert list(bounded([500, 500, 0, 1], 1000)) == [3, 1]
    assert list(bounded([1, 5000, 6000, 2, 3], 1000)) == [1, 1, 1, 2], "one that is larger goes alone"


@pytest.mark.parametrize("mode", ["real_time", "batch"])
def test_large_documents_do_not_share_a_job(fleet: Fleet, redis: Redis, mode: str) -> None:
    """Each is 12 MiB, of which little is left once it is compressed; three of them are more than a job may have."""
    fleet.configure(processing={"mode": mode, "batch_size": 4, "batch_timeout": 600})
    redis.hset(KEYS.pace, "medium", "0.001")
    now = time.time()
    ahead = [Payload(new_id(now), "c", "a.json", now, now, MEDIUM, b"1") for _ in range(10)]
    submission.record(redis, Status.QUEUED, now, ahead, [1] * 10, "j")  # type: ignore[arg-type]
    for number in range(4):
        fleet.drop(f"{number}.json", b'{"n": %d, "text": "%s"}' % (number, b"x" * (12 << 20)))
    fleet.start("ingest")
    wait_until(lambda: fleet.ledger_total("queued") == 14, "all queued")
    assert (sum(job_sizes(redis)), max(job_sizes(redis))) == (4, 2)


def job_sizes(redis: Redis) -> list[int]:
    names = [name.decode() for name in redis.lrange(KEYS.queue("medium"), 0, -1)]
    return [len(DocumentJob.fetch(name, connection=redis).payloads) for name in names]


def drop(fleet: Fleet, count: int, first: int = 0) -> dict[str, bytes]:
    dropped = {f"{number}.json": b'{"n": %d}' % number for number in range(first, first + count)}
    for name, content in dropped.items():
        fleet.drop(name, content)
    return dropped


@pytest.mark.parametrize(("pace", "most"), mostly_slow([("0.05", 5), ("0.001", 50), ("60", 1)]))
def test_a_backlog_shares_jobs_by_the_pace_of_its_workers(fleet: Fleet, redis: Redis, pace: str, most: int) -> None:
    redis.hset(KEYS.pace, "medium", pace)
    dropped = drop(fleet, 300)
    fleet.start("ingest")
    wait_until(lambda: fleet.ledger_total("queued") == 300, "all queued")
    sizes = job_sizes(redis)
    assert (sizes[0], max(sizes), sum(sizes)) == (1, most, 300)
    if pace == "0.001":
        fleet.start("collector", "scheduler", "medium")
        fleet.wait_finished(300)
        account(fleet, dropped)
        measured = float(redis.hget(KEYS.pace, "medium") or 0)
        assert 0 < measured < 0.05, "the workers say how long a document takes"


def test_documents_that_come_one_by_one_go_alone(fleet: Fleet, redis: Redis) -> None:
    fleet.start()
    wait_until(fleet.all_ready, "the fleet")
    for number in range(5):
        drop(fleet, 1, first=number)
        fleet.wait_finished(number + 1)
    assert len({result["rq_job_id"] for result in fleet.results()}) == 5
