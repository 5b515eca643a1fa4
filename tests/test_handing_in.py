"""`POST /jobs` more closely: keys against sending twice, documents a line, syncs that are shared; and finding jobs."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Fleet, Server, serve, wait_until
from test_api import PROBLEM, Api, make_api, on_disk

from llm_scheduler.api import document_writer
from llm_scheduler.api.app import make_app
from llm_scheduler.api.http import idempotency, uploads
from llm_scheduler.ingest.spool.drop import NewDocument, drop
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.store import ledger, ledger_queries

__all__ = ["make_api"]  # a fixture
KEY = {"Idempotency-Key": "order-17"}


@pytest.fixture
def served(make_api: Callable[..., Api]) -> Api:
    return make_api()


# Sent twice


def test_a_request_that_is_sent_twice_is_carried_out_once(served: Api) -> None:
    first = served.post(b'{"n": 1}', **KEY)
    again = served.post(b'{"n": 1}', **KEY)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    assert len(on_disk(served)) == 1
    assert served.post(b'{"n": 1}').json()["id"] != first.json()["id"], "without a key each is another"


def test_the_answer_is_the_same_when_the_document_is_done_long_since(served: Api) -> None:
    first = served.post(b'{"n": 1}', **KEY).json()
    for path in on_disk(served):
        path.unlink()
    ledger.move(served.redis, Status.DONE, served.clock.at, [(first["id"], {})])
    served.clock.at += 3600
    assert served.post(b'{"n": 1}', **KEY).json() == first
    assert on_disk(served) == []


def test_a_key_stands_for_one_request(served: Api) -> None:
    served.post(b'{"n": 1}', **KEY)
    answer = served.post(b'{"n": 2}', **KEY)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert len(on_disk(served)) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
def test_a_key_that_can_not_be_one_is_refused(served: Api, key: str) -> None:
    assert served.post(b"{}", **{"Idempotency-Key": key}).status_code == 422
    assert on_disk(served) == []


def test_of_requests_at_once_one_is_carried_out(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def slow(watch: str, documents: list[NewDocument]) -> None:
        arrived.set()
        go_on.wait(30)
        drop(watch, documents)

    monkeypatch.setattr(document_writer, "drop", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(served.post, b"{}", **KEY)
        assert arrived.wait(30)
        second = served.post(b"{}", **KEY)
        assert (second.status_code, second.headers["retry-after"]) == (409, "1")
        go_on.set()
        assert first.result().status_code == 202
    assert len(on_disk(served)) == 1


@pytest.mark.parametrize("written", [False, True])
def test_what_a_dead_process_began_is_finished_once(served: Api, written: bool) -> None:
    """It died between taking the key and saying that it had written: with or without having written."""
    body = b'{"n": 1}'
    fingerprint = idempotency.fingerprint_of([(body, None)])
    reserved = served.api_context.ids.make(served.clock.at)
    keys = idempotency.IdempotencyKeys(served.redis, "local")
    keys.reserve("order-17", fingerprint, [(reserved, None)], served.clock.at)
    if written:
        drop(str(served.raw), [NewDocument(reserved, body)])
    served.clock.at += idempotency.LEASE_SECONDS - 1
    assert served.post(body, **KEY).status_code == 409
    served.clock.at += 2
    assert served.post(body, **KEY).json()["id"] == reserved
    assert len(on_disk(served)) == 1


def test_a_request_that_could_not_be_written_may_be_sent_again(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(watch: str, documents: list[NewDocument]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(document_writer, "drop", full)
    assert served.post(b"{}", **KEY).status_code == 507
    monkeypatch.undo()
    assert served.post(b"{}", **KEY).status_code == 202
    assert len(on_disk(served)) == 1


def test_without_redis_a_key_can_not_be_kept(make_api: Callable[..., Api], tmp_path: Any) -> None:
    served = make_api(f"unix://{tmp_path}/nothing")
    answer = served.post(b"{}", **KEY)
    assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
    assert on_disk(served) == []
    assert served.post(b"{}").status_code == 202, "without one a document is taken all the same"


def test_several_instances_give_the_same_answers(served: Api) -> None:
    """As behind a balancer: one port more, the same folders and the same Redis."""
    with serve(make_app(served.config, served.redis, SystemClock())) as other:
        first = served.post(b'{"n": 1}', **KEY).json()
        headers = {**KEY, "Content-Type": "application/json"}
        assert other.post("/jobs", content=b'{"n": 1}', headers=headers).json() == first
        for path in ("/jobs", f"/jobs/{first['id']}", "/queues", "/workers", f"/jobs/{first['id']}/original"):
            assert other.get(path).content == served.http.get(path).content
        dry = served.http.post("/bulk/cancel").json()
        assert dry["matched"] == 1
    second = served.http.post("/bulk/cancel", params={"confirm": dry["confirm"]})
    assert second.json() == {"asked": "cancel", "accepted": 1, "more": False}
    assert len(on_disk(served)) == 1


# Many


def test_documents_a_line_are_one_job_that_is_taken_apart(fleet: Fleet, redis_server: Server) -> None:
    fleet.start("ingest", "collector", "medium")
    with connect(redis_server.url) as redis, serve(make_app(fleet.config(), redis, SystemClock())) as http:
        lines = b'{"n": 1}\n{"n": 2}\n{"n": 3}\n'
        whole = http.post("/jobs", content=lines, headers={"Content-Type": "application/x-ndjson"}).json()
        form = http.post("/jobs", files=[("file", ("day.jsonl", lines)), ("file", ("one.json", b"[1]"))]).json()["jobs"]
        for job in (whole, form[0]):
            query = {"source": job["source"], "status": "done"}
            wait_until(
                lambda query=query: http.get("/jobs", params=query).json()["total"] == 4,  # type: ignore[misc]
                "three documents and the file that they came in",
            )
        wait_until(lambda: http.get(form[1]["location"]).json()["status"] == "done", "the plain document")
    assert len(fleet.results()) == 7


def test_requests_that_come_together_share_a_sync(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    arrived, go_on = threading.Event(), threading.Event()

    def counted(watch: str, documents: list[NewDocument]) -> None:
        groups.append(len(documents))
        arrived.set()
        go_on.wait(30)
        drop(watch, documents)

    monkeypatch.setattr(document_writer, "drop", counted)
    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(served.post, b"[0]")]
        assert arrived.wait(30)
        answers += [pool.submit(served.post, b"[%d]" % number) for number in range(1, 9)]
        wait_until(lambda: len(served.api_context.writer._waiting) == 8, "eight that wait for the first")
        go_on.set()
        assert [each.result().status_code for each in answers] == [202] * 9
    assert groups == [1, 8]
    assert len({each.result().json()["id"] for each in answers}) == 9
    assert sorted(path.read_bytes() for path in on_disk(served)) == [b"[%d]" % number for number in range(9)]


def test_one_that_can_not_be_written_takes_no_other_with_it(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def picky(watch: str, documents: list[NewDocument]) -> None:
        arrived.set()
        go_on.wait(30)
        if any(each.raw == b"[13]" for each in documents):
            raise OSError(28, "No space left on device")
        drop(watch, documents)

    monkeypatch.setattr(document_writer, "drop", picky)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(served.post, b"[0]")
        assert arrived.wait(30)
        answers = {number: pool.submit(served.post, b"[%d]" % number) for number in (12, 13, 14)}
        wait_until(lambda: len(served.api_context.writer._waiting) == 3, "three that wait for the first")
        go_on.set()
        assert first.result().status_code == 202
        assert {number: each.result().status_code for number, each in answers.items()} == {12: 202, 13: 507, 14: 202}
    assert len(on_disk(served)) == 3


def test_a_body_that_does_not_come_in_is_not_waited_for(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as slow:
        slow.sendall(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n[")
        assert b" 408 " in slow.recv(1000)
    assert on_disk(served) == []


# Found again


def test_jobs_are_found_by_what_is_known_of_them(served: Api) -> None:
    wanted = served.known(
        Status.REJECTED,
        "high",
        source="invoices/2026/ACME 17.json",
        handler="rates",
        country="DE",
        industry="K64",
        language="de",
        code="timeout",
        received_at=int(served.clock.at * 1000),
    )
    moment = served.clock.at
    done = served.known(Status.DONE, source="invoices.json", quality="repaired")
    for query in (
        "status=rejected",
        "priority=high",
        "queue=high",
        "handler=rates",
        "source=invoices",
        "source=invoices/",
        "source=invoices/2026/ACME%2017.json",
        "country=DE",
        "industry=K",
        "industry=K64",
        "code=timeout",
        "name=acme",
        "until=2027-01-15T08:00:02Z",
        "since=2027-01-15T08:00:01Z&until=2027-01-15T09:00:02%2B01:00",
        "since=2027-01-15T09:00:00+01:00&until=2027-01-15T08:00:02Z",
        "status=rejected&priority=high&queue=high&handler=rates&country=DE&code=timeout&name=17",
    ):
        found = served.get(f"/jobs?{query}")
        assert ([job["id"] for job in found["jobs"]], found["total"]) == ([wanted], 1), query
        assert found["total_is_exact"]
    assert moment == served.clock.at - 1
    assert [job["id"] for job in served.get("/jobs?quality=repaired")["jobs"]] == [done]
    for query in (
        "country=FR",
        "name=missing",
        "status=done&code=timeout",
        "source=invoice",
        "since=2027-01-16T00:00:00Z",
    ):
        assert served.get(f"/jobs?{query}")["jobs"] == [], query
    assert served.get("/jobs?country=de", 422)["parameter"] == "country"


def test_a_search_ends_and_says_where(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_queries, "_CHUNK", 10)
    monkeypatch.setattr(
        ledger_queries.page_of, "__kwdefaults__", {**ledger_queries.page_of.__kwdefaults__, "max_scanned": 20}
    )
    needle = served.known(Status.DONE, source="needle.json")
    for _ in range(45):
        served.known(Status.DONE)
    found = served.get("/jobs?name=needle")
    assert (found["jobs"], found["total_is_exact"]) == ([], False)
    pages = 1
    while not found["jobs"]:
        found = served.get(f"/jobs?name=needle&cursor={found['cursor']}")
        pages += 1
    assert ([job["id"] for job in found["jobs"]], found["cursor"], pages) == ([needle], None, 3)


def test_pages_of_a_filter_hold_every_job_once(served: Api) -> None:
    wanted = [
        served.known(Status.DONE, ("high", "low")[number % 2], source=f"{number % 3}.json") for number in range(40)
    ]
    wanted = [job_id for number, job_id in enumerate(wanted) if number % 3 == 1][::-1]
    seen: list[str] = []
    cursor = ""
    while True:
        found = served.get(f"/jobs?name=1&limit=4{cursor}")
        seen += [job["id"] for job in found["jobs"]]
        if found["cursor"] is None:
            break
        cursor = f"&cursor={found['cursor']}"
    assert seen == wanted


def test_a_total_counts_all(served: Api) -> None:
    for number in range(7):
        served.known(Status.DONE if number % 2 else Status.QUEUED, "high")
    assert [served.get(f"/jobs?limit=2{query}")["total"] for query in ("", "&status=done", "&priority=low")] == [
        7,
        3,
        0,
    ]
    since = served.get("/jobs?since=2027-01-15T08:00:05Z&limit=1")
    assert (since["total"], since["total_is_exact"]) == (3, True)
