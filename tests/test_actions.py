"""Trying jobs again, cancelling them, pausing queues and restarting the fleet, with real processes."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from conftest import KEYS, Fleet, Server, mostly_slow, serve, wait_until

from llm_scheduler.api.app import make_app
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.document import new_id
from llm_scheduler.jobs.process.connection import connect

HANDLER = '''"""Notes each run; waits while there is a file `slow`, and refuses all while there is `broken`."""
import pathlib
import time

from llm_scheduler.jobs.handler import Reject

FOLDER = pathlib.Path(__file__).parent


def handle(document, context):
    with (FOLDER / "ran").open("a") as file:
        file.write(f"{context.source}\\n")
    while (FOLDER / "slow").exists():
        time.sleep(0.02)
    if (FOLDER / "broken").exists():
        raise Reject("the rates are missing")
    return {"n": document["n"]}
'''


class Acting:
    """A fleet with an API in front of it."""

    def __init__(self, fleet: Fleet, http: httpx.Client) -> None:
        self.fleet = fleet
        self.http = http

    def post(self, path: str, expected: int = 202, **query: str) -> Any:
        answer = self.http.post(path, params=query)
        assert answer.status_code == expected, answer.text
        return answer.json()

    def hand_in(self, number: int, **metadata: Any) -> str:
        answer = self.http.post("/jobs", json={"n": number, "metadata": metadata})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def status(self, job_id: str) -> str:
        return str(self.http.get(f"/jobs/{job_id}").json().get("status"))

    def becomes(self, job_id: str, status: str) -> dict[str, Any]:
        wait_until(lambda: self.status(job_id) == status, f"{job_id} {status}")
        found: dict[str, Any] = self.http.get(f"/jobs/{job_id}").json()
        return found

    def flag(self, name: str, *, up: bool = True) -> None:
        path = self.fleet.folder / name
        path.touch() if up else path.unlink()

    @property
    def ran(self) -> list[str]:
        path = self.fleet.folder / "ran"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def acting(fleet: Fleet, redis_server: Server) -> Iterator[Acting]:
    (fleet.folder / "rates.py").write_text(HANDLER)
    fleet.configure(handlers={"default": "rates:handle"})
    with connect(redis_server.url) as redis, serve(make_app(fleet.config(), redis, SystemClock())) as http:
        yield Acting(fleet, http)


def test_a_rejected_job_is_tried_again_under_its_id(acting: Acting) -> None:
    acting.flag("broken")
    acting.fleet.start(env={"PYTHONPATH": str(acting.fleet.folder)})
    job_id = acting.hand_in(1)
    rejected = acting.becomes(job_id, "rejected")
    assert rejected["error"]["code"] == "handler_rejected"
    assert acting.http.get(f"/jobs/{job_id}/result").status_code == 409
    original = acting.http.get(f"/jobs/{job_id}/original")
    assert json.loads(original.content) == {"n": 1, "metadata": {}}

    acting.flag("broken", up=False)
    asked = acting.post(f"/jobs/{job_id}/retry")
    assert (asked["id"], asked["asked"]) == (job_id, "retry")
    done = acting.becomes(job_id, "done")
    assert done["error"] is None
    assert [step["status"] for step in done["timeline"]].count("received") == 2
    assert acting.http.get(f"/jobs/{job_id}/result").json()["result"] == {"n": 1}
    assert acting.http.get(f"/jobs/{job_id}/document").json() == {"n": 1, "metadata": {}}
    assert acting.http.get(f"/jobs/{job_id}/original").content == original.content
    assert acting.fleet.reports() == [], "the old report has gone"
    assert not [path for path in acting.fleet.errors.rglob("*") if path.is_file()]
    assert "done" in acting.post(f"/jobs/{job_id}/retry", 409)["detail"]


def test_jobs_are_cancelled_wherever_they_are(acting: Acting) -> None:
    """One that only lies in the watch folder, one that waits in a batch, one in a queue, one in a worker's hands."""
    acting.fleet.configure(processing={"mode": "hybrid", "batch_timeout": 600, "batch_size": 50})
    acting.fleet.config()
    unclaimed = acting.hand_in(1)
    acting.fleet.start("ingest", "collector", env={"PYTHONPATH": str(acting.fleet.folder)})
    acting.becomes(unclaimed, "batched")
    queued = acting.hand_in(2, priority="high")
    acting.becomes(queued, "queued")
    acting.flag("slow")
    for job_id in (unclaimed, queued):
        assert acting.http.delete(f"/jobs/{job_id}").status_code == 202
    for job_id in (unclaimed, queued):
        assert acting.becomes(job_id, "cancelled")["error"]["code"] == "cancelled"
    acting.fleet.start("high", env={"PYTHONPATH": str(acting.fleet.folder)})
    started = acting.hand_in(3, priority="high")
    acting.becomes(started, "started")
    acting.fleet.stop("ingest")
    dropped = acting.hand_in(4, priority="high")
    for job_id in (started, dropped):
        assert acting.http.delete(f"/jobs/{job_id}").status_code == 202
    acting.fleet.start("ingest")
    for job_id in (started, dropped):
        assert acting.becomes(job_id, "cancelled")["error"]["message"] == "Cancelled by local."
    acting.flag("slow", up=False)
    later = acting.hand_in(5, priority="high")
    acting.becomes(later, "done")
    assert [acting.status(each) for each in (unclaimed, queued, started, dropped)] == ["cancelled"] * 4
    assert len(acting.fleet.results()) == 1, "what a worker made of a cancelled document is dropped"
    assert len(acting.ran) == 2, "no worker has begun with one that was cancelled before"
    assert len(acting.fleet.reports()) == 4
    assert acting.http.delete(f"/jobs/{later}").status_code == 409

    acting.post(f"/jobs/{dropped}/retry")
    acting.becomes(dropped, "done")


