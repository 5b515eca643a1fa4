"""Handlers of whole batches: one call for many documents, and none of them able to hurt another."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Fleet, account, files
from test_running import HandClock, payload

from llm_scheduler.jobs.config import Intake, Processing
from llm_scheduler.jobs.document import Payload
from llm_scheduler.jobs.handler import BatchContext, BatchHandler, HandlerMissing, Reject, load_handlers
from llm_scheduler.jobs.store.outcomes import encode
from llm_scheduler.jobs.worker.hang_guard import HangGuard
from llm_scheduler.jobs.worker.reader import Reader
from llm_scheduler.jobs.worker.runner import JobResult, Runner

Function = Callable[[list[Any], BatchContext], Any]


def run(
    function: Function,
    payloads: list[Payload],
    stopping: Callable[[], bool] = lambda: False,
    **processing: Any,
) -> JobResult:
    settings = Processing(**{"retry_attempts": 2, "retry_delay": 10, **processing})
    handlers = {"default": BatchHandler(function), "single": lambda document, context: [document]}
    clock, log = HandClock(), logging.getLogger("test")
    guard, reader = HangGuard(clock), Reader(settings, Intake())
    ran = Runner(settings, handlers, clock, stopping, log, guard, reader).run(payloads, "job-1")
    encode(ran.outcomes)  # they have to be able to travel
    return ran


def numbers(count: int, **fields: Any) -> list[Payload]:
    return [payload(b"%d" % number, **fields) for number in range(count)]


def told(ran: JobResult, payloads: list[Payload]) -> list[tuple[str, str]]:
    """What became of each payload, in their order."""
    found = {each.id: (each.kind, each.result.decode() or each.message) for each in ran.outcomes}
    found |= {each.payload.id: ("again", each.reason) for each in ran.retries}
    found |= {each.id: ("left", "") for each in ran.not_begun}
    assert len(found) == len(ran.outcomes) + len(ran.retries) + len(ran.not_begun) == len(payloads)
    return [found[each.id] for each in payloads]


def test_one_call_for_all_with_a_result_for_each_in_order() -> None:
    calls: list[tuple[list[Any], BatchContext]] = []

    def handle_batch(documents: list[Any], context: BatchContext) -> list[Any]:
        calls.append((documents, context))
        return [{"twice": document * 2} for document in documents]

    payloads = numbers(3, attempts=1)
    ran = run(handle_batch, payloads)
    assert told(ran, payloads) == [("done", f'{{"twice":{twice}}}') for twice in (0, 2, 4)]
    assert [outcome.attempts for outcome in ran.outcomes] == [2, 2, 2]
    [(documents, context)] = calls
    assert documents == [0, 1, 2]
    assert (context.queue, context.handler) == ("high", "default")
    assert [(each.id, each.attempt, each.text) for each in context.documents] == [
        (each.id, 2, b"%d" % number) for number, each in enumerate(payloads)
    ]


def test_an_element_speaks_for_its_own_document_only() -> None:
    def handle_batch(documents: list[Any], context: BatchContext) -> tuple[Any, ...]:
        return ("fine", Reject("no"), ConnectionError("away"), float("nan"), object(), None)

    payloads = numbers(6)
    kinds = told(run(handle_batch, payloads), payloads)
    assert [kind for kind, _ in kinds] == ["done", "rejected", "again", "again", "again", "done"]
    assert kinds[1] == ("rejected", "no")
    assert kinds[2] == ("again", "handler_failed: ConnectionError: away")
    assert "nan" in kinds[3][1]
    assert kinds[5] == ("done", "null")


@pytest.mark.parametrize("error", [ValueError("bad"), Reject("bad"), SystemExit("bad")])
def test_a_call_that_raises_is_found_out_one_by_one(error: BaseException) -> None:
    calls: list[list[Any]] = []

    def handle_batch(documents: list[Any], context: BatchContext) -> list[Any]:
        calls.append(documents)
        assert len(context.documents) == len(documents)
        if 2 in documents:
            raise error
        return documents

    payloads = numbers(4)
    kinds = told(run(handle_batch, payloads), payloads)
    assert calls == [[0, 1, 2, 3], [0], [1], [2], [3]]
    kind = "rejected" if isinstance(error, Reject) else "again"
    assert [each for each, _ in kinds] == ["done", "done", kind, "done"]
    assert "bad" in kinds[2][1]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned a value of type NoneType"),
        ({"a": 1}, "returned a value of type dict"),
        ("abcd", "returned a value of type str"),
        ([], "returned 0 for 1"),
        ([1, 2, 3], "returned 3 for 1"),
    ],
    ids=repr,
)
def test_what_is_no_list_of_that_length_fails_every_document(returned: Any, message: str) -> None:
    payloads = numbers(4)
    ran = run(lambda documents, context: returned, payloads, retry_attempts=0)
    for outcome in ran.outcomes:
        assert (outcome.kind, outcome.code) == ("rejected", "handler_failed")
        assert "handle_batch has to return a list with one result for each document" in outcome.message
        assert message in outcome.message
    assert len(ran.outcomes) == 4


def test_a_refused_document_is_left_out() -> None:
    payloads = [payload(b"0"), payload(b'{"cut'), payload(b"2")]
    seen: list[Any] = []

    def handle_batch(documents: list[Any], context: BatchContext) -> list[Any]:
        seen.append((documents, [each.id for each in context.documents]))
        return documents

    kinds = told(run(handle_batch, payloads), payloads)
    assert seen == [([0, 2], [payloads[0].id, payloads[2].id])]
    assert [kind for kind, _ in kinds] == ["done", "rejected", "done"]
    assert run(lambda documents, context: pytest.fail("asked"), [payload(b"{")]).outcomes[0].code == "invalid_json"


def test_handlers_of_both_kinds_in_one_job() -> None:
    kinds = ["default", "single", "default", "single", "nobody"]
    payloads = [payload(b"%d" % number, handler=name) for number, name in enumerate(kinds)]
    seen: list[Any] = []

    def handle_batch(documents: list[Any], context: BatchContext) -> list[Any]:
        seen.append(documents)
        return documents

    assert told(run(handle_batch, payloads), payloads) == [
        ("done", "0"),
        ("done", "[1]"),
        ("done", "2"),
        ("done", "[3]"),
        ("rejected", "No handler is called 'nobody' in the configuration of this worker."),
    ]
    assert seen == [[0, 2]]


def test_the_time_limit_is_that_of_a_document_times_the_documents() -> None:
    calls: list[list[Any]] = []

    def handle_batch(documents: list[Any], context: BatchContext) -> list[Any]:
        calls.append(documents)
        time.sleep(0.3 if len(documents) == 4 else 30 if 2 in documents else 0)
        return documents

    payloads = numbers(4)
    ran = run(handle_batch, payloads, worker_timeout=0.2)
    assert calls == [[0, 1, 2, 3]], "0.3 s is within four times 0.2 s"
    assert [kind for kind, _ in told(ran, payloads)] == ["done"] * 4

    calls.clear()
    payloads = numbers(3)
    began = time.monotonic()
    ran = run(handle_batch, payloads, worker_timeout=0.2)
    assert calls == [[0, 1, 2], [0], [1], [2]]
    assert time.monotonic() - began < 10
    assert told(ran, payloads) == [
        ("done", "0"),
        ("done", "1"),
        ("again", "timeout: The handler ran longer than worker_timeout (0.2 s)."),
    ]
    time.sleep(0.3)  # no alarm is left behind: it would end this process


def test_a_batch_in_hand_is_finished_when_told_to_stop_and_no_further_call_made() -> None:
    calls: list[list[Any]] = []

    def handle_batch(documents: list[Any], context: BatchContext) -> list[Any]:
        calls.append(documents)
        if len(documents) > 1 and 3 in documents:
            raise ValueError
        return documents

    payloads = [*numbers(3), payload(b"9", handler="single")]
    assert [kind for kind, _ in told(run(handle_batch, payloads, lambda: bool(calls)), payloads)] == [
        *["done"] * 3,
        "left",
    ]
    calls.clear()
    payloads = [*numbers(4), payload(b"9", handler="single")]
    ran = run(handle_batch, payloads, lambda: len(calls) >= 2)
    assert calls == [[0, 1, 2, 3], [0]]
    assert [kind for kind, _ in told(ran, payloads)] == ["done", *["left"] * 4]
    assert ran.not_begun == payloads[1:]


def test_each_document_has_its_share_of_the_time() -> None:
    clock = HandClock()

    def handle_batch(documents: list[Any], context: BatchContext) -> list[Any]:
        clock.at += 6
        return documents

    handlers = {"default": BatchHandler(handle_batch)}
    guard, reader = HangGuard(clock), Reader(Processing(), Intake())
    runner = Runner(Processing(), handlers, clock, lambda: False, logging.getLogger("test"), guard, reader)
    assert [outcome.seconds for outcome in runner.run(numbers(4), "job-1").outcomes] == [1.5] * 4


def test_the_hang_guard_follows_the_size_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[float] = []
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda seconds, exit: armed.append(seconds))
    clock = HandClock()
    guard = HangGuard(clock)
    for seconds, passes in (
        (310.0, 0.5),
        (310.0, HangGuard.GRACE_SECONDS / 10),
        (310.0, 1),
        (3010.0, 20),
        (310.0, 0),
        (310.0, 0),
    ):
        guard.renew(seconds)
        clock.at += passes
    assert armed == [310.0, 310.0, 3010.0, 310.0]


def test_the_name_says_that_a_handler_takes_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "both_kinds.py").write_text(
        "def handle(d, c): ...\ndef score(d, c): ...\nhandle_batch = score\n"
        "class later:\n    async def handle_batch(d, c): ...\n"
    )
    (tmp_path / "later_batch.py").write_text("async def handle_batch(d, c): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = load_handlers(
        {"one": "both_kinds:handle", "many": "both_kinds:handle_batch", "async": "later_batch:handle_batch"}
    )
    assert isinstance(found["many"], BatchHandler)
    assert not isinstance(found["one"], BatchHandler)
    assert not isinstance(found["default"], BatchHandler)
    assert isinstance(found["async"], HandlerMissing)


HANDLERS = """
import os, time
from llm_scheduler.jobs.handler import Reject

