"""A Redis that is full, or takes no writes, or may delete jobs: what is in it comes to an end, nothing new goes in, and
people are told in words. And results that are too large for it."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import KEYS, Fleet, Server, account, files, wait_until
from redis import Redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from llm_scheduler.jobs.document import Route
from llm_scheduler.jobs.process.connection import explain
from llm_scheduler.jobs.process.outage import Outage
from llm_scheduler.jobs.store import outcomes, server_state
from llm_scheduler.jobs.store.full_redis import FinishingRedis
from llm_scheduler.jobs.store.outcomes import Outcome
from llm_scheduler.jobs.store.server_state import ServerState
from llm_scheduler.jobs.worker.job_transactions import rest_id

GATED = """
import os, time
def handle(document, context):
    while not os.path.exists("open"):
        time.sleep(0.02)
    return document["n"]
"""
LARGE = """
def handle(document, context):
    return "x" * document["size"]
"""
MB = 1024 * 1024


def status(fleet: Fleet) -> dict[str, Any]:
    asked = [str(Path(sys.executable).with_name("llmctl")), "--config", str(fleet.config_path), "status", "--json"]
    shown: dict[str, Any] = json.loads(subprocess.run(asked, capture_output=True, check=False, cwd=fleet.folder).stdout)
    return shown


@pytest.mark.slow
def test_a_full_server_is_emptied_and_nothing_more_goes_in(fleet: Fleet, redis: Redis) -> None:
    (fleet.folder / "my_handlers.py").write_text(GATED)
    fleet.configure(
        handlers={"default": "my_handlers:handle"}, processing={"mode": "hybrid", "batch_timeout": 1}
    ).start()
    wait_until(fleet.all_ready, "all of them")
    priorities = ["high", "medium", "low"]
    dropped = {
        f"{n}.json": b'{"n": %d, "metadata": {"priority": "%s"}}' % (n, priorities[n % 3].encode()) for n in range(150)
    }
    for name, content in list(dropped.items())[:90]:
        fleet.drop(name, content)
    wait_until(lambda: len(fleet.in_flight()) == 90 and fleet.ledger_total("queued", "started") == 90, "90 in flight")
    redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] * 0.95))
    with pytest.raises(OutOfMemoryError):
        redis.set("anything", "x")
    for name, content in list(dropped.items())[90:]:
        fleet.drop(name, content)
    (fleet.folder / "open").touch()
    fleet.wait_finished(90)
    assert len(files(fleet.raw)) == 60, "nothing more goes in"
    shown = status(fleet)
    assert shown["message"].startswith(("Redis is full (used", "Redis is nearly full (used")), shown["message"]
    assert (shown["status"], shown["missing"]) == ("degraded", []), "they run, and say so"
    wait_until(lambda: "maxmemory" in fleet.log("scheduler"), "the log to say so")
    for name in ("ingest", "collector", "scheduler", "high", "medium", "low"):
        assert fleet.log(name).count("Redis unreachable") == fleet.log(name).count("XADD") == 0
        assert fleet.log(name).count("Redis is back") <= 1
    redis.config_set("maxmemory", 0)
    fleet.wait_finished(150)
    account(fleet, dropped)


def test_a_client_that_finishes_gets_through(redis_server: Server, redis: Redis) -> None:
    redis.rpush(KEYS.queue("high"), "first", "second", "third", "fourth")
    redis.config_set("maxmemory", 1000)
    finishing: FinishingRedis = FinishingRedis.from_url(redis_server.url)
    try:
        with pytest.raises(OutOfMemoryError):
            redis.blmove(KEYS.queue("high"), "between", 1)
        assert finishing.blmove(KEYS.queue("high"), "between", 1) == b"first"
        with finishing.pipeline() as pipeline:
            pipeline.hset("h", mapping={"a": b"\xff\x00"})
            pipeline.delete("nothing")
            pipeline.eval("return redis.call('SET', KEYS[1], 1)", 1, "k")
            pipeline.hgetall("h")
            assert pipeline.execute() == [1, 0, b"OK", {b"a": b"\xff\x00"}]
        for _ in range(2):
            finishing.xadd(KEYS.outcomes("high"), {"o": b"x"})
        with pytest.raises(OutOfMemoryError):  # the collector has to catch up first
            finishing.blmove(KEYS.queue("high"), "between", 1)
        redis.delete(KEYS.outcomes("high"))
        assert finishing.blmove(KEYS.queue("high"), "between", 1) == b"second"
        with finishing.pipeline() as pipeline:
            pipeline.watch("h")
            pipeline.multi()
            pipeline.hset("h", "b", "1")
            with pytest.raises(OutOfMemoryError):
                pipeline.execute()
    finally:
        finishing.close()


def test_finished_documents_leave_the_ledger_before_ingest_has_to_stop() -> None:
    assert not ServerState(used=70, limit=100).is_short
    assert ServerState(used=85, limit=100).is_short
    assert ServerState(used=85, limit=100).spare == 5
    assert not ServerState(used=85).is_short


def test_a_replica_is_called_one(fleet: Fleet, redis: Redis) -> None:
    fleet.config()
    redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    shown = status(fleet)
    assert shown["status"] == "degraded"
    assert shown["message"].startswith("Redis is a read-only replica")


def test_a_policy_that_deletes_jobs_is_told(fleet: Fleet, redis: Redis) -> None:
    redis.config_set("maxmemory-policy", "allkeys-lru")
    fleet.start("scheduler")
    wait_until(lambda: "maxmemory-policy is allkeys-lru. Set it to noeviction" in fleet.log("scheduler"), "an error")
    assert "allkeys-lru" in status(fleet)["message"]
    redis.config_set("maxmemory-policy", "noeviction")
    assert "allkeys-lru" not in status(fleet)["message"]
    assert server_state.parse(ResponseError("NOPERM"), ResponseError("NOPERM")) == ServerState(), (
        "who may not ask hears nothing"
    )


def test_one_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    outage = Outage(logging.getLogger("test"), lambda: now[0])
    caplog.set_level(logging.INFO)
    for _ in range(20):
        outage.failed(OutOfMemoryError("command not allowed"))
        now[0] += 0.1
        outage.over()  # a read was answered
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["Redis refuses writes"]
    now[0] += Outage.CALM_SECONDS
    outage.over()
    assert caplog.records[-1].getMessage().startswith("Redis is back")
    outage.failed(ConnectionError("Connection refused."))
    assert "Connection refused. Waiting" in caplog.records[-1].getMessage()
    outage.over()
    assert caplog.records[-1].getMessage().startswith("Redis is back"), "one that was away is back at once"


def test_an_error_is_told_without_what_the_command_carried() -> None:
    carried = f"Command # 1 (XADD {KEYS.outcomes('high')} * o \x93secret) of pipeline caused error: "
    assert explain(ResponseError(carried + "ERR wrong")) == "ERR wrong"
    assert explain(OutOfMemoryError(carried + "command not allowed")).startswith("it is full")
    assert explain(ReadOnlyError("You can't write")).startswith("it is a read-only replica")
    assert explain(ResponseError("MISCONF Redis is configured to")).startswith("it can't write its own file")


# Large results


def test_a_result_that_is_too_large_is_refused_at_once(fleet: Fleet) -> None:
    (fleet.folder / "my_handlers.py").write_text(LARGE)
    fleet.configure(handlers={"default": "my_handlers:handle"}, processing={"max_result_bytes": 1000}).start()
    dropped = {f"{size}.json": b'{"size": %d}' % size for size in (10, 5000)}
    for name, content in dropped.items():
        fleet.drop(name, content)
    fleet.wait_finished(2)
    account(fleet, dropped)
    (report,) = fleet.reports()
    assert (report["code"], report["attempts"]) == ("handler_failed", 1)
    assert report["message"] == "The result is too large: 5002 bytes, at most 1000 (processing.max_result_bytes)."


@pytest.mark.slow
def test_a_job_of_large_results_goes_on_in_parts(fleet: Fleet, redis: Redis) -> None:
    """12 results of 30 MB are more than a server takes in one value, and than a connection may hold."""
    (fleet.folder / "my_handlers.py").write_text(LARGE)
    fleet.configure(handlers={"default": "my_handlers:handle"}, processing={"mode": "batch", "batch_timeout": 1})
    redis.config_set("proto-max-bulk-len", 64 * MB)
    dropped = {f"{n}.json": b'{"size": %d}' % (30 * MB + n) for n in range(12)}
    for name, content in dropped.items():
        fleet.drop(name, content)
    fleet.start()
    fleet.wait_finished(12)
    assert len(files(fleet.archive)) == 12
    assert "unreachable" not in fleet.log("medium")


def test_outcomes_are_parted_by_their_size() -> None:
    def done(size: int) -> Outcome:
        return Outcome(
            kind="done", id="i", group="c", attempts=1, completed_at=0.0, result=b"x" * size,
            route=Route(priority="p", queue="q", handler="h", reasons=[]),
        )  # fmt: skip

    many = [done(size) for size in (3, 4, 5, 20, 1, 1)]
    assert [[len(each.result) for each in part] for part in outcomes.parts(many, 8)] == [[3, 4], [5], [20], [1, 1]]
    assert list(outcomes.parts([], 8)) == []


def test_every_rest_of_a_job_is_another_job() -> None:
    ids = ["01M85S9X6BYZG7WETZM4D26NRM"]
    for _ in range(20):
        ids.append(rest_id(ids[-1]))
    assert ids[1:4] == [f"{ids[0]}-rest", f"{ids[0]}-rest2", f"{ids[0]}-rest3"]
    assert len(set(ids)) == 21