def test_many_are_tried_again_after_a_dry_run(acting: Acting) -> None:
    acting.flag("broken")
    acting.fleet.start(env={"PYTHONPATH": str(acting.fleet.folder)})
    jobs = [acting.hand_in(number) for number in range(7)]
    acting.fleet.drop("other/bad.json", "not JSON at all")
    for job_id in jobs:
        acting.becomes(job_id, "rejected")
    wait_until(lambda: len(acting.fleet.reports()) == 8, "eight reports")
    acting.flag("broken", up=False)
    dry = acting.post("/bulk/retry", 200, code="handler_rejected")
    assert (dry["matched"], sorted(dry["sample"])) == (7, sorted(jobs))
    assert [acting.status(each) for each in jobs] == ["rejected"] * 7, "nothing has changed yet"
    acting.flag("broken")
    late = acting.hand_in(8)
    acting.becomes(late, "rejected")
    acting.flag("broken", up=False)
    assert "filter" in acting.post("/bulk/retry", 409, code="invalid_json", confirm=dry["confirm"])["detail"]
    assert "dry run" in acting.post("/bulk/cancel", 409, code="handler_rejected", confirm=dry["confirm"])["detail"]
    told = acting.post("/bulk/retry", code="handler_rejected", confirm=dry["confirm"])
    assert told == {"asked": "retry", "accepted": 7, "more": False}
    for job_id in jobs:
        acting.becomes(job_id, "done")
    assert acting.status(late) == "rejected", "it came after the dry run"
    acting.post("/bulk/retry", 422, status="done")


@pytest.mark.slow
@pytest.mark.parametrize("point", mostly_slow(["retry.moved", "retry.manifest_written"]))
def test_a_retry_that_is_killed_between_two_steps_is_finished(acting: Acting, point: str) -> None:
    acting.flag("broken")
    environment = {"PYTHONPATH": str(acting.fleet.folder)}
    acting.fleet.start(env=environment)
    job_id = acting.hand_in(1)
    acting.becomes(job_id, "rejected")
    acting.flag("broken", up=False)
    acting.fleet.stop("ingest")
    acting.post(f"/jobs/{job_id}/retry")
    acting.fleet.start("ingest", faults=point)
    wait_until(lambda: acting.fleet.running["ingest"].poll() is not None, "ingest killed")
    acting.fleet.running.pop("ingest")
    acting.fleet.start("ingest")
    acting.becomes(job_id, "done")
    assert not [path for path in acting.fleet.errors.rglob("*") if path.is_file()]
    assert len(acting.fleet.results()) == 1


