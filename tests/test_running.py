"""Running documents: each ends in an outcome of its own, whatever its handler does."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Fleet, account

from llm_scheduler.jobs.config import Intake, Processing
from llm_scheduler.jobs.document import Payload, Route, new_id, pack_body
from llm_scheduler.jobs.handler import Context, HandlerMissing, Reject, load_handlers
from llm_scheduler.jobs.store.outcomes import Outcome, encode
from llm_scheduler.jobs.worker.failure import OutOfMemory
from llm_scheduler.jobs.worker.hang_guard import HangGuard
from llm_scheduler.jobs.worker.reader import Reader
from llm_scheduler.jobs.worker.runner import JobResult, Retry, Runner, backoff


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def payload(text: bytes = b'{"n": 1}', handler: str = "default", attempts: int = 0) -> Payload:
    body, packed = pack_body(text)
    route = Route(priority="high", queue="high", handler=handler, reasons=["a test"])
    return Payload(new_id(1.0), "0001", "a.json", 1.0, 2.0, route, body, packed, attempts)


def run(
    handler: Callable[[Any, Context], Any] | HandlerMissing,
    payloads: list[Payload] | None = None,
    stopping: Callable[[], bool] = lambda: False,
    **processing: Any,
) -> JobResult:
    settings = Processing(**{"retry_attempts": 2, "retry_delay": 10, **processing})
    clock, log = HandClock(), logging.getLogger("test")
    guard, reader = HangGuard(clock), Reader(settings, Intake())
    runner = Runner(settings, {"default": handler}, clock, stopping, log, guard, reader)
    return runner.run(payloads or [payload()], "job-1")


def outcome_of(ran: JobResult) -> Outcome:
    assert (len(ran.outcomes), ran.retries, ran.not_begun) == (1, [], [])
    encode(ran.outcomes)  # it has to be able to travel
    return ran.outcomes[0]


def again_of(ran: JobResult) -> Retry:
    assert (ran.outcomes, len(ran.retries), ran.not_begun) == ([], 1, [])
    return ran.retries[0]


def test_done_with_the_handlers_result() -> None:
    seen: list[Any] = []

    def handle(document: Any, context: Context) -> Any:
        seen.append((document, context))
        return {"sum": document["n"] + 1, "中": None}

    text = b' {"n": 12345678901234567890123} '
    done = outcome_of(run(handle, [payload(text, attempts=1)]))
    assert (done.kind, done.result, done.attempts) == ("done", '{"sum":12345678901234567890124,"中":null}'.encode(), 2)
    assert (done.rq_job_id, done.completed_at, done.route.reasons) == ("job-1", 1_000_000.0, ["a test"])
    [(document, context)] = seen
    assert document == {"n": 12345678901234567890123}
    assert (context.attempt, context.source, context.text) == (2, "a.json", text.strip())
    assert (context.priority, context.queue, context.handler, context.received_at) == ("high", "high", "default", 1.0)


def test_a_large_document_arrives_whole() -> None:
    text = b'{"t": "%s"}' % (b"abc " * 5000)
    assert payload(text).packed
    assert outcome_of(run(lambda document, context: len(document["t"]), [payload(text)])).result == b"20000"


@pytest.mark.parametrize(("words", "message"), [("why not", "why not"), ("", "The handler gave no reason.")])
def test_reject_is_final_at_once(words: str, message: str) -> None:
    def handle(document: Any, context: Context) -> Any:
        raise Reject(words)

    rejected = outcome_of(run(handle))
    assert (rejected.kind, rejected.code, rejected.message) == ("rejected", "handler_rejected", message)


def test_an_exception_is_tried_again_until_the_attempts_are_used_up() -> None:
    def handle(document: Any, context: Context) -> Any:
        raise KeyError(f"attempt {context.attempt}")

    for attempts in (0, 1):
        again = again_of(run(handle, [payload(attempts=attempts)]))
        assert again.payload.attempts == attempts + 1
        whole = 10 * 2**attempts
        assert 1_000_000 + whole / 2 <= again.at <= 1_000_000 + whole
        assert "handler_failed" in again.reason
    rejected = outcome_of(run(handle, [payload(attempts=2)]))
    assert (rejected.code, rejected.message, rejected.attempts) == ("handler_failed", "KeyError: 'attempt 3'", 3)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("two\nlines"), "lines"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (RuntimeError("half \ud800"), "RuntimeError: half \\ud800"),
        (RuntimeError("x" * 100_000), "RuntimeError: xxx"),
        (Reject("half \ud800 " + "x" * 100_000), "half \\ud800 xxx"),
        (Unprintable(), "Unprintable: <exception str() failed>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_raised_ends_in_an_outcome_that_can_be_told(error: BaseException, message: str) -> None:
    def handle(document: Any, context: Context) -> Any:
        raise error

    rejected = outcome_of(run(handle, retry_attempts=0))
    assert message in rejected.message
    assert len(rejected.message) < 3000


def test_a_handler_out_of_memory_is_the_workers_end() -> None:
    def handle(document: Any, context: Context) -> Any:
        raise MemoryError

    with pytest.raises(OutOfMemory):
        run(handle)


def loop(document: Any, context: Context) -> Any:
    result: list[Any] = []
    result.append(result)
    return result


@pytest.mark.parametrize(
    "result",
    [float("nan"), {"a": [float("inf")]}, {"a": (float("-inf"), None)}, object(), "half \ud800", {"\ud800": 1}, loop],
    ids=["nan", "inf", "-inf", "object", "surrogate", "surrogate key", "loop"],
)
def test_a_result_that_json_cannot_hold_is_a_failure(result: Any) -> None:
    rejected = outcome_of(run(result if callable(result) else lambda document, context: result, retry_attempts=0))
    assert rejected.code == "handler_failed"


def test_the_time_limit_interrupts_a_sleep() -> None:
    began = time.monotonic()
    rejected = outcome_of(run(lambda document, context: time.sleep(30), worker_timeout=0.1, retry_attempts=0))
    assert time.monotonic() - began < 5
    assert (rejected.code, rejected.message) == ("timeout", "The handler ran longer than worker_timeout (0.1 s).")


def test_the_time_limit_is_not_swallowed_by_except_exception() -> None:
    def handle(document: Any, context: Context) -> Any:
        while True:
            try:
                time.sleep(30)
            except Exception:  # what people write
                pass

    assert outcome_of(run(handle, worker_timeout=0.1, retry_attempts=0)).code == "timeout"


def test_the_time_limit_is_a_documents_own_and_is_tried_again() -> None:
    def handle(document: Any, context: Context) -> Any:
        time.sleep(30 if document == 1 else 0.15)

    ran = run(handle, [payload(b"0"), payload(b"1"), payload(b"0")], worker_timeout=0.25)
    assert [outcome.kind for outcome in ran.outcomes] == ["done", "done"]
    assert [again.reason[:8] for again in ran.retries] == ["timeout:"]
    time.sleep(0.3)  # no alarm is left behind: it would end this process


def test_a_missing_handler_is_final() -> None:
    assert outcome_of(run(HandlerMissing("m:f: no module m"))).code == "handler_missing"
    rejected = outcome_of(run(lambda document, context: 1, [payload(handler="other")]))
    assert (rejected.code, "'other'" in rejected.message) == ("handler_missing", True)


def test_handlers_that_cannot_be_used_are_kept_as_what_they_said(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "odd_ones.py").write_text("number = 1\nasync def later(d, c): ...\ndef good(d, c): return 1\n")
    (tmp_path / "broken_one.py").write_text("raise RuntimeError('not today')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    paths = {"a": "odd_ones:number", "b": "odd_ones:later", "c": "odd_ones:none", "d": "broken_one:f", "e": "no_such:f"}
    found = load_handlers({**paths, "good": "odd_ones:good"})
    assert all(isinstance(found[name], HandlerMissing) for name in paths)
    assert "not today" in str(found["d"])
    assert callable(found["good"])
    assert callable(found["default"])


def test_a_document_that_is_none_is_rejected_without_asking_the_handler() -> None:
    rejected = outcome_of(run(lambda document, context: pytest.fail("asked"), [payload(b'{"a": tru}')]))
    assert (rejected.code, rejected.position and rejected.position.column) == ("invalid_json", 7)


def test_a_request_to_stop_is_heeded_between_two_documents() -> None:
    seen: list[Any] = []
    payloads = [payload(b"%d" % number) for number in range(4)]
    ran = run(lambda document, context: seen.append(document), payloads, lambda: len(seen) >= 2)
    assert seen == [0, 1]
    assert [outcome.id for outcome in ran.outcomes] == [each.id for each in payloads[:2]]
    assert ran.not_begun == payloads[2:]


def test_backoff_doubles_within_bounds() -> None:
    assert [backoff(5, attempt, 1.0) for attempt in (1, 2, 3)] == [5, 10, 20]
    assert [backoff(5, attempt, 0.0) for attempt in (1, 2, 3)] == [2.5, 5, 10]
    assert backoff(5, 1000, 1.0) == 3600
    assert backoff(0, 1, 0.5) == 0


HANDLERS = """
import sys
from llm_scheduler.jobs.handler import Reject

