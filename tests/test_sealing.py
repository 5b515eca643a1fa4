"""Sensitive fields: nowhere in Redis, in results, in reports or in logs, and whole again for who has a key."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Fleet, files, is_report, mostly_slow, wait_until
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from typer.testing import CliRunner

from llm_scheduler.api.cli import app
from llm_scheduler.ingest.spool.originals import is_sealed, read_original
from llm_scheduler.jobs.config import ConfigError, Security, load
from llm_scheduler.jobs.config.key_checks import is_key
from llm_scheduler.jobs.config.model import split_keys
from llm_scheduler.jobs.crash import crash_report
from llm_scheduler.jobs.intake import IntakeLimits, read
from llm_scheduler.jobs.sealing import Seal, Sealing, WrongKey, masked, new_key, opened
from llm_scheduler.jobs.sealing.fields import Fields

run = CliRunner().invoke
KEYS = [new_key(), new_key()]
SECRET = "Zebulon-4711"

HANDLERS = '''
"""Handlers that do with a document what careless ones do."""

import logging
import sys


def careless(document, context):
    print("seen", document, file=sys.stderr)
    if document.get("fails"):
        raise ValueError(f"bad name {document['Name']!r} of {document}")
    if document.get("refuses"):
        from llm_scheduler.jobs.handler import Reject

        raise Reject(f"no such person: {document['Name']}")
    if document.get("dies"):
        import os

        os.abort()
    return {"echo": document, "name": document["Name"], "length": len(document["Name"])}
'''


def sealing(*fields: str, originals: bool = False) -> Sealing:
    return Sealing(
        Security(
            encryption_enabled=True,
            encryption_key=KEYS,
            encrypt_sensitive_fields=list(fields),
            encrypt_originals=originals,
        )
    )


def values_of(text: str, *fields: str) -> list[str]:
    raw = text.encode()
    return [raw[begin:end].decode() for begin, end in Fields(fields).spans(raw)]


@pytest.mark.parametrize(
    ("text", "fields", "found"),
    [
        ('{"a": 1, "ssn": "x"}', ["ssn"], ['"x"']),
        ('{"SSN" : "x", "Ssn":2}', ["sSn"], ['"x"', "2"]),
        ('{"a": [{"b": {"ssn": [1, {"ssn": 2}]}}]}', ["ssn"], ['[1, {"ssn": 2}]']),
        ('{"\\u0073sn": null}', ["ssn"], ["null"]),
        ('{"ssn": 1, "ssn": 2}', ["ssn"], ["1", "2"]),
        ('{"a": "ssn", "b": ["ssn"]}', ["ssn"], []),
        ('{"ssn_of": 1, "assn": 2}', ["ssn"], []),
        ('{"a": "\\"ssn\\": 1", "ssn": "}\\\\"}', ["ssn"], ['"}\\\\"']),
        ('{"Straße": 1}', ["STRASSE"], ["1"]),
        ('{"p": {"name": "x"}, "name": "y"}', ["/p/NAME"], ['"x"']),
        ('[{"n": 1}, {"n": 2}]', ["/1/n"], ["2"]),
        ("[[1, 2], [3, 4]]", ["/1/0"], ["3"]),
        ('{"a/b": {"m~n": 1}}', ["/a~1b/m~0n"], ["1"]),
        ('{"": 1}', ["/"], ["1"]),
        ('{"x": 1, "/y": 2}', ["/y"], []),
        ('"ssn"', ["ssn"], []),
        ("{}", ["ssn"], []),
    ],
)
def test_where_sensitive_values_stand(text: str, fields: list[str], found: list[str]) -> None:
    assert values_of(text, *fields) == found


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_names = st.sampled_from(["ssn", "SSN", "name", "a", "/", "~", "x y", "é"])
_documents = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner, max_size=4), max_leaves=20
)


def _expected(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "***" if key.lower() == "ssn" else _expected(member) for key, member in value.items()}
    return [_expected(member) for member in value] if isinstance(value, list) else value


@given(_documents, st.sampled_from([None, 2]), st.booleans())
def test_any_document_is_sealed_where_it_should_and_opened_to_the_byte(value: Any, indent: int, ascii_: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # a lone surrogate, which intake does not let pass
    shut = sealing("ssn")
    sealed = shut.sealed(text)
    assert opened(sealed, shut.seal) == text
    assert json.loads(masked(sealed)) == _expected(value)
    assert (sealed is text) == (_expected(value) == value)
    assert shut.without(value) == json.loads(masked(sealed), object_pairs_hook=_without_masks)


def _without_masks(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if key.lower() != "ssn"}


def test_old_keys_open_and_the_first_one_seals() -> None:
    old, both, new = Seal(KEYS[1:]), Seal(KEYS), Seal(KEYS[:1])
    assert both.unlock(old.lock(b"x")) == b"x"
    assert new.unlock(both.lock(b"x")) == b"x"
    with pytest.raises(WrongKey):
        new.unlock(old.lock(b"x"))
    with pytest.raises(WrongKey):
        both.unlock(b"nonsense")


@pytest.mark.parametrize("chunks", [[], [b""], [b"a"], [b"a", b"bc", b"d"]])
def test_a_sealed_file_is_whole_or_not_opened_at_all(chunks: list[bytes]) -> None:
    seal = Seal(KEYS)
    lines = list(seal.lock_file("1" * 26, chunks))
    assert b"".join(seal.unlock_file(lines)) == b"".join(chunks)
    damaged = [lines[:-1], [*lines, lines[-1]], [lines[0], *lines[:0:-1], lines[1]], [lines[0], b"abc\n"]]
    for wrong in damaged:
        with pytest.raises(WrongKey):
            b"".join(seal.unlock_file(wrong))


def test_what_a_message_quotes_is_hidden() -> None:
    shut = sealing("name", "/age")
    text = b'{"name": ["O\'Hara \\"x\\"", 7], "age": 12}'
    assert shut.hidden('no O\'Hara "x" here', text) == "no *** here"
    assert shut.hidden(repr({"name": 'O\'Hara "x"'}), text) == "{'name': '***'}"
    assert shut.hidden('{"name": "O\'Hara \\"x\\""}', text) == '{"name": "***"}'
    assert shut.hidden("age 12 of 1200, item 7 of 47", text) == "age *** of 1200, item *** of 47"
    assert shut.hidden('o\'hara "X"', text) == "***"


def test_receipts_quote_nothing_of_a_value() -> None:
    raw = b"{'name': 'Zebulon-4711', \"b\": 1,}"
    reading = read(raw, IntakeLimits(10**6, 100), 10**6)
    assert SECRET in str(reading.repairs)
    shut = sealing("name").sealed_reading(reading)
    assert SECRET not in str(shut)
    assert [(repair.step, repair.code) for repair in shut.repairs] == [(it.step, it.code) for it in reading.repairs]


def test_evidence_keeps_the_stack_and_nothing_that_was_printed() -> None:
    said = f"""seen {SECRET}
