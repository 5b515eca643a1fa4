"""The work of dead workers is found and done, and a document that kills them hurts no other."""

import logging
import time

import pytest
from conftest import Fleet, account, wait_until
from redis import Redis

from jobs import outcome, submission
from jobs.document import Packet, Route, new_id
from jobs.reaper import GRACE_SECONDS, MAX_CRASHES, Reaper

HANDLERS = """
import os, signal, time

def handle(document, context):
    kind = document["kind"]
    if kind == "slow" and not os.path.exists("seen"):
        open("seen", "w").close()
        time.sleep(600)
    if kind == "exit":
        os._exit(1)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return kind
"""

# The same daemons with shorter waits, so that several deaths of a worker don't take a minute.
IMPATIENT = """
import sys
import jobs.reaper, jobs.scheduler, jobs.worker
jobs.worker.BEAT_SECONDS, jobs.worker.LEASE_SECONDS = 0.3, 1
jobs.reaper.GRACE_SECONDS = 0.5
(jobs.worker if sys.argv[1] == "medium" else jobs.scheduler).main()
"""


class HandClock:
    at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def packet(crashes: int = 0) -> Packet:
    route = Route(priority="medium", queue="medium", handler="default", reasons=[])
    return Packet(new_id(1.0), "c", "a.json", 1.0, 1.0, route, b'{"kind": "x"}', crashes=crashes)


def in_hand(redis: Redis, packets: list[Packet], job_id: str = "job") -> None:
    """`packets` in a job that a worker, since dead, had begun."""
    with redis.pipeline() as pipeline:
        submission.enqueue(pipeline, redis, job_id, "medium", packets)
        pipeline.execute()
    redis.delete("rq:queue:medium")
    redis.zadd("rq:wip:medium", {f"{job_id}:e1": 9e9})
    redis.hset(f"rq:execution:{job_id}:e1", mapping={"worker_name": "dead"})


def reap(redis: Redis) -> int:
    clock = HandClock()
    reaper = Reaper(redis, ["medium"], clock, logging.getLogger("test"))
    assert reaper.reap() == 0, "seen abandoned once is not enough"
    clock.at += GRACE_SECONDS
    return reaper.reap()


def queued(redis: Redis) -> list[list[Packet]]:
    from jobs.rq_job import DocumentJob

    names = [name.decode() for name in redis.lrange("rq:queue:medium", 0, -1)]
    return [DocumentJob.fetch(name, connection=redis).packets for name in names]


def test_a_living_workers_job_is_left_alone(redis: Redis) -> None:
    in_hand(redis, [packet()])
    redis.hset("rq:worker:dead", "birth", "2026")
    assert reap(redis) == 0
    redis.hset("rq:worker:dead", "death", "2026")
    assert reap(redis) == 1, "one that has said goodbye is dead"


def test_a_job_of_several_is_split_and_none_is_blamed(redis: Redis) -> None:
    in_hand(redis, [packet(), packet(), packet()])
    assert reap(redis) == 1
    assert sorted((len(each), each[0].crashes, each[0].attempts) for each in queued(redis)) == [(1, 0, 1)] * 3
    assert redis.zcard("rq:wip:medium") == 0
    assert not redis.exists("rq:job:job", "rq:execution:job:e1")
    assert reap(redis) == 0


def test_a_document_alone_is_counted_and_rejected_in_the_end(redis: Redis) -> None:
    in_hand(redis, [packet(crashes=MAX_CRASHES - 2)])
    reap(redis)
    assert [each[0].crashes for each in queued(redis)] == [MAX_CRASHES - 1]
    in_hand(redis, [packet(crashes=MAX_CRASHES - 1)])
    reap(redis)
    assert queued(redis) == []
    [(_, fields)] = redis.xrange(outcome.STREAM)
    [rejected] = outcome.decode(fields[outcome.FIELD.encode()])
    assert (rejected.kind, rejected.code, rejected.message[:9]) == ("rejected", "worker_lost", "3 workers")