def handle(document, context):
    kind = document["kind"]
    if kind == "reject":
        raise Reject("not this one")
    if kind == "flaky" and context.attempt < 3:
        raise ConnectionError("not yet")
    if kind == "fails":
        raise ValueError("never")
    if kind == "leaves":
        sys.exit(1)
    return {"attempt": context.attempt}
"""


def test_a_users_handlers_in_real_workers(fleet: Fleet) -> None:
    (fleet.folder / "my_handlers.py").write_text(HANDLERS)
    fleet.configure(handlers={"default": "my_handlers:handle"})
    fleet.start("ingest", "collector", "scheduler", "medium")
    contents = {kind: b'{"kind": "%s"}' % kind.encode() for kind in ("fine", "reject", "flaky", "fails", "leaves")}
    for kind, content in contents.items():
        fleet.drop(f"{kind}.json", content)
    fleet.wait_finished(5, deadline=30)
    account(fleet, contents)
    results = {result["source"]: (result["attempts"], result["result"]) for result in fleet.results()}
    assert results == {"fine.json": (1, {"attempt": 1}), "flaky.json": (3, {"attempt": 3})}
    reports = {each["source"]: (each["code"], each["message"], each["attempts"]) for each in fleet.reports()}
    assert reports == {
        "reject.json": ("handler_rejected", "not this one", 1),
        "fails.json": ("handler_failed", "ValueError: never", 3),
        "leaves.json": ("handler_failed", "SystemExit: 1", 3),
    }
