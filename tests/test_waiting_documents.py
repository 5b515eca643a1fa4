"""Since when the oldest document waits: one exact answer, whatever the order of arrival."""

import random

from conftest import KEYS, LEVELS
from redis import Redis

from llm_scheduler.jobs.document import Route, Status, new_id
from llm_scheduler.jobs.store import ledger, waiting_documents


def put(redis: Redis, level: str, arrived: float, waits_since: float, status: Status = Status.QUEUED) -> str:
    route = Route(priority=level, queue=level, handler="h", reasons=[])
    document_id = new_id(arrived)
    ledger.move(redis, status, waits_since, [(document_id, ledger.document_fields(route, "s", arrived))])
    return document_id


def oldest(redis: Redis, before: float = 0.0) -> dict[str, waiting_documents.WaitingDocuments]:
    return waiting_documents.parse(waiting_documents.ask(redis, LEVELS, before), LEVELS)


def test_nothing_waits(redis: Redis) -> None:
    assert oldest(redis) == dict.fromkeys(LEVELS, (None, None))
    assert oldest(redis)["high"].since is None


def test_the_oldest_is_found_among_retries(redis: Redis) -> None:
    """A retry comes back with the id of its arrival: a thousand of them stand in front of the oldest."""
    random.seed(1)
    waits = {put(redis, "low", 1000 + n / 100, 5000 + n): 5000.0 + n for n in range(1000)}
    late = put(redis, "low", 4000, 4001)
    waits[late] = 4001.0
    for number in range(200):
        waits[put(redis, "low", 6000 + number, 6001 + number)] = 6001.0 + number
    found = oldest(redis, before=5500)["low"].queued
    assert found is not None
    assert (found.id, found.since) == (late, min(waits.values()))
    assert found.late == sum(at < 5500 for at in waits.values())


def test_young_documents_are_not_read(redis: Redis) -> None:
    """With ten thousand documents behind the oldest, one look reads a few."""
    first = put(redis, "high", 1000, 1000.5)
    with redis.pipeline(transaction=False) as pipeline:
        for number in range(2000):
            put(pipeline, "high", 2000 + number, 2000.5 + number)
        pipeline.execute()
    redis.config_resetstat()
    found = oldest(redis)["high"].queued
    assert found is not None
    assert (found.id, found.late) == (first, 0)
    assert redis.info("commandstats")["cmdstat_get"]["calls"] < 5


def test_batches_wait_apart_from_queues(redis: Redis) -> None:
    put(redis, "low", 10, 30)
    put(redis, "low", 10, 20, Status.BATCHED)
    found = oldest(redis, before=25)["low"]
    assert found.queued is not None
    assert found.batched is not None
    assert (found.queued.since, found.queued.late, found.batched.since) == (30, 0, 20)
    assert found.since == 20
    assert oldest(redis)["high"] == (None, None)


def test_a_record_that_is_gone_is_passed_over(redis: Redis) -> None:
    gone, there = put(redis, "high", 1, 2), put(redis, "high", 3, 4)
    redis.delete(KEYS.record(gone))
    found = oldest(redis)["high"].queued
    assert found is not None
    assert found.id == there
