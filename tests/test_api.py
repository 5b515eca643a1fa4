"""The HTTP API, asked over real HTTP; most tests serve it from a thread, to be the ones who tell it the time."""

import contextlib
import errno
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from conftest import KEYS, Fleet, Server, listen, mostly_slow, wait_until
from redis import Redis
from rq import Worker

from llm_scheduler.api import document_writer
from llm_scheduler.api.app import make_app
from llm_scheduler.api.http.context import ApiContext
from llm_scheduler.api.state import health
from llm_scheduler.ingest.spool.drop import NewDocument, id_in_name
from llm_scheduler.jobs.config import Config, load
from llm_scheduler.jobs.document import Status, is_id, new_id
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.store import ledger, ledger_queries, producers
from llm_scheduler.jobs.store.load import read_load

PROBLEM = "application/problem+json"
SOME_ID = "01KZ8D5V6T3H9N2QWRXJ4MBEGC"


class ToldClock:
    """Says what a test tells it."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Api:
    """One application behind a real port, with its spool and its clock."""

    def __init__(self, folder: Path, url: str, **parts: Any) -> None:
        self.folder = folder
        self.raw = folder / "raw"
        self.temp = folder / "temp"
        self.clock = ToldClock()
        self.redis = connect(url)
        self.config = configuration(folder, url, **parts)
        app = make_app(self.config, self.redis, self.clock)
        self.api_context: ApiContext = app.state.api_context
        listener = listen()
        self.port: int = listener.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.thread.start()
        wait_until(lambda: self.server.started, "a server that listens")
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def stop(self) -> None:
        self.http.close()
        self.server.should_exit = True
        self.thread.join()
        self.redis.close()

    def get(self, path: str, status: int = 200, **headers: str) -> Any:
        answer = self.http.get(path, headers=headers)
        assert answer.status_code == status, answer.text
        if status >= 400:
            assert answer.headers["content-type"] == PROBLEM
            assert answer.json()["status"] == status
        return answer.json()

    def post(self, content: bytes | Iterator[bytes], kind: str = "application/json", **headers: str) -> httpx.Response:
        return self.http.post("/jobs", content=content, headers={"Content-Type": kind, **headers})

    def known(self, status: Status, priority: str = "medium", **fields: str | int) -> str:
        """A document in the ledger, a second after the one before."""
        self.clock.at += 1
        document_id = new_id(self.clock.at)
        route: ledger.Fields = {"priority": priority, "queue": priority, "handler": "default", "source": "a.json"}
        ledger.move(self.redis, status, self.clock.at, [(document_id, {**route, **fields})])
        return document_id


def configuration(folder: Path, url: str, **parts: Any) -> Config:
    """A configuration file in `folder`, and what it says."""
    names = {"watch": "raw", "output": "processed", "archive": "archive", "error": "errors", "temp": "temp"}
    settings = {
        "directories": {f"{key}_directory": str(folder / name) for key, name in names.items()},
        "queue": {"type": "redis", "redis_url": url},
    }
    for name, values in parts.items():
        settings[name] = {**settings.get(name, {}), **values}
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(settings))
    return load(path, {})


@pytest.fixture
def make_api(tmp_path: Path, redis_server: Server) -> Iterator[Callable[..., Api]]:
    made: list[Api] = []

    def make(url: str = redis_server.url, **parts: Any) -> Api:
        made.append(Api(tmp_path / "spool", url, **parts))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def served(make_api: Callable[..., Api]) -> Api:
    return make_api()


@pytest.fixture
def without_redis(make_api: Callable[..., Api], tmp_path: Path) -> Api:
    return make_api(f"unix://{tmp_path}/nothing")


def on_disk(api: Api) -> list[Path]:
    return [path for path in api.raw.rglob("*") if path.is_file()]


# Health


def test_health_counts_documents_and_files(served: Api) -> None:
    served.known(Status.DONE, "high")
    group = served.temp / new_id(1)
    group.mkdir(parents=True)
    (group / "manifest").touch()
    (group / new_id(2)).touch()
    (served.temp / "ingest.lock").touch()
    (served.temp / "scratch").mkdir()
    (served.temp / "scratch" / "note").touch()
    (served.raw / "below").mkdir(parents=True)
    for name in ("one.json", "below/two.json", ".hidden", "below/.three.tmp"):
        (served.raw / name).touch()
    (served.raw / "link").symlink_to("one.json")
    found = served.get("/health")
    assert found["status"] == "ok"
    assert found["redis"] == {"reachable": True, "unreachable_seconds": None}
    assert found["files_on_disk"] == 3
    assert found["counts"]["done"] == {"high": 1, "medium": 0, "low": 0}
    assert set(found["counts"]) == {status.value for status in Status}


def test_files_are_not_counted_again_for_two_seconds(served: Api) -> None:
    assert served.get("/health")["files_on_disk"] == 0
    served.raw.mkdir()
    (served.raw / "one.json").touch()
    served.clock.at += 1.9
    assert served.get("/health")["files_on_disk"] == 0
    served.clock.at += 0.2
    assert served.get("/health")["files_on_disk"] == 1


def test_counting_files_ends_at_its_bound(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_COUNTED", 3)
    for folder in (served.temp / new_id(1), served.temp / new_id(2)):
        folder.mkdir(parents=True)
        for number in range(5):
            (folder / new_id(number)).touch()
    found = served.get("/health")
    assert found["files_on_disk"] == 3
    assert "3+ files" in found["message"]
    assert health.HealthMonitor(served.config, served.redis, served.clock).file_counts() == (0, 3)


def test_health_says_in_words_for_how_long_redis_has_been_away(without_redis: Api) -> None:
    without_redis.raw.mkdir()
    (without_redis.raw / "one.json").touch()
    assert without_redis.get("/health")["message"] == "Redis unreachable for 0 s; 1 file safe on disk"
    (without_redis.raw / "two.json").touch()
    without_redis.clock.at += 12
    assert without_redis.get("/health") == {
        "status": "degraded",
        "message": "Redis unreachable for 12 s; 2 files safe on disk",
        "redis": {"reachable": False, "unreachable_seconds": 12.0},
        "files_on_disk": 2,
        "counts": None,
    }


def test_what_ingest_noted_of_an_outage_counts(without_redis: Api) -> None:
    without_redis.temp.mkdir()
    note = without_redis.temp / "redis-outage.json"
    note.write_text(json.dumps({"since": without_redis.clock.at - 75}))
    assert without_redis.get("/health")["redis"]["unreachable_seconds"] == 75
    assert without_redis.get("/health")["files_on_disk"] == 0
    note.write_text("{")
    assert without_redis.get("/health")["redis"]["unreachable_seconds"] == 0


def test_an_outage_ends_when_redis_answers_anyone(served: Api, redis_server: Server) -> None:
    redis_server.kill()
    assert served.get("/health")["status"] == "degraded"
    redis_server.start()
    served.get("/jobs")
    redis_server.kill()
    served.clock.at += 100
    assert served.get("/health")["redis"]["unreachable_seconds"] == 0
    redis_server.start()
    assert served.get("/health")["status"] == "ok"


def test_a_redis_that_hangs_is_not_waited_for(served: Api, redis_server: Server) -> None:
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert served.get("/health")["status"] == "degraded"
        assert time.monotonic() - began < 10
    finally:
        redis_server.process.send_signal(signal.SIGCONT)


def test_look_is_for_the_command_line_too(tmp_path: Path, redis_server: Server, redis: Redis) -> None:
    clock = ToldClock()
    found = health.read_health(configuration(tmp_path, redis_server.url), redis, clock)
    assert (found.status, found.files_on_disk) == ("ok", 0)
    redis_server.kill()
    found = health.read_health(configuration(tmp_path, redis_server.url), redis, clock)
    assert found.message == "Redis unreachable for 0 s; 0 files safe on disk"


# Jobs


def test_jobs_come_newest_first_in_pages(served: Api) -> None:
    ids = [
        served.known(status, level) for status in (Status.DONE, Status.QUEUED) for level in ("high", "medium", "low")
    ]
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = served.get(f"/jobs?limit=2{cursor}")
        seen += [job["id"] for job in page["jobs"]]
        cursor = f"&cursor={page['cursor']}"
    assert page["cursor"] is None
    assert seen == ids[::-1]


def test_jobs_are_filtered(served: Api) -> None:
    served.known(Status.DONE, "high")
    wanted = served.known(Status.DONE, "low")
    served.known(Status.QUEUED, "low")
    assert [job["id"] for job in served.get("/jobs?status=done&priority=low")["jobs"]] == [wanted]


@pytest.mark.parametrize(
    ("query", "parameter", "value", "allowed"),
    [
        ("status=finished", "status", "finished", "done"),
        ("priority=top", "priority", "top", "medium"),
        ("limit=0", "limit", "0", "from 1 to 500"),
        ("limit=501", "limit", "501", "from 1 to 500"),
        ("limit=%2B5", "limit", "+5", "from 1 to 500"),
        ("limit=%D9%A5", "limit", "٥", "from 1 to 500"),
        ("limit=" + "9" * 5000, "limit", "9" * 100, "from 1 to 500"),
        ("cursor=../../etc/passwd", "cursor", "../../etc/passwd", "cursor"),
        ("state=done", "state", "done", "status"),
        ("status=done&status=queued", "status", "queued", "one value"),
    ],
)
def test_a_bad_query_is_explained(served: Api, query: str, parameter: str, value: str, allowed: str) -> None:
    found = served.get(f"/jobs?{query}", 422)
    assert (found["parameter"], found["value"]) == (parameter, value)
    assert parameter in found["detail"]
    assert allowed in str(found["allowed"])
    assert allowed in found["detail"]


def test_other_routes_take_no_parameters(served: Api) -> None:
    for path in ("/health", "/queues", "/workers", f"/jobs/{new_id(1)}"):
        assert served.get(f"{path}?a=b", 422)["parameter"] == "a"


def test_a_job_has_a_timeline_and_reasons(served: Api) -> None:
    reasons = ["urgent: the word 緊急"]
    job_id = served.known(Status.RECEIVED, size=17, received_at=1_799_999_999_250)
    for status, fields in (
        (Status.QUEUED, {"reasons": reasons, "rq_job_id": "rq-1"}),
        (Status.STARTED, {"attempts": 1}),
        (Status.RETRYING, {"message": "ValueError: odd"}),
        (Status.STARTED, {"attempts": 2}),
        (Status.REJECTED, {"code": "handler_failed", "message": "ValueError: still odd"}),
    ):
        served.clock.at += 1
        ledger.move(served.redis, status, served.clock.at, [(job_id, fields)])
    job = served.get(f"/jobs/{job_id}")
    timeline = job.pop("timeline")
    assert job == {
        "id": job_id,
        "status": "rejected",
        "source": "a.json",
        "priority": "medium",
        "queue": "medium",
        "handler": "default",
        "attempts": 2,
        "size": 17,
        "received_at": "2027-01-15T07:59:59.250Z",
        "rq_job_id": "rq-1",
        "error": {"code": "handler_failed", "message": "ValueError: still odd"},
        "reasons": ["urgent: the word 緊急"],
        **dict.fromkeys(("country", "industry", "language", "quality", "repairs", "warnings", "evidence")),
    }
    assert [(entry["status"], entry["at"][-10:]) for entry in timeline] == [
        ("received", "07:59.250Z".replace("07:", "59:")),
        ("queued", "00:02.000Z"),
        ("started", "00:03.000Z"),
        ("retrying", "00:04.000Z"),
        ("started", "00:05.000Z"),
        ("rejected", "00:06.000Z"),
    ], "every transition, also the first of two to one status"


def test_a_job_that_ended_well_shows_no_earlier_error(served: Api) -> None:
    job_id = served.known(Status.RETRYING, message="ValueError: odd")
    assert served.get(f"/jobs/{job_id}")["error"] == {"code": None, "message": "ValueError: odd"}
    ledger.move(served.redis, Status.DONE, served.clock.at, [(job_id, {})])
    assert served.get(f"/jobs/{job_id}")["error"] is None


@pytest.mark.parametrize("job_id", [SOME_ID, "x", "0" * 25, "8" + "0" * 25, SOME_ID.lower(), "%2e%2e", "a%0ab"])
def test_an_unknown_job_is_not_found(served: Api, job_id: str) -> None:
    served.redis.set(KEYS.record("x"), "done")  # a key that is no document's
    assert "no job" in served.get(f"/jobs/{job_id}", 404)["detail"]


# Taking documents


def test_a_posted_document_is_on_disk_and_known(served: Api) -> None:
    answer = served.post(b'{"a": 1}', "application/vnd.api+json; charset=utf-8")
    assert answer.status_code == 202
    told = answer.json()
    assert is_id(told["id"])
    assert told == {
        "id": told["id"],
        "status": "received",
        "source": f"api/{told['id']}.json",
        "location": f"/jobs/{told['id']}",
    }
    assert answer.headers["location"] == told["location"]
    assert [(path.relative_to(served.raw).as_posix(), path.read_bytes()) for path in on_disk(served)] == [
        (told["source"], b'{"a": 1}')
    ]
    job = served.get(told["location"])
    assert (job["status"], job["size"], job["priority"]) == ("received", 8, "medium")
    assert job["received_at"] == "2027-01-15T08:00:00.000Z"


def test_what_is_posted_need_not_be_json(served: Api) -> None:
    assert served.post(b"Sure! Here is the JSON: {").status_code == 202
    assert served.post(b"").status_code == 422
    assert len(on_disk(served)) == 1


def test_files_of_a_form_are_documents_of_their_own(served: Api) -> None:
    files = [("file", ("a b.json", b"[1]")), ("file", ("報告.txt", b"[2]")), ("other", ("c.json", b"[3]"))]
    answer = served.http.post("/jobs", files=files)
    assert answer.status_code == 202
    told = answer.json()["jobs"]
    assert sorted(path.read_bytes() for path in on_disk(served)) == [b"[1]", b"[2]", b"[3]"]
    for job in told:
        assert id_in_name(job["source"]) == job["id"]
        assert served.get(job["location"])["source"] == job["source"]
    assert told[0]["source"] == f"api/a_b.{told[0]['id']}.json"


@pytest.mark.parametrize(
    "name",
    ["answer.tmp", "x.json.part", ".hidden.json", "../../up.json", "/etc/cron.d/x", "C:\\a\\b.json", "#x#", "thumbs.db",
     f"{SOME_ID}.json", f"a.{SOME_ID}.json", f"{'a' * 73}.{SOME_ID}z.json", "~", "...", "a" * 300],
)  # fmt: skip
def test_no_name_hides_a_document_or_gives_it_another_id(served: Api, name: str) -> None:
    from llm_scheduler.ingest.spool.watch_files import is_ignored_path

    answer = served.http.post("/jobs", files=[("file", (name, b"[1]"))])
    assert answer.status_code == 202
    told = answer.json()
    [path] = on_disk(served)
    assert path.parent == served.raw / "api"
    assert path.relative_to(served.raw).as_posix() == told["source"]
    assert not is_ignored_path(told["source"])
    assert id_in_name(told["source"]) == told["id"]


@pytest.mark.parametrize(
    ("files", "data", "status"),
    [
        ([("f", ("a.json", b"[1]")), ("f", ("b.json", b""))], {}, 422),
        ([("f", ("a.json", b"[1]"))], {"note": "hello"}, 422),
        ([("f", ("a.json", b"[1]")), ("f", ("b.json", b"1" * 1001))], {}, 413),
        ([("f", ("a.json", b"[1]"))] * 101, {}, 400),
    ],
)
def test_a_form_is_taken_whole_or_not_at_all(
    make_api: Callable[..., Api], files: Any, data: dict[str, str], status: int
) -> None:
    served = make_api(processing={"max_document_bytes": 1000})
    answer = served.http.post("/jobs", files=files, data=data)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    assert on_disk(served) == []


def test_a_broken_form_is_a_problem(served: Api) -> None:
    for kind, body in (
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\nnonsense"),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
    ):
        answer = served.post(body, kind)
        assert answer.status_code in (400, 422), answer.text
        assert answer.headers["content-type"] == PROBLEM


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        ("text/plain", {}),
        ("application/xml", {}),
        ("application/x-www-form-urlencoded", {}),
        ("application/json", {"Content-Encoding": "gzip"}),
    ],
)
def test_other_types_are_not_taken(served: Api, kind: str, headers: dict[str, str]) -> None:
    answer = served.post(b"{}", kind, **headers)
    assert (answer.status_code, answer.headers["content-type"]) == (415, PROBLEM)
    assert "application/json" in answer.headers["accept-post"]


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "application/problem+json"])
def test_a_body_of_no_stated_kind_is_a_document(served: Api, kind: str) -> None:
    assert served.post(b"{}", kind).status_code == 202


@pytest.mark.parametrize("query", ["status=", "limit=", "since=", "status=null", "since=1800000000", "cursor=null"])
def test_what_is_almost_a_value_is_refused(served: Api, query: str) -> None:
    assert served.get(f"/jobs?{query}", 422)["parameter"] == query.partition("=")[0]


def test_a_document_may_be_as_large_as_is_allowed(make_api: Callable[..., Api]) -> None:
    served = make_api(processing={"max_document_bytes": 1000})
    assert served.post(b"1" * 1000).status_code == 202
    answer = served.post(b"1" * 1001)
    assert (answer.status_code, answer.headers["content-type"]) == (413, PROBLEM)
    assert len(on_disk(served)) == 1


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        (("Content-Length", "1001"), b""),
        (("Transfer-Encoding", "chunked"), b"3e9\r\n" + b"1" * 1001 + b"\r\n"),
    ],
)
def test_a_document_that_is_too_large_is_not_waited_for(
    make_api: Callable[..., Api], header: tuple[str, str], sent: bytes
) -> None:
    """The answer comes while the body has not ended: it is neither read nor kept to its end."""
    served = make_api(processing={"max_document_bytes": 1000})
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    try:
        connection.putrequest("POST", "/jobs")
        connection.putheader("Content-Type", "application/json")
        connection.putheader(*header)
        connection.endheaders()
        connection.send(sent)
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["limit"] == 1000
    finally:
        connection.close()
    assert on_disk(served) == []


def test_a_document_is_accepted_without_redis(without_redis: Api) -> None:
    answer = without_redis.post(b"[1]")
    assert answer.status_code == 202
    assert [path.read_bytes() for path in on_disk(without_redis)] == [b"[1]"]


def test_an_accepted_document_is_known_even_when_the_ledger_has_not_heard_of_it(served: Api) -> None:
    told = served.post(b"[1]").json()
    served.redis.flushall()
    job = served.get(told["location"])
    assert (job["id"], job["status"], job["source"]) == (told["id"], "received", told["source"])


def test_the_word_of_ingest_is_not_undone(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ingest may claim a document before the API has told the ledger of it."""
    drop = document_writer.drop

    def dropped_and_claimed(watch: str, documents: list[NewDocument]) -> None:
        drop(watch, documents)
        for each in documents:
            fields: ledger.Fields = {"priority": "high", "queue": "high", "handler": "default", "source": each.source}
            ledger.move(served.redis, Status.STARTED, served.clock.now(), [(each.id, fields)])

    monkeypatch.setattr(document_writer, "drop", dropped_and_claimed)
    job = served.get(served.post(b"[1]").json()["location"])
    assert (job["status"], job["priority"]) == ("started", "high")


