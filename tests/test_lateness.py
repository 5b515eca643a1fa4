"""Events and alerts: documents that wait too long in their queue are told of once, and fail by it never."""

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import KEYS, Fleet, account, wait_until
from redis import Redis
from test_scheduler import HandClock

from llm_scheduler.jobs.config import Processing
from llm_scheduler.jobs.document import Payload, Route, Status, new_id
from llm_scheduler.jobs.scheduler import late_documents
from llm_scheduler.jobs.store import alerts, batches, ledger, submission
from llm_scheduler.jobs.store.alerts import Event

LEVELS = ["high", "low"]


def join(redis: Redis, status: Status, at: float, count: int = 1, queue: str = "low", id_at: float = 1.0) -> list[str]:
    """Documents that arrived at `id_at` and stand under `status` since `at`."""
    route = Route(priority=queue, queue=queue, handler="default", reasons=[])
    payloads = [Payload(new_id(float(id_at)), "c", f"{n}.json", id_at, at, route, b"1") for n in range(count)]
    submission.record(redis, status, at, payloads, [1] * count, "job")  # type: ignore[arg-type]
    return [payload.id for payload in payloads]


def told(redis: Redis) -> list[Event]:
    return [alerts.decode(fields[alerts.FIELD.encode()]) for _, fields in redis.xrange(KEYS.events)]


def look(redis: Redis, now: float, limit: float = 60, levels: list[str] = LEVELS) -> None:
    late_documents.check_late(redis, levels, limit, HandClock(now), logging.getLogger("test"))


