"""Batches: flushed by size, by time, by idleness or by force, and each document exactly once."""

import threading
from collections.abc import Callable

import pytest
from conftest import KEYS
from redis import Redis

from llm_scheduler.jobs.config import Processing
from llm_scheduler.jobs.document import Payload, Route, Status, decode, new_id
from llm_scheduler.jobs.store import batches, ledger, submission
from llm_scheduler.jobs.store.rq_job import DocumentJob

BATCHES = Processing(batch_size=5, batch_timeout=30)


class HandClock:
    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def join(redis: Redis, count: int, now: float, processing: Processing = BATCHES) -> list[Payload]:
    route = Route(priority="low", queue="low", handler="default", reasons=[])
    payloads = [Payload(new_id(now), "c", "a.json", now, now, route, b"%d" % number) for number in range(count)]
    with redis.pipeline() as pipeline:
        submission.record(pipeline, Status.BATCHED, now, payloads, [1] * count)
        batches.add(pipeline, "low", payloads, processing, now)
        pipeline.execute()
    return payloads


def flush(redis: Redis, now: float, processing: Processing = BATCHES, force: bool = False) -> int:
    return batches.flush(redis, "low", processing, HandClock(now), force=force)


def queued(redis: Redis) -> list[list[str]]:
    """The documents' ids of each job on the queue."""
    jobs = [DocumentJob.fetch(name.decode(), connection=redis) for name in redis.lrange(KEYS.queue("low"), 0, -1)]
    return [[payload.id for payload in job.payloads] for job in jobs]


def due(redis: Redis) -> float | None:
    score = redis.zscore(KEYS.schedule, "flush-low")
    return None if score is None else float(score)


def test_by_size(redis: Redis) -> None:
    payloads = join(redis, 12, 1000)
    assert flush(redis, 1000) == 10
    assert queued(redis) == [[each.id for each in payloads[:5]], [each.id for each in payloads[5:10]]]
    counts = ledger.counts(redis, ["low"])
    assert (counts["queued"]["low"], counts["batched"]["low"]) == (10, 2)
    assert due(redis) == 1030
    entry = ledger.get(redis, payloads[0].id)
    assert entry is not None
    assert entry.rq_job_id == redis.lindex(KEYS.queue("low"), 0).decode()


def test_by_time_counted_from_the_first(redis: Redis) -> None:
    join(redis, 2, 1000)
    join(redis, 1, 1020)
    assert due(redis) == 1030
    assert flush(redis, 1029.9) == 0
    assert flush(redis, 1030) == 3
    assert due(redis) is None, "an empty batch has no schedule"
    assert redis.keys(KEYS.batch("*")) == []
    join(redis, 1, 1040)
    assert due(redis) == 1070, "the next batch has its own time"


def test_what_a_flush_leaves_keeps_its_own_time(redis: Redis) -> None:
    join(redis, 5, 1000)
    join(redis, 1, 1010)
    assert flush(redis, 1015) == 5
    assert due(redis) == 1040


def test_a_full_batch_is_due_at_once_whoever_is_killed_before_or_during_its_flush(redis: Redis) -> None:
    join(redis, 4, 1000)
    assert due(redis) == 1030
    join(redis, 8, 1001)
    assert due(redis) == 1001

    class Killed(Exception):
        pass

    class Client:
        """Its process dies after the first of the flush's scripts."""

        asked = 0
        connection_pool = None

        def eval(self, *arguments: object) -> object:
            self.asked += 1
            if self.asked > 1:
                raise Killed
            return redis.eval(*arguments)  # type: ignore[arg-type]

    with pytest.raises(Killed):
        batches.flush(Client(), "low", BATCHES, HandClock(1002))  # type: ignore[arg-type]
    assert (len(queued(redis)), redis.llen(KEYS.batch("low"))) == (1, 7)
    assert due(redis) == 1002
    assert flush(redis, 1003) == 5
    assert due(redis) == 1031, "what is left waits from when it came"


def test_a_batch_whose_times_are_lost_goes_by_those_of_its_documents(redis: Redis) -> None:
    join(redis, 1, 1000)
    redis.delete(KEYS.batch_times("low"))
    assert flush(redis, 1020) == 0
    assert due(redis) == 1030
    join(redis, 1, 1025)
    assert due(redis) == 1030, "who joins makes it no younger"
    redis.delete(KEYS.batch_times("low"))
    assert flush(redis, 1030) == 2
    idle = Processing(batch_size=5, batch_timeout=30, batch_idle=2)
    join(redis, 1, 1040, idle)
    join(redis, 1, 1041, idle)
    redis.delete(KEYS.batch_times("low"))
    assert flush(redis, 1042.9, idle) == 0
    assert flush(redis, 1043, idle) == 2