def test_the_ledger_keeps_room_for_ingest(make_api: Callable[..., Api]) -> None:
    """Ingest claims nothing while the ledger holds max_queue_size: what it has yet to claim must not fill that."""
    served = make_api(queue={"max_queue_size": 10})
    for _ in range(30):
        assert served.post(b"[1]").status_code == 202
    load = read_load(served.redis, served.config.queue.priority_levels)
    assert (load.documents, load.bytes) == (0, 0)
    assert len(on_disk(served)) == 30
    assert len(served.get("/jobs?status=received")["jobs"]) == 30


def test_more_than_the_overflow_holds_is_refused(make_api: Callable[..., Api]) -> None:
    served = make_api(queue={"max_queue_size": 2})
    served.raw.mkdir()
    for number in range(21):
        (served.raw / f"{number}.json").touch()
    served.known(Status.QUEUED)
    served.clock.at += 10
    assert served.post(b"[1]").status_code == 202, "ingest has room"
    served.known(Status.QUEUED)
    served.clock.at += 10
    answer = served.post(b"[1]")
    assert (answer.status_code, answer.headers["content-type"]) == (429, PROBLEM)
    assert int(answer.headers["retry-after"]) > 0
    for number in range(10):
        (served.raw / f"{number}.json").unlink()
    served.clock.at += 10
    assert served.post(b"[1]").status_code == 202, "the folder has room"


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (errno.ENOSPC, 507, "disk of the watch folder is full"),
        (errno.EDQUOT, 507, "disk of the watch folder is full"),
        (errno.EROFS, 503, "read-only"),
        (errno.EACCES, 503, "can't be written by the API's user"),
        (errno.EIO, 503, "Input/output error"),
    ],
)
def test_a_disk_in_trouble_is_explained(
    served: Api, monkeypatch: pytest.MonkeyPatch, number: int, status: int, words: str
) -> None:
    def drop_none(watch: str, documents: list[NewDocument]) -> None:
        raise OSError(number, os.strerror(number), "/secret/place")

    monkeypatch.setattr(document_writer, "drop", drop_none)
    answer = served.http.post("/jobs", files=[("f", ("a.json", b"[1]")), ("f", ("b.json", b"[2]"))])
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    assert words in answer.json()["detail"]
    assert "/secret" not in answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert "Nothing was accepted" in answer.json()["detail"]
    assert served.get("/jobs")["jobs"] == []