@pytest.mark.slow
def test_a_late_duplicate_of_an_earlier_try_is_no_news(acting: Acting, redis_server: Server) -> None:
    """A worker was taken for dead; what it says afterwards must not end the document's second life."""
    acting.flag("broken")
    acting.fleet.start(env={"PYTHONPATH": str(acting.fleet.folder)})
    job_id = acting.hand_in(1)
    acting.becomes(job_id, "rejected")
    from llm_scheduler.jobs.document import Route
    from llm_scheduler.jobs.store import outcomes
    from llm_scheduler.jobs.store.outcomes import Outcome

    acting.flag("broken", up=False)
    acting.flag("slow")
    acting.post(f"/jobs/{job_id}/retry")
    wait_until(lambda: acting.status(job_id) in ("queued", "started"), "the job on its way again")
    route = Route(priority="medium", queue="medium", handler="default", reasons=[])
    late = Outcome(
        kind="rejected", id=job_id, group=new_id(1.0), attempts=1, completed_at=1, route=route, code="timeout"
    )
    with connect(redis_server.url) as redis:
        redis.xadd(KEYS.outcomes("medium"), {outcomes.FIELD: outcomes.encode([late])})
        wait_until(lambda: redis.xlen(KEYS.outcomes("medium")) == 0, "the late word heard")
    assert acting.status(job_id) in ("queued", "started")
    acting.flag("slow", up=False)
    acting.becomes(job_id, "done")


@pytest.mark.slow
def test_an_order_that_can_not_be_carried_out_holds_up_nobody(acting: Acting, redis_server: Server) -> None:
    acting.flag("broken")
    acting.fleet.start(env={"PYTHONPATH": str(acting.fleet.folder)})
    gone = acting.hand_in(1)
    acting.becomes(gone, "rejected")
    for path in list(acting.fleet.errors.rglob("*.json")):
        path.unlink()
    acting.flag("broken", up=False)
    acting.post(f"/jobs/{gone}/retry")
    with connect(redis_server.url) as redis:
        redis.xadd(KEYS.commands, {"o": b"no order"})
        job_id = acting.hand_in(2)
        acting.becomes(job_id, "done")
        wait_until(lambda: redis.xlen(KEYS.commands) == 0, "no order left")
    assert acting.status(gone) == "rejected"
    assert "not in the error folder" in acting.fleet.log("ingest")


def test_a_paused_queue_waits(acting: Acting) -> None:
    acting.fleet.start(env={"PYTHONPATH": str(acting.fleet.folder)})
    acting.becomes(acting.hand_in(0, priority="high"), "done")
    assert acting.http.post("/queues/nobody/pause").status_code == 404
    assert acting.http.post("/queues/high/pause").json()["paused"]
    wait_until(lambda: "high is paused" in acting.fleet.log("high"), "the worker heard of it")
    other = acting.hand_in(3, priority="medium")
    acting.becomes(other, "done")
    held = acting.hand_in(2, priority="high")
    acting.becomes(held, "queued")
    assert not acting.http.post("/queues/high/resume").json()["paused"]
    acting.becomes(held, "done")


@pytest.mark.slow
def test_a_restart_loses_nothing(acting: Acting) -> None:
    """Every process ends by itself, with 0, once it has finished what it has in hand."""
    acting.flag("slow")
    acting.fleet.start(env={"PYTHONPATH": str(acting.fleet.folder)})
    in_hand = acting.hand_in(1, priority="high")
    acting.becomes(in_hand, "started")
    # A process that begins after the restart was asked for has nothing to restart for.
    wait_until(acting.fleet.all_ready, "every process")
    assert acting.post("/restart")["restart"]
    running = acting.fleet.running
    wait_until(lambda: running["ingest"].poll() == 0, "ingest ended")
    assert running["high"].poll() is None, "it has a document in hand"
    acting.flag("slow", up=False)
    for name, process in running.items():
        assert process.wait(15) == 0, (name, acting.fleet.log(name))
    running.clear()
    waiting = acting.hand_in(2, priority="high")
    acting.fleet.start(env={"PYTHONPATH": str(acting.fleet.folder)})
    for job_id in (in_hand, waiting):
        acting.becomes(job_id, "done")
    assert len(acting.ran) == 2
    assert all(process.poll() is None for process in acting.fleet.running.values()), "they heard of it at their start"