Fatal Python error: Aborted

Current thread 0x00007f (most recent call first):
  File "handlers.py", line 20 in careless
  File "{SECRET}
""".encode()
    lines = crash_report("w", "now", -6, 1, said, quotes=False).last_lines
    assert SECRET not in str(lines)
    assert '  File "handlers.py", line 20 in careless' in lines
    assert SECRET in str(crash_report("w", "now", -6, 1, said).last_lines)
    assert crash_report("w", "now", -9, 1, f"{SECRET}\n".encode(), quotes=False).last_lines == []


def secret_fleet(fleet: Fleet, **security: Any) -> Fleet:
    (fleet.folder / "careless.py").write_text(HANDLERS)
    fleet.configure(
        handlers={"default": "careless:careless"},
        security={"encryption_enabled": True, "encryption_key": KEYS, "encrypt_sensitive_fields": ["NAME"], **security},
    )
    return fleet


def environment(fleet: Fleet, keys: list[str] | None = None) -> dict[str, str]:
    return {"PYTHONPATH": str(fleet.folder), "LLM_ENCRYPTION_KEY": "\n".join(keys or KEYS)}


DROPPED = {
    "valid.json": '{"Name": "Zebulon-4711", "b": 1.50}',
    "fenced.json": '```json\n{"Name": "Zebulon-4711", "b": 1}\n```',
    "repaired.json": "{'Name': 'Zebulon-4711', 'b': 1,}",
    "fails.json": '{"fails": 1, "Name": "Zebulon-4711"}',
    "refuses.json": '{"refuses": 1, "Name": "Zebulon-4711"}',
    "dies.json": '{"dies": 1, "Name": "Zebulon-4711"}',
    "broken.json": '{"Name": "Zebulon-4711", {{{',
    "urgent.json": '{"Name": "Zebulon-4711 urgent"}',
    "long.json": json.dumps({"Name": "Zebulon-4711", "text": "word " * 200}),
    "day.jsonl": '{"Name": "Zebulon-4711"}\n{"Name": "Zebulon-4711", "n": 2}\n',
}
FINISHED = len(DROPPED) + 2  # the .jsonl and its two lines


def everything_in(redis: Redis) -> bytes:
    """All that Redis knows, the bodies of payloads decompressed as far as they can be."""
    found = []
    for key in redis.scan_iter():
        kind = redis.type(key)
        if kind == b"hash":
            found += [part for pair in redis.hgetall(key).items() for part in pair]
        elif kind == b"list":
            found += redis.lrange(key, 0, -1)
        elif kind == b"stream":
            found += [part for _, fields in redis.xrange(key) for part in fields.values()]
        elif kind == b"string":
            found.append(redis.get(key))
    return b"\n".join(found)


@pytest.mark.slow
def test_no_secret_is_in_redis_in_results_in_reports_or_in_logs(fleet: Fleet, redis: Redis) -> None:
    secret_fleet(fleet, encrypt_originals=True)
    for name, text in DROPPED.items():
        fleet.drop(name, text)
    fleet.start("ingest", env=environment(fleet))
    wait_until(lambda: fleet.ledger_total("queued") == FINISHED - 1, "everything to be queued")
    queued = everything_in(redis)
    assert b"valid.json" in queued
    assert SECRET.encode() not in queued
    payloads = [part for part in queued.split(b"\n") if b"word " in part]
    assert not payloads, "compressed bodies are sealed too"
    others = [name for name in fleet.MODULES if name not in ("ingest", "collector")]
    fleet.start(*others, env=environment(fleet))
    wait_until(lambda: fleet.stream_documents() == FINISHED - 1, "every outcome", 60)
    told = everything_in(redis)
    assert SECRET.encode() not in told
    fleet.start("collector", env=environment(fleet))
    fleet.wait_finished(FINISHED)
    fleet.stop()
    assert SECRET.encode() not in everything_in(redis)
    for path in files(fleet.folder):
        if path.suffix in (".json", ".jsonl") or "archive" in path.parts:
            assert SECRET.encode() not in path.read_bytes(), path
    for name in ("ingest", "collector", "scheduler"):
        assert SECRET not in fleet.log(name)
    reports = {report["source"]: report for report in fleet.reports()}
    assert reports["fails.json"]["message"].startswith("ValueError: bad name '***' of")
    assert reports["refuses.json"]["message"] == "no such person: ***"
    assert reports["dies.json"]["code"] == "worker_lost"
    assert any("in careless" in line for line in reports["dies.json"]["evidence"][0]["last_lines"])
    # An urgent word in a sensitive field decides nothing: the reason would tell of it.
    urgent = next(result for result in fleet.results() if result["source"] == "urgent.json")
    assert urgent["priority"] == "medium"


def test_whoever_has_a_key_gets_everything_back(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    secret_fleet(fleet, encrypt_originals=True)
    for name, text in DROPPED.items():
        fleet.drop(name, text)
    fleet.start(env=environment(fleet))
    fleet.wait_finished(FINISHED)
    fleet.stop()
    monkeypatch.setenv("LLM_ENCRYPTION_KEY", KEYS[0])
    result = run(app, ["--config", str(fleet.config_path), "decrypt", str(fleet.processed / "valid.json")])
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert f'"document":{DROPPED["valid.json"]}' in text, "the document is the original's own text again"
    assert json.loads(text)["result"]["name"] == SECRET
    seal = Seal(KEYS)
    homes = {name: fleet.archive / name for name in DROPPED}
    homes |= {name: fleet.errors / name for name in ("fails.json", "refuses.json", "dies.json", "broken.json")}
    for name, home in homes.items():
        assert is_sealed(str(home))
        assert read_original(str(home), seal).decode() == DROPPED[name]
    target = fleet.folder / "out.json"
    arguments = ["--config", str(fleet.config_path), "decrypt", str(homes["broken.json"]), "-o", str(target)]
    assert run(app, arguments).exit_code == 0
    assert target.read_text() == DROPPED["broken.json"]
    assert target.stat().st_mode & 0o777 == 0o600


def test_results_are_sealed_and_originals_left_as_they_came_by_default(fleet: Fleet) -> None:
    secret_fleet(fleet)
    fleet.drop("valid.json", DROPPED["valid.json"])
    fleet.start(env=environment(fleet))
    fleet.wait_finished(1)
    assert (fleet.archive / "valid.json").read_text() == DROPPED["valid.json"]
    text = (fleet.processed / "valid.json").read_bytes()
    assert SECRET.encode() not in text
    assert b'"b": 1.50}' in text, "what is not sensitive stays as it was written"


@pytest.mark.slow
@pytest.mark.parametrize("point", mostly_slow(["original.sealed_in_place", "commit.written", "commit.report_in_place"]))
def test_a_crash_while_originals_are_sealed_leaves_one_of_each(fleet: Fleet, point: str) -> None:
    secret_fleet(fleet, encrypt_originals=True)
    dropped = {f"{number}.json": f'{{"Name": "Zebulon-4711", "n": {number}}}' for number in range(8)}
    dropped["bad.json"] = "{{{"
    for name, text in dropped.items():
        fleet.drop(name, text)
    fleet.start(*(name for name in fleet.MODULES if name != "collector"), env=environment(fleet))
    wait_until(lambda: fleet.stream_documents() == len(dropped), "every outcome")
    fleet.start("collector", faults=f"{point}:{3 if point != 'commit.written' else 1}", env=environment(fleet))
    assert fleet.running.pop("collector").wait(20) == -9, "the fault point was reached"
    fleet.start("collector", env=environment(fleet))
    wait_until(lambda: not fleet.temp_groups(), "no claim group left behind")
    fleet.stop()
    found = {path.name: read_original(str(path), Seal(KEYS)).decode() for path in files(fleet.archive)}
    found |= {p.name: read_original(str(p), Seal(KEYS)).decode() for p in files(fleet.errors) if not is_report(p)}
    assert found == dropped
    assert len(files(fleet.archive)) == len(fleet.results()) == 8


@pytest.mark.parametrize("point", mostly_slow(["original.sealed_in_place", "split.written", "split.archived"]))
def test_a_crash_while_a_sealed_file_is_taken_apart(fleet: Fleet, point: str) -> None:
    secret_fleet(fleet, encrypt_originals=True)
    fleet.drop("day.jsonl", DROPPED["day.jsonl"])
    fleet.start("ingest", faults=f"{point}:1", env=environment(fleet))
    assert fleet.running.pop("ingest").wait(20) == -9, "the fault point was reached"
    fleet.start(env=environment(fleet))
    fleet.wait_finished(3)
    wait_until(lambda: not fleet.temp_groups(), "no claim group left behind")
    fleet.stop()
    found = sorted(read_original(str(path), Seal(KEYS)).decode() for path in files(fleet.archive))
    assert found == sorted([DROPPED["day.jsonl"], *DROPPED["day.jsonl"].splitlines()])


def test_a_worker_with_another_key_loses_nothing(fleet: Fleet) -> None:
    secret_fleet(fleet)
    fleet.drop("valid.json", DROPPED["valid.json"])
    workers = ("high", "medium", "low")
    fleet.start(*(name for name in fleet.MODULES if name not in workers), env=environment(fleet, KEYS[:1]))
    fleet.start(*workers, env=environment(fleet, KEYS[1:]))
    fleet.wait_finished(1)
    report = fleet.reports()[0]
    assert report["code"] == "wrong_key"
    assert "security.encryption_key" in report["message"]
    assert (fleet.errors / "valid.json").read_text() == DROPPED["valid.json"]


def test_a_diff_shows_what_changed_and_hides_what_is_sensitive(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    secret_fleet(fleet, encrypt_originals=True)
    fleet.drop("repaired.json", DROPPED["repaired.json"])
    fleet.start(env=environment(fleet))
    fleet.wait_finished(1)
    wait_until(lambda: fleet.ledger_total("done") == 1, "the ledger to know")
    monkeypatch.setenv("LLM_ENCRYPTION_KEY", KEYS[0])
    for options in ([], ["--json"]):
        shown = run(app, ["--config", str(fleet.config_path), "diff", fleet.results()[0]["id"], *options])
        assert shown.exit_code == 0, shown.output
        assert SECRET not in shown.output
        assert "***" in shown.output


def test_decrypt_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sealed = tmp_path / "a.json"
    sealed.write_bytes(sealing("name").sealed(b'{"name": "x"}'))
    assert run(app, ["decrypt", "a.json"]).exit_code == 78
    monkeypatch.setenv("LLM_ENCRYPTION_KEY", "short")
    shown = run(app, ["decrypt", "a.json"])
    assert (shown.exit_code, "short" in shown.output) == (78, False)
    monkeypatch.setenv("LLM_ENCRYPTION_KEY", new_key())
    shown = run(app, ["decrypt", "a.json", "-o", "b.json"])
    assert shown.exit_code == 1
    assert "None of the keys" in shown.output
    assert not (tmp_path / "b.json").exists()
    assert "No such file" in run(app, ["decrypt", "c.json"]).output


def test_new_keys_are_keys() -> None:
    made = run(app, ["config", "new-key"]).stdout.strip()
    assert is_key(made)
    assert split_keys(f"{made}\n{KEYS[0]}, {KEYS[1]} ") == (made, *KEYS)


@pytest.mark.parametrize(
    ("security", "key"),
    [
        ({"encryption_key": ""}, "security.encryption_key"),
        ({"encryption_key": "s3cret"}, "security.encryption_key"),
        ({"encryption_key": [KEYS[0], "s3cret"]}, "security.encryption_key"),
        ({"encrypt_sensitive_fields": ["/a~b"]}, "security.encrypt_sensitive_fields"),
        ({"encrypt_sensitive_fields": []}, "security.encrypt_sensitive_fields"),
    ],
    ids=["no key", "a wrong key", "one of two", "no pointer", "no field"],
)
def test_a_sealing_that_would_seal_nothing_is_refused(tmp_path: Path, security: dict[str, Any], key: str) -> None:
    path = tmp_path / "c.json"
    whole = {"encryption_enabled": True, "encryption_key": KEYS[0], "encrypt_sensitive_fields": ["ssn"], **security}
    path.write_text(json.dumps({"security": whole}))
    with pytest.raises(ConfigError) as raised:
        load(path, {})
    assert [problem.key for problem in raised.value.problems] == [key]
    assert "s3cret" not in str(raised.value)
    assert KEYS[0] not in str(raised.value)