def handle_batch(documents, context):
    with open("calls.txt", "a") as log:
        which = [f"{d['n']}:{c.attempt}" for d, c in zip(documents, context.documents)]
        print(time.time(), len(documents), *which, file=log)
    results = []
    for document, own in zip(documents, context.documents, strict=True):
        if document["n"] == 7 and own.attempt < 3:
            results.append(ConnectionError("not yet"))
        elif document["n"] == 8:
            results.append(Reject("not this one"))
        else:
            results.append({"n": document["n"], "attempt": own.attempt})
    return results
"""


@pytest.mark.slow
def test_a_retry_in_a_job_of_fifty_is_one_documents_own_matter(fleet: Fleet) -> None:
    """Through the whole fleet: 50 documents in one call, and those that come to nothing tried again alone, later."""
    (fleet.folder / "my_handlers.py").write_text(HANDLERS)
    delay = 1.0
    fleet.configure(
        handlers={"default": "my_handlers:handle_batch"},
        processing={"mode": "batch", "batch_size": 50, "batch_timeout": 60, "retry_delay": delay, "retry_attempts": 3},
    )
    contents = {f"{number}.json": b'{"n": %d}' % number for number in range(50)}
    for name, content in contents.items():
        fleet.drop(name, content)
    fleet.start("ingest", "collector", "scheduler", "medium")
    fleet.wait_finished(50, deadline=40)
    account(fleet, contents)
    results = {result["source"]: result["attempts"] for result in fleet.results()}
    assert results == {name: 3 if name == "7.json" else 1 for name in contents if name != "8.json"}
    [report] = fleet.reports()
    assert (report["source"], report["code"], report["message"]) == ("8.json", "handler_rejected", "not this one")

    calls = [line.split() for line in (fleet.folder / "calls.txt").read_text().splitlines()]
    assert Counter(int(count) for _, count, *_ in calls) == {50: 1, 1: 2}, "one call for all, and two retries of one"
    assert [documents for _, _, *documents in calls[1:]] == [["7:2"], ["7:3"]]
    first, second, third = (float(at) for at, *_ in calls)
    slack = 5.0  # a loaded machine is late; it is never early
    assert delay / 2 <= second - first < delay + slack
    assert delay <= third - second < 2 * delay + slack
    assert not [path for path in files(fleet.temp) if path.name != "manifest"]
