"""Files of several documents are taken apart, each with its own bytes; whatever is killed in between, once."""

import gzip
import json
import logging
import os
from pathlib import Path

import pytest
from conftest import Fleet, mostly_slow, wait_until
from redis import Redis

from llm_scheduler.ingest.daemon import Ingest
from llm_scheduler.ingest.splitter import Splitter
from llm_scheduler.ingest.spool import Claim, Claims, Folders
from llm_scheduler.ingest.spool.claims import FileStamp
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.process.termination import Stop

LIMITS = intake.IntakeLimits(1 << 20, 100)


def chat(custom_id: str, *contents: str, finish: str = "stop") -> str:
    choices = [
        {"index": number, "message": {"content": text}, "finish_reason": finish} for number, text in enumerate(contents)
    ]
    body = {"object": "chat.completion", "model": "gpt-x", "choices": choices}
    return json.dumps(
        {"id": "b", "custom_id": custom_id, "response": {"status_code": 200, "body": body}, "error": None}
    )


def settled(fleet: Fleet, done: int, rejected: int = 0) -> None:
    """Wait until so many documents have ended, and none is on its way."""
    wait_until(
        lambda: (len(fleet.results()), len(fleet.reports()), fleet.in_flight()) == (done, rejected, []),
        f"{done} done and {rejected} rejected",
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_line_is_a_document_of_its_own(fleet: Fleet) -> None:
    raw = b'{"n": 1}\r\n\n{"n": \n{"n": 1.10, "big": 123456789012345678901234567890}\n```\n{\'n\': 4}\n'
    fleet.drop("sub/answers.jsonl", raw)
    fleet.start()
    settled(fleet, 3, 2)
    results = {name: json.loads(content) for name, content in files(fleet.processed).items()}
    assert sorted(results) == [f"sub/answers.jsonl/{number:06d}.json" for number in (1, 3, 5)]
    assert results["sub/answers.jsonl/000005.json"]["quality"] == "repaired"
    assert (
        b'"document":{"n": 1.10, "big": 123456789012345678901234567890}'
        in files(fleet.processed)["sub/answers.jsonl/000003.json"]
    )
    errors = files(fleet.errors)
    assert errors["sub/answers.jsonl/000002.json"] == b'{"n":'
    assert json.loads(errors["sub/answers.jsonl/000002.json.error.json"])["code"] == "invalid_json"
    archive = files(fleet.archive)
    assert archive["sub/answers.jsonl"] == raw
    assert archive["sub/answers.jsonl.lines/000001.json"] == b'{"n": 1}'
    assert not any(files(fleet.raw))
    wait_until(lambda: not os.listdir(fleet.temp / "lines"), "the empty folder to go")


def test_the_lines_of_a_batch_are_named_by_their_ids(fleet: Fleet) -> None:
    lines = [
        chat("order/17", '{"total": 1.50}'),
        chat("order 18", '```json\n{"total": 2}\n```'),
        chat("twins", '{"n": 1}', '{"n": 2}'),
        chat("cut", '{"total": 3', finish="length"),
        json.dumps({"custom_id": "bad", "response": None, "error": {"code": "rate_limit", "message": "slow down"}}),
    ]
    fleet.drop("batch.jsonl", "\n".join(lines).encode())
    fleet.start()
    settled(fleet, 4, 2)
    results = {name: json.loads(content) for name, content in files(fleet.processed).items()}
    assert {name: (each["document"], each["quality"]) for name, each in results.items()} == {
        "batch.jsonl/order_17.json": ({"total": 1.5}, "valid"),
        "batch.jsonl/order_18.json": ({"total": 2}, "repaired"),
        "batch.jsonl/twins.json": ({"n": 1}, "valid"),
        "batch.jsonl/twins-000004.json": ({"n": 2}, "valid"),
    }
    assert results["batch.jsonl/order_17.json"]["envelope"] == {
        "kind": "openai.chat",
        "custom_id": "order/17",
        "model": "gpt-x",
    }
    codes = {
        name: json.loads(content)["code"]
        for name, content in files(fleet.errors).items()
        if name.endswith(".error.json")
    }
    assert codes == {"batch.jsonl/cut.json.error.json": "truncated", "batch.jsonl/bad.json.error.json": "no_answer"}


@pytest.mark.parametrize(
    ("name", "raw", "count"),
    [
        ("a.json", b'{"a": 1}', 0),
        ("a.json", b'{"a": 1} {"b": 2}', 2),
        ("a.json", b'{"a": 1}\n{"b": 2}\n{"c": \n', 3),
        ("a.json", b'{\n "a": 1\n}\n{\n "b": 2\n}\n', 2),
        ("a.json", b'```json\n{"a": 1}\n{"b": 2}\n```', 2),
        ("a.json", b'[{"a": 1}, {"b": 2}]', 0),
        ("a.json", b'{"a": 1}, "b": 2}', 0),
        ("a.json", b"", 0),
        ("a.jsonl", b'{"a": 1}', 1),
        ("a.jsonl", b'{\n "a": 1\n}', 1),
        ("a.NDJSON", b'{"a": 1}\nERROR\n', 2),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n{"b": 2}\n', mtime=0), 2),
        ("a.jsonl", b"\x89PNG\r\n\x1a\n{}\n{}", 0),
        ("a.jsonl", b" \n\n", 0),
    ],
)
def test_what_is_taken_apart(name: str, raw: bytes, count: int) -> None:
    assert len(intake.parts_of(raw, name, LIMITS, 10)) == count


def test_too_many_documents_are_refused_as_a_whole(fleet: Fleet) -> None:
    fleet.configure(intake={"max_lines": 3})
    fleet.drop("four.jsonl", b'{"a": 1}\n' * 4)
    fleet.drop("large.jsonl", b'{"a": 1}\n' * 3)
    fleet.start()
    settled(fleet, 3, 1)
    report = json.loads((fleet.errors / "four.jsonl.error.json").read_bytes())
    assert (report["code"], "max_lines" in report["message"]) == ("too_large", True)
    assert (fleet.errors / "four.jsonl").read_bytes() == b'{"a": 1}\n' * 4


class Killed(BaseException):
    pass


@pytest.mark.parametrize("point", mostly_slow(["split.written", "claim.moved", "ingest.claimed", "split.archived"]))
def test_a_kill_at_any_step_takes_a_file_apart_once(fleet: Fleet, redis: Redis, point: str) -> None:
    raw = b'{"n": 1}\n{"n": 2}\n{"n": 3}\n'
    fleet.drop("a.jsonl", raw)
    config = fleet.config()

    def at(name: str) -> None:
        if name == point:
            raise Killed

    stop = Stop()
    with pytest.raises(Killed):
        Ingest(Runtime(config, redis, SystemClock(), stop, logging.getLogger("test")), at).run()
    fleet.start()
    settled(fleet, 3)
    assert sorted(json.loads(content)["document"]["n"] for content in files(fleet.processed).values()) == [1, 2, 3]
    assert files(fleet.archive)["a.jsonl"] == raw
    assert len(files(fleet.archive)) == 4
    assert files(fleet.errors) == {}


def test_a_second_file_of_the_same_name_overwrites_nothing(fleet: Fleet) -> None:
    fleet.start()
    for number in (1, 2):
        fleet.drop("day.jsonl", b'{"n": %d}\n{"n": %d}\n' % (number, number + 10))
        settled(fleet, 2 * number)
    found = sorted(json.loads(content)["document"]["n"] for content in files(fleet.processed).values())
    assert found == [1, 2, 11, 12]
    assert sorted(files(fleet.archive).values()) == sorted(
        [b'{"n": 1}\n{"n": 11}\n', b'{"n": 2}\n{"n": 12}\n', b'{"n": 1}', b'{"n": 11}', b'{"n": 2}', b'{"n": 12}']
    )


def test_a_path_that_gets_too_long_below_temp_holds_nothing_up(fleet: Fleet) -> None:
    folders = Folders.of(fleet.config().directories)
    folders.prepare()
    group, document_id = "0" * 26, "1" * 26
    (fleet.temp / group).mkdir()
    (fleet.temp / group / document_id).write_bytes(b'{"n": 1}\n')
    deep = "/".join(["d" * 200] * 20)[: 4090 - len(str(fleet.raw))].rstrip("/")
    claim = Claim(
        id=document_id, source=f"{deep}/a.jsonl", watch=str(fleet.raw), stamp=FileStamp(1, 9, 1), received_at=1.0
    )
    root = Splitter(folders, Claims(folders.temp)).split(group, claim, [b'{"n": 1}'])
    assert list(files(Path(root))) == ["a.jsonl/000001.json"]
    assert b'{"n": 1}\n' in [path.read_bytes() for path in fleet.archive.rglob("*") if path.is_file()]


def test_parts_are_never_written_outside_of_the_spool(fleet: Fleet) -> None:
    config = fleet.config()
    folders = Folders.of(config.directories)
    folders.prepare()
    splitter = Splitter(folders, Claims(folders.temp))
    assert splitter.roots() == []
    lines = "\n".join(chat(name, '{"a": 1}') for name in ("../../etc/x", "/abs", "..", ".hidden", "a" * 300, "", "CON"))
    fleet.drop("b.jsonl", lines.encode())
    fleet.start()
    settled(fleet, 7)
    assert all(name.startswith("b.jsonl/") for name in files(fleet.processed))
    assert len(files(fleet.processed)) == 7