def test_a_read_only_folder_is_explained(served: Api) -> None:
    """Not simulated: a file stands where the folder has to be."""
    served.raw.write_text("")
    answer = served.post(b"[1]")
    assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
    assert "watch folder" in answer.json()["detail"]


def test_a_posted_document_is_done_under_the_id_it_was_given(fleet: Fleet, make_api: Callable[..., Api]) -> None:
    served = make_api()
    served.clock.at = time.time()
    told = served.http.post("/jobs", files=[("f", (f"{SOME_ID}.json", b'{"a": 1}'))]).json()
    fleet.start("ingest", "collector", "high", "medium", "low")

    def done() -> Any:
        job = served.get(told["location"])
        return job if job["status"] == "done" else None

    job = wait_until(done, "the document done")
    assert [entry["status"] for entry in job["timeline"]] == ["received", "queued", "started", "done"]
    assert [result["id"] for result in fleet.results()] == [told["id"]]


# Queues and workers


def test_queues_and_workers_are_those_that_live(served: Api) -> None:
    for _ in range(3):
        served.redis.rpush(KEYS.queue("high"), "x")
    served.redis.rpush(KEYS.batch("low"), "x")
    served.known(Status.STARTED, "high")
    alive = Worker(["high"], name="alive", connection=served.redis)
    alive.register_birth()
    served.redis.hset(alive.key, mapping={"state": "busy", "successful_job_count": 4, "total_working_time": 1.25})
    dead = Worker(["high"], name="dead", connection=served.redis)
    dead.register_birth()
    dead.register_death()
    gone = Worker(["low"], name="gone", connection=served.redis)
    gone.register_birth()
    served.redis.delete(gone.key)
    half = Worker(["low"], name="half", connection=served.redis)
    half.register_birth()
    served.redis.hset(half.key, "death", "2027-01-01T00:00:00Z")
    [worker] = served.get("/workers")["workers"]
    for name in ("birth", "last_heartbeat"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", worker.pop(name))
    assert worker == {
        **dict.fromkeys(("rss", "cpu", "version", "current_job")),
        "version_skew": True,
        "name": "alive",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "queue": "high",
        "state": "busy",
        "jobs_done": 4,
        "working_seconds": 1.25,
    }
    high, _, low = served.get("/queues")["queues"]
    assert (high["name"], high["jobs_waiting"], high["batched"], high["workers"]) == ("high", 3, 0, 1)
    assert high["documents"] == {"received": 0, "batched": 0, "queued": 0, "started": 1, "retrying": 0}
    assert (low["name"], low["jobs_waiting"], low["batched"], low["workers"]) == ("low", 0, 1, 0)


# Problems


def test_every_error_is_a_problem(served: Api) -> None:
    assert "/jobs" in served.get("/nothing", 404)["detail"]
    assert served.get("/jobs/", 404)
    answer = served.http.delete("/jobs")
    assert (answer.status_code, answer.headers["content-type"]) == (405, PROBLEM)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize("path", ["/jobs", f"/jobs/{SOME_ID}", "/queues", "/workers"])
def test_redis_being_away_is_said_in_words(without_redis: Api, path: str) -> None:
    answer = without_redis.http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
    assert "Redis is unreachable" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) > 0