@pytest.mark.parametrize("known", [True, False])
def test_a_job_has_a_bounded_number_of_bytes(redis: Redis, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    monkeypatch.setattr("llm_scheduler.jobs.store.batches.JOB_BYTES", 1000)
    route = Route(priority="low", queue="low", handler="default", reasons=[])
    sizes = [400, 400, 400, 5000, 100]
    payloads = [
        Payload(new_id(1000), "c", "a.json", 1000, 1000, route, b"x" * (10 if known else size)) for size in sizes
    ]
    with redis.pipeline() as pipeline:
        if known:  # the originals' sizes, whatever is left of them in the payloads
            submission.record(pipeline, Status.BATCHED, 1000, payloads, sizes)
        batches.add(pipeline, "low", payloads, BATCHES, 1000)
        pipeline.execute()
    assert flush(redis, 1000) == 5, "a full batch goes whole, if not in one job"
    assert [len(job) for job in queued(redis)] == [2, 1, 1, 1]
    assert [document_id for job in queued(redis) for document_id in job] == [payload.id for payload in payloads]
    assert (due(redis), redis.keys(KEYS.batch("*"))) == (None, [])


def test_the_rest_of_a_batch_too_large_for_one_job_is_due_whoever_is_killed(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_scheduler.jobs.store.batches.JOB_BYTES", 1)

    class Client:
        """Its process dies after the first of the flush's scripts."""

        asked = 0
        connection_pool = None

        def eval(self, *arguments: object) -> object:
            self.asked += 1
            if self.asked > 1:
                raise ConnectionError
            return redis.eval(*arguments)  # type: ignore[arg-type]

    join(redis, 5, 1000)
    with pytest.raises(ConnectionError):
        batches.flush(Client(), "low", BATCHES, HandClock(1001))  # type: ignore[arg-type]
    assert due(redis) == 1001
    join(redis, 1, 1002)
    assert due(redis) == 1002
    assert flush(redis, 1002) == 5
    assert due(redis) is None


def test_by_idleness_counted_from_the_last(redis: Redis) -> None:
    idle = Processing(batch_size=5, batch_timeout=30, batch_idle=2)
    join(redis, 1, 1000, idle)
    join(redis, 1, 1001.5, idle)
    assert due(redis) == 1003.5
    assert flush(redis, 1003.4, idle) == 0
    assert flush(redis, 1003.5, idle) == 2


def test_by_force(redis: Redis) -> None:
    payloads = join(redis, 3, 1000)
    assert flush(redis, 1000, force=True) == 3
    assert queued(redis) == [[payload.id for payload in payloads]]
    assert flush(redis, 1000, force=True) == 0


def test_a_payload_comes_through_a_batch_unchanged(redis: Redis) -> None:
    payloads = join(redis, 2, 1000)
    flush(redis, 1000, force=True)
    raw = redis.hgetall(KEYS.job(redis.lindex(KEYS.queue("low"), 0).decode()))
    assert [decode(raw[b"d0"]), decode(raw[b"d1"])] == payloads


def test_a_flush_does_not_bring_a_finished_document_back(redis: Redis) -> None:
    payloads = join(redis, 2, 1000)
    ledger.move(redis, Status.CANCELLED, 1001, [(payloads[0].id, {})])
    flush(redis, 1000, force=True)
    assert ledger.known(redis, [payload.id for payload in payloads])[0][0] == "cancelled"


@pytest.mark.parametrize("force", [False, True])
def test_each_document_once_while_many_flush_and_join(redis_server: object, redis: Redis, force: bool) -> None:
    clients = [redis_server.client() for _ in range(4)]  # type: ignore[attr-defined]
    joined: list[list[Payload]] = [[], []]
    moved = [0, 0]

    def joining(index: int) -> None:
        for _ in range(40):
            joined[index] += join(clients[index], 7, 1000)

    def flushing(index: int) -> None:
        for _ in range(60):
            moved[index] += flush(clients[2 + index], 1000, force=force)

    work: list[tuple[Callable[[int], None], int]] = [(joining, 0), (joining, 1), (flushing, 0), (flushing, 1)]
    threads = [threading.Thread(target=function, args=(index,)) for function, index in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(moved) + flush(redis, 1000, force=True)
    ids = [document_id for job in queued(redis) for document_id in job]
    assert sorted(ids) == sorted(payload.id for part in joined for payload in part)
    assert total == len(ids) == 560
    for client in clients:
        client.close()