def test_an_alert_is_raised_once_kept_up_to_date_and_cleared_once(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    join(redis, Status.QUEUED, 1000)
    look(redis, 1060)
    assert told(redis) == [], "at the limit is not beyond it"
    ids = join(redis, Status.QUEUED, 1001, 2) + join(redis, Status.QUEUED, 990, 1, id_at=50)
    for now in (1065, 1070, 1075):
        look(redis, now)
    [event] = told(redis)
    assert (event.kind, event.at) == ("queue_timeout", 1065)
    assert event.message == (
        f"4 documents of low waited longer than queue_timeout (60 s); the oldest, 0.json ({ids[-1]}), 75 s. "
        "Are there enough workers, and do they run? See `llmctl status`."
    )
    assert event.details == {
        "queue": "low",
        "count": 4,
        "oldest_id": ids[-1],
        "oldest_source": "0.json",
        "oldest_seconds": 75.0,
        "queue_timeout": 60.0,
    }
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", event.message)]
    assert alerts.standing(redis)["queue_timeout:low"].details["oldest_seconds"] == 85.0, "as of the last look"

    everyone = redis.zrange(KEYS.status_set("queued", "low"), 0, -1)
    ledger.move(redis, Status.STARTED, 1080, [(member.decode(), {}) for member in everyone])
    for now in (1081, 1086):
        look(redis, now)
    [_, over] = told(redis)
    assert (over.kind, over.at, over.details) == ("queue_timeout_over", 1081, {"queue": "low"})
    assert caplog.records[-1].getMessage() == "No document of low waits longer than queue_timeout any more."
    assert alerts.standing(redis) == {}


def test_only_a_wait_in_the_queue_counts(redis: Redis) -> None:
    for status in (Status.RECEIVED, Status.BATCHED, Status.STARTED, Status.RETRYING, Status.DONE):
        join(redis, status, 1000)
    [retried] = join(redis, Status.RETRYING, 1000)
    ledger.move(redis, Status.QUEUED, 5000, [(retried, {})])  # its id is old, its wait has just begun
    look(redis, 5001)
    assert told(redis) == []


def test_a_flushed_batch_waits_from_its_flush_on(redis: Redis) -> None:
    processing = Processing(batch_timeout=500)
    route = Route(priority="low", queue="low", handler="default", reasons=[])
    one = Payload(new_id(1000), "c", "a.json", 1000, 1000, route, b"1")
    with redis.pipeline() as pipeline:
        submission.record(pipeline, Status.BATCHED, 1000, [one], [1])
        batches.add(pipeline, "low", [one], processing, 1000)
        pipeline.execute()
    look(redis, 1400)
    assert batches.flush(redis, "low", processing, HandClock(1500)) == 1
    look(redis, 1559)
    assert told(redis) == []
    look(redis, 1561)
    assert [event.details["oldest_seconds"] for event in told(redis)] == [61.0]


def test_a_late_one_is_found_behind_thousands_that_are_not(redis: Redis) -> None:
    join(redis, Status.QUEUED, 2000, 2500, id_at=1.0)
    [late] = join(redis, Status.QUEUED, 1000, id_at=900.0)
    look(redis, 2010)
    [event] = told(redis)
    assert (event.details["count"], event.details["oldest_id"]) == (1, late)


def test_newcomers_are_not_even_read(redis: Redis) -> None:
    """A look at a long queue that moves costs next to nothing: no field of any document is asked for."""
    ids = join(redis, Status.QUEUED, 1000, 3, id_at=1000.0)
    ledger.move(redis, Status.QUEUED, 1, [(ids[1], {})])  # what can't be: it would count if it were read
    look(redis, 1060)
    assert told(redis) == []
    look(redis, 1061)
    assert [event.details["count"] for event in told(redis)] == [3]


def test_no_limit_no_alert_and_no_queue_no_alert(redis: Redis) -> None:
    join(redis, Status.QUEUED, 1000)
    look(redis, 2000, limit=0)
    assert told(redis) == []
    look(redis, 2000)
    look(redis, 2005, limit=0)
    assert [event.kind for event in told(redis)] == ["queue_timeout", "queue_timeout_over"]
    look(redis, 2010)
    look(redis, 2015, levels=["high"])
    assert alerts.standing(redis) == {}, "a queue that is no longer configured has no alert"


def test_an_alert_is_told_once_however_many_look(redis_server: Any, redis: Redis) -> None:
    join(redis, Status.QUEUED, 1000, 10)
    clients = [redis_server.client() for _ in range(6)]
    threads = [threading.Thread(target=look, args=(client, 2000 + n)) for n, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.kind for event in told(redis)] == ["queue_timeout"]
    for client in clients:
        client.close()


def test_the_stream_is_bounded_and_an_unreadable_alert_hides_no_other(redis: Redis) -> None:
    with redis.pipeline(transaction=False) as pipeline:
        for number in range(12_000):
            alerts.raise_alert(pipeline, f"noise{number}", Event(kind="noise", at=float(number), message="中"))
        pipeline.execute()
    redis.delete(KEYS.alerts)
    assert 10_000 <= redis.xlen(KEYS.events) < 10_500
    assert told(redis)[-1] == Event(kind="noise", at=11_999.0, message="中")
    redis.hset(KEYS.alerts, mapping={"a": "garbage", b"\xff": alerts.encode(told(redis)[0]), "c": "{}"})
    assert alerts.raise_alert(redis, "z", Event(kind="k", at=1.0, message="m"))
    assert list(alerts.standing(redis)) == ["z"]


ATTENTIVE = """
import llm_scheduler.jobs.scheduler.scheduler
llm_scheduler.jobs.scheduler.scheduler.LATE_CHECK_SECONDS = 0.2
llm_scheduler.jobs.scheduler.scheduler.main()
"""


@pytest.mark.slow
def test_a_queue_without_a_worker_in_a_fleet(fleet: Fleet, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alert comes, survives a takeover without a second word, and goes once the document has run: well."""
    (fleet.folder / "attentive.py").write_text(ATTENTIVE)
    monkeypatch.setenv("PYTHONPATH", str(fleet.folder))
    monkeypatch.setitem(Fleet.MODULES, "scheduler", ("attentive",))
    fleet.configure(processing={"queue_timeout": 0.5})
    fleet.start("ingest", "collector", "scheduler")
    fleet.drop("a.json", b'{"n": 1}')
    wait_until(lambda: alerts.standing(redis), "an alert", 30)
    assert "a.json" in fleet.log("scheduler")
    assert "WARNING" in fleet.log("scheduler")
    status = [str(Path(sys.executable).with_name("llmctl")), "--config", str(fleet.config_path), "status"]
    words = subprocess.run(status, capture_output=True, text=True).stdout
    assert "alert: 1 document of medium waited longer than queue_timeout (0.5 s); the oldest, a.json (" in words
    [alert] = json.loads(subprocess.run([*status, "--json"], capture_output=True, text=True).stdout)["alerts"]
    assert (alert["kind"], alert["details"]["queue"]) == ("queue_timeout", "medium")
    fleet.kill("scheduler")
    redis.delete(KEYS.scheduler_lock)
    before = alerts.standing(redis)["queue_timeout:medium"].details["oldest_seconds"]
    fleet.start("scheduler")
    wait_until(
        lambda: alerts.standing(redis)["queue_timeout:medium"].details["oldest_seconds"] != before, "a second look", 30
    )
    fleet.start("medium")
    fleet.wait_finished(1, deadline=30)
    wait_until(lambda: not alerts.standing(redis), "the all-clear", 30)
    assert [event.kind for event in told(redis)] == ["queue_timeout", "queue_timeout_over"]
    account(fleet, {"a": b'{"n": 1}'})
    assert not fleet.reports()
    assert redis.zcard(KEYS.schedule) == 0