def test_a_bug_shows_nothing_of_itself(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(ledger_queries, "page_of", broken)
    answer = served.http.get("/jobs")
    assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_answer_has_the_security_headers(served: Api) -> None:
    for path in ("/", "/dashboard.js", "/health", "/jobs", "/nothing", "/jobs?x=1"):
        headers = served.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["x-frame-options"] == "DENY", path
        assert headers["content-security-policy"].startswith("default-src 'none'"), path
        assert headers["cache-control"] == "no-store", path
        assert "server" not in headers or "uvicorn" in headers["server"]


def test_the_dashboard_loads_only_what_its_policy_allows(served: Api) -> None:
    page = served.http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=|//", page.text), "inline code or a foreign address"
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert served.http.get(path).status_code == 200, path
    script = served.http.get("/dashboard.js").text
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script


# Who may


def with_keys(make_api: Callable[..., Api]) -> Api:
    return make_api(security={"api_key_enabled": True, "api_keys": {"admin": "the-admin", "readonly": "the-reader"}})


def test_keys_open_what_they_are_for(make_api: Callable[..., Api]) -> None:
    served = with_keys(make_api)
    assert served.get("/health")["status"] == "ok"
    for path in ("/jobs", "/queues", "/workers", "/nothing", "/health/"):
        answer = served.http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (401, PROBLEM), path
        assert "www-authenticate" in answer.headers
        assert served.http.get(path, headers={"X-API-Key": "wrong"}).status_code == 401
        assert served.http.get(path, headers={"X-API-Key": "the-reader"}).status_code in (200, 404)
    assert served.post(b"[1]").status_code == 401
    assert served.post(b"[1]", **{"X-API-Key": "the-reader"}).status_code == 403
    assert on_disk(served) == []
    assert served.post(b"[1]", **{"X-API-Key": "the-admin"}).status_code == 202


def test_a_key_that_is_not_set_opens_nothing(make_api: Callable[..., Api]) -> None:
    served = make_api(security={"api_key_enabled": True, "api_keys": {"readonly": "the-reader"}})
    assert served.http.get("/jobs", headers={"X-API-Key": ""}).status_code == 401
    assert served.http.get("/jobs", headers=[("X-API-Key", "the-reader"), ("X-API-Key", "x")]).status_code == 401
    assert served.http.get("/jobs", headers={"X-API-Key": "the-reader"}).status_code == 200


def test_pages_of_other_sites_are_refused(served: Api) -> None:
    here = f"127.0.0.1:{served.port}"
    assert served.get("/jobs", 403, Host="evil.example")
    for host in (here, "localhost", "[::1]:8080", "127.0.0.2"):
        assert served.get("/jobs", Host=host)
    assert served.post(b"[1]", Origin="http://evil.example").status_code == 403
    assert served.post(b"[1]", Origin="null").status_code == 403
    assert on_disk(served) == []
    assert served.post(b"[1]", Origin=f"http://{here}").status_code == 202


# The process


class Process:
    """`llm-api` as a process of its own."""

    def __init__(self, folder: Path, url: str, arguments: Sequence[str] = (), **parts: Any) -> None:
        """`arguments`: more for its command line; a port is the last of them."""
        self.port = parts.get("api", {}).get("port") or free_port()
        parts["api"] = {"port": self.port, "workers": 1, **parts.get("api", {})}
        if not arguments:
            configuration(folder, url, **parts)
        else:  # the second of a configuration that is there
            self.port = int(arguments[-1])
        self.log = folder / f"api-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from llm_scheduler.api.server import main; main()",
                    "--config",
                    "config.json",
                    *arguments,
                ],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONWARNINGS": "error"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def answers(self, path: str = "/health") -> Any:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10).json()
        except httpx.TransportError:
            assert self.process.poll() is None, self.log.read_text()
            return None

    def children(self) -> set[int]:
        """The processes that answer, where it has several."""
        found = set()
        for each in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):  # it has just ended
                if "resource_tracker" not in " ".join(each.cmdline()):
                    found.add(each.pid)
        return found

    def until_health(self, condition: Callable[[Any], bool], what: str) -> Any:
        def found() -> Any:
            health = self.answers()
            return health if health and condition(health) else None

        return wait_until(found, what, every=0.1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(15)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def start_process(tmp_path: Path, redis_server: Server) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def make(url: str = redis_server.url, **parts: Any) -> Process:
        started.append(Process(tmp_path / "spool", url, **parts))
        return started[-1]

    yield make
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.mark.slow
def test_the_process_outlives_redis_and_stops_when_told_to(
    start_process: Callable[..., Process], redis_server: Server
) -> None:
    running = start_process()
    running.until_health(lambda health: health["status"] == "ok", "a healthy API")
    answer = httpx.post(f"http://127.0.0.1:{running.port}/jobs", json={"a": 1})
    assert answer.status_code == 202
    redis_server.kill()
    away = running.until_health(lambda health: health["files_on_disk"] and not health["counts"], "word of the outage")
    assert re.fullmatch(r"Redis unreachable for \d+ s; 1 file safe on disk", away["message"])
    longer = running.until_health(lambda health: (health["redis"]["unreachable_seconds"] or 0) >= 1, "a longer outage")
    assert "Redis unreachable for" in longer["message"]
    redis_server.start()
    running.until_health(lambda health: health["status"] == "ok", "word that Redis is back")
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 5
    log = running.log.read_text()
    assert "Traceback" not in log
    assert "POST /jobs" in log, "the access log goes where all logging goes"
    assert re.search(r"INFO +api: Listening on http://127\.0\.0\.1:\d+", log)


@pytest.mark.slow
def test_it_starts_without_redis_and_stops_on_ctrl_c(start_process: Callable[..., Process], tmp_path: Path) -> None:
    running = start_process(f"unix://{tmp_path}/nothing", api={"access_log": False})
    running.until_health(lambda health: health["status"] == "degraded", "an API without Redis")
    # A client that never ends its request doesn't hold it up.
    with socket.create_connection(("127.0.0.1", running.port)) as idle:
        head = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        idle.sendall(head + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n")
        assert b"100 Continue" in idle.recv(100), "the request is being served"
        assert running.stop(signal.SIGINT) == 0
        assert b" 503 " in idle.recv(100), "and is told"
    assert "GET /health" not in running.log.read_text()
    assert "Traceback" not in running.log.read_text()


@pytest.mark.slow
def test_several_processes_serve_one_port(start_process: Callable[..., Process]) -> None:
    running = start_process(api={"workers": 2})
    running.until_health(lambda health: health["status"] == "ok", "a healthy API")
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(running.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) >= 2
    assert running.stop() == 0
    for child in children:
        wait_until(lambda child=child: not Path(f"/proc/{child}").exists(), f"the end of {child}", 10)
    assert "Traceback" not in running.log.read_text()


@pytest.mark.slow
def test_a_second_instance_on_another_port(start_process: Callable[..., Process], tmp_path: Path) -> None:
    first = start_process()
    first.until_health(lambda health: health["status"] == "ok", "a healthy API")
    second = start_process(arguments=["--port", str(free_port())])
    second.until_health(lambda health: health["status"] == "ok", "a second one of the same configuration")
    assert first.port != second.port
    job = httpx.post(f"http://127.0.0.1:{first.port}/jobs", json={"a": 1}).json()["id"]
    assert second.answers(f"/jobs/{job}")["id"] == job
    said = subprocess.run(
        [sys.executable, "-P", "-m", "llm_scheduler.api.server", "--port", "80800"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 2
    assert "'80800' is no port" in said.stderr


@pytest.mark.slow
def test_in_development_it_takes_up_changed_code(start_process: Callable[..., Process]) -> None:
    running = start_process(api={"reload": True})
    code = running.log.parent / "rates.py"
    code.write_text("RATE = 1")
    running.until_health(lambda health: health["status"] == "ok", "a healthy API")
    before = running.children()

    def has_changed() -> bool:
        os.utime(code)  # again and again: what it sees first is how the file was before
        return bool(running.children()) and not (running.children() & before)

    wait_until(has_changed, "another process", every=0.5)
    running.until_health(lambda health: health["status"] == "ok", "a healthy API again")
    assert running.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", mostly_slow([2, 1]))
def test_a_restart_of_the_fleet_is_one_of_the_api_too(start_process: Callable[..., Process], workers: int) -> None:
    running = start_process(api={"workers": workers})
    running.until_health(lambda health: health["status"] == "ok", "a healthy API")
    before = running.children()
    if workers == 1:
        assert httpx.post(f"http://127.0.0.1:{running.port}/restart", timeout=10).status_code == 202
        assert running.process.wait(15) == 0
        return

    def is_restarted() -> bool:
        with contextlib.suppress(httpx.TransportError):  # the one that was asked has just ended
            httpx.post(f"http://127.0.0.1:{running.port}/restart", timeout=10)
        return bool(running.children()) and not (running.children() & before)

    # What watches over the processes goes on, and so does the port. Asked again and again: one of the processes may
    # have been so late that what it sees first, which it takes for how things were before, is the first word.
    wait_until(is_restarted, "other processes", every=3)
    running.until_health(lambda health: health["status"] == "ok", "a healthy API again")
    assert running.stop() == 0


def test_no_restart_into_a_configuration_that_can_not_be_used(start_process: Callable[..., Process]) -> None:
    running = start_process()
    running.until_health(lambda health: health["status"] == "ok", "a healthy API")
    (running.log.parent / "config.json").write_text('{"queu": {}}')
    refused = httpx.post(f"http://127.0.0.1:{running.port}/restart", timeout=10)
    assert (refused.status_code, refused.headers["content-type"]) == (409, PROBLEM)
    assert "queu" in refused.json()["detail"]
    assert running.stop() == 0


@pytest.mark.slow
def test_the_processes_die_with_their_parent(start_process: Callable[..., Process]) -> None:
    running = start_process(api={"workers": 2})
    running.until_health(lambda health: health["status"] == "ok", "a healthy API")
    running.process.kill()
    running.process.wait()

    def is_free() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", running.port)) != 0

    wait_until(is_free, "a free port", 15)


def test_a_port_in_use_is_said_in_one_sentence(start_process: Callable[..., Process]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = start_process(api={"port": taken.getsockname()[1]})
        assert running.process.wait(30) == 69
        [sentence] = running.log.read_text().splitlines()
        assert f"127.0.0.1:{running.port} is in use" in sentence
        assert "api.port" in sentence
        assert f"process {os.getpid()}" in sentence


def test_it_is_not_open_to_the_network_without_keys(start_process: Callable[..., Process]) -> None:
    running = start_process(api={"host": "0.0.0.0"})
    assert running.process.wait(30) == 78
    [sentence] = running.log.read_text().splitlines()
    assert "security.api_key_enabled" in sentence
    keys = {"api_key_enabled": True, "api_keys": {"admin": "the-admin"}}
    running = start_process(api={"host": "0.0.0.0"}, security=keys)
    running.until_health(lambda health: health["status"] == "ok", "an API with keys")
    assert running.stop() == 0


def test_tls_is_served_and_a_bad_certificate_is_one_sentence(
    start_process: Callable[..., Process], tmp_path: Path
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    ssl_keys = {"ssl_enabled": True, "ssl_cert_file": str(certificate), "ssl_key_file": str(key)}
    running = start_process(api=ssl_keys)
    assert running.process.wait(30) == 78
    [sentence] = running.log.read_text().splitlines()
    assert "api.ssl_cert_file" in sentence
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    running = start_process(api=ssl_keys)

    def secure() -> Any:
        try:
            return httpx.get(f"https://127.0.0.1:{running.port}/health", verify=False).json()
        except httpx.TransportError:
            assert running.process.poll() is None, running.log.read_text()
            return None

    assert wait_until(secure, "an answer over TLS")["status"] == "ok"
    assert running.stop() == 0


def test_producers_and_the_share_of_theirs_that_was_malformed(served: Api) -> None:
    assert served.get("/producers") == {"days": 1, "producers": []}
    counts = {producers.ProducerCount("crm", "m", "valid"): 3, producers.ProducerCount("crm", "m", "repaired:fence"): 1}
    with served.redis.pipeline() as pipeline:
        producers.count(pipeline, served.clock.now(), counts, 30)
        pipeline.execute()
    shares = [
        {
            "producer": "crm",
            "model": "m",
            "documents": 4,
            "malformed": 0.25,
            "causes": {"valid": 3, "repaired:fence": 1},
        }
    ]
    assert served.get("/producers?days=2") == {"days": 2, "producers": shares}
    assert served.get("/producers?days=31")["days"] == 30, "no more are kept"
    assert "days" in served.get("/producers?days=0", 422)["detail"]