def test_a_job_between_queue_and_worker_comes_back_as_it_is(redis: Redis) -> None:
    with redis.pipeline() as pipeline:
        submission.enqueue(pipeline, redis, "job", "medium", [packet(), packet()])
        pipeline.execute()
    redis.lmove("rq:queue:medium", "rq:queue:medium:intermediate", "LEFT", "RIGHT")
    assert reap(redis) == 1
    assert [len(each) for each in queued(redis)] == [2]
    assert redis.llen("rq:queue:medium:intermediate") == 0


def test_an_unreadable_job_is_dropped_and_stops_nothing(redis: Redis) -> None:
    redis.hset("rq:job:bad", mapping={"d0": b"\x80garbage", "created_at": "x"})
    redis.set("rq:job:string", "x")
    redis.rpush("rq:queue:medium:intermediate", "bad", "string", b"\xff\xfe", "absent")
    in_hand(redis, [packet()])
    assert reap(redis) == 4
    assert len(queued(redis)) == 1
    assert redis.llen("rq:queue:medium:intermediate") == 0


@pytest.mark.slow
def test_the_work_of_a_killed_worker_is_done_by_another(fleet: Fleet, redis: Redis) -> None:
    (fleet.folder / "my_handlers.py").write_text(HANDLERS)
    fleet.configure(handlers={"default": "my_handlers:handle"})
    fleet.start("ingest", "collector", "scheduler", "medium")
    fleet.drop("slow.json", b'{"kind": "slow"}')
    wait_until((fleet.folder / "seen").exists, "the document in hand", 20)
    fleet.kill("medium")
    killed = time.monotonic()
    fleet.start("medium")
    # A job that another one has lost between queue and worker comes back by the same look.
    stuck = packet()
    with redis.pipeline() as pipeline:
        submission.enqueue(pipeline, redis, "stuck", "low", [stuck])
        pipeline.execute()
    redis.lmove("rq:queue:low", "rq:queue:low:intermediate", "LEFT", "RIGHT")
    wait_until(lambda: redis.llen("rq:queue:low") == 1, "the stuck job back on its queue", 15)
    fleet.wait_finished(1, deadline=30)
    seconds = time.monotonic() - killed
    print(f"from kill -9 to the result: {seconds:.1f} s")
    assert seconds < 15
    account(fleet, {"slow": b'{"kind": "slow"}'})
    assert fleet.results()[0]["attempts"] == 2


@pytest.mark.slow
def test_documents_that_kill_their_worker_hurt_no_other(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    (fleet.folder / "my_handlers.py").write_text(HANDLERS)
    (fleet.folder / "impatient.py").write_text(IMPATIENT)
    monkeypatch.setenv("PYTHONPATH", str(fleet.folder))
    for name in ("medium", "scheduler"):
        monkeypatch.setitem(Fleet.MODULES, name, ("impatient", name))
    fleet.configure(
        handlers={"default": "my_handlers:handle"}, processing={"mode": "batch", "batch_size": 8, "batch_timeout": 60}
    )
    kinds = ["a", "b", "c", "exit", "d", "e", "f", "g"]  # one job: a batch is full with eight
    contents = {kind: b'{"kind": "%s"}' % kind.encode() for kind in kinds}
    for kind, content in contents.items():
        fleet.drop(f"{kind}.json", content)
    fleet.start("ingest", "collector", "scheduler", "medium")
    deaths = 0

    def finished() -> bool:
        nonlocal deaths
        if fleet.running["medium"].poll() is not None:
            deaths += 1
            fleet.start("medium")
        return fleet.finished() == len(kinds)

    wait_until(finished, "every document at its end", 60)
    account(fleet, contents)
    [report] = fleet.reports()
    assert (report["source"], report["code"]) == ("exit.json", "worker_lost")
    assert deaths == 1 + MAX_CRASHES, "once in company, then alone"
    assert {result["result"] for result in fleet.results()} == set(kinds) - {"exit"}
