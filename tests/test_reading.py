"""What may pass: qualities by configuration and route, schemas that fetch nothing; and what the result says of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Fleet, wait_until
from msgspec.structs import replace
from typer.testing import CliRunner

from llm_scheduler.api.cli import app
from llm_scheduler.jobs.config import ConfigError, Intake, Processing, load
from llm_scheduler.jobs.document import Payload, Route
from llm_scheduler.jobs.intake import IntakeRejection
from llm_scheduler.jobs.schemas import Schema, SchemaProblem
from llm_scheduler.jobs.worker.reader import Reader, intake_report, longest_list

run = CliRunner().invoke
ROUTE = Route(priority="medium", queue="medium", handler="default", reasons=[])
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name"],
}
TEXTS = {"valid": b'{"name": "Ana"}', "repaired": b"{'name': 'Ana'}", "truncated": b'{"name": "Ana", "tags": [1, 2'}


def payload(raw: bytes, route: Route = ROUTE) -> Payload:
    return Payload("1" * 26, "1" * 26, "a.json", 0.0, 0.0, route, raw)


def code_of(reader: Reader, raw: bytes, route: Route = ROUTE) -> str:
    try:
        return reader.read(payload(raw, route)).quality.value
    except IntakeRejection as refusal:
        return refusal.name


def test_truncated_documents_do_not_pass_by_default() -> None:
    reader = Reader(Processing(), Intake())
    assert {name: code_of(reader, raw) for name, raw in TEXTS.items()} == {
        "valid": "valid",
        "repaired": "repaired",
        "truncated": "truncated",
    }
    with pytest.raises(IntakeRejection, match=r"intake\.accept is valid, repaired.*ends too early") as caught:
        reader.read(payload(TEXTS["truncated"]))
    assert caught.value.position is not None
    assert caught.value.position.offset == len(TEXTS["truncated"])


def test_what_passes_is_the_configurations_or_the_routes() -> None:
    reader = Reader(Processing(), Intake(accept=["valid"]))
    with pytest.raises(IntakeRejection, match="non_standard_quotes") as caught:
        reader.read(payload(TEXTS["repaired"]))
    assert caught.value.name == "not_accepted"
    lenient = replace(ROUTE, accept=["valid", "repaired", "truncated"])
    assert [reader.read(payload(raw, lenient)).quality.value for raw in TEXTS.values()] == list(TEXTS)
    assert code_of(reader, TEXTS["valid"], replace(ROUTE, accept=["truncated"])) == "not_accepted"


def test_a_schema_names_every_problem_with_its_place() -> None:
    schemas = {"person": Schema("person", PERSON)}
    reader = Reader(Processing(), Intake(schema="person", schemas={"person": "x"}), schemas)
    assert reader.read(payload(TEXTS["valid"])).warnings == ()
    raw = b'{"tags": [1, "two", 3, {"a/b": 1}]}'
    with pytest.raises(IntakeRejection) as caught:
        reader.read(payload(raw))
    assert caught.value.name == "schema"
    for words in ("the schema person", "/: ", '"name" is a required property', "/tags/1: ", "/tags/3: "):
        assert words in caught.value.message
    warns = Reader(Processing(), Intake(schema="person", schema_gate="warn", schemas={"person": "x"}), schemas)
    assert [warned.code for warned in warns.read(payload(raw)).warnings] == ["schema"] * 3
    assert code_of(Reader(Processing(), Intake()), raw, replace(ROUTE, schema="unknown")) == "schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/other.json"},
        {"$ref": "file:///etc/passwd"},
        {"properties": {"a": {"$ref": "other.json#/x"}}},
        {"type": "no such type"},
        {"pattern": "("},
    ],
)
def test_a_schema_that_reaches_out_or_is_none_is_refused(schema: Any) -> None:
    with pytest.raises(SchemaProblem, match=r"^s: "):
        Schema("s", schema)


def test_a_schema_may_refer_to_itself_and_takes_any_number() -> None:
    schema = Schema("s", {"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}})
    assert schema.problems([1, 10**400, -(2**70)]) == []
    assert len(schema.problems(["x"] * 100)) == 20


def test_the_configuration_names_what_is_wrong_with_schemas(tmp_path: Path) -> None:
    (tmp_path / "person.json").write_text(json.dumps(PERSON))
    (tmp_path / "bad.json").write_text("{")
    config = tmp_path / "config.json"
    schemas = {name: str(tmp_path / f"{name}.json") for name in ("person", "bad", "gone")}
    config.write_text(json.dumps({"intake": {"schemas": schemas, "schema": "persn"}}))
    with pytest.raises(ConfigError) as caught:
        load(config, {})
    assert {problem.key for problem in caught.value.problems} == {
        "intake.schemas.bad",
        "intake.schemas.gone",
        "intake.schema",
    }
    assert "Did you mean 'person'?" in str(caught.value)
    config.write_text(json.dumps({"intake": {"schemas": {"person": schemas["person"]}, "schema": "person"}}))
    assert load(config, {}).intake.schema == "person"


def test_a_plainly_valid_document_costs_nothing_to_tell_of() -> None:
    reader = Reader(Processing(), Intake())
    assert intake_report(reader.read(payload(b'{"a": [1, 2]}'))) is None
    said = intake_report(reader.read(payload(b'{"metadata": {"source": " crm ", "model": "m"}, "a": [1, 2]}')))
    assert said is not None
    assert (said.producer, said.model, said.count, said.document) == ("crm", "m", 2, b"")
    assert longest_list({"a": 1}) == -1
    assert longest_list([]) == 0


def test_the_result_has_the_receipt_and_both_hashes(fleet: Fleet) -> None:
    fleet.configure(intake={"accept": ["valid", "repaired", "truncated"]})
    fleet.drop("r.json", b"```json\n{'rate': 1.10, 'name': 'Ana',}\n```")
    fleet.drop("t.json", TEXTS["truncated"])
    fleet.drop("v.json", b'{"a" : 1, "a": 2.0}')
    fleet.start()
    wait_until(lambda: len(fleet.results()) == 3 and not fleet.in_flight(), "three results")
    repaired, truncated, valid = fleet.results()
    assert repaired["quality"] == "repaired"
    assert repaired["document"] == {"rate": 1.1, "name": "Ana"}
    assert [repair["step"] for repair in repaired["repairs"]][:2] == ["unwrap", "unwrap"]
    assert repaired["sha256"] != repaired["document_sha256"]
    assert repaired["coverage"] == 1.0
    assert (truncated["quality"], truncated["document"]) == ("truncated", {"name": "Ana", "tags": [1]})
    assert (valid["quality"], valid["repairs"], "document_sha256" in valid) == ("valid", [], False)
    assert valid["warnings"][0]["code"] == "duplicate_key"
    assert b'"document":{"a" : 1, "a": 2.0}' in (fleet.processed / "v.json").read_bytes()


def test_check_says_what_would_become_of_files(tmp_path: Path) -> None:
    for name, raw in {**TEXTS, "none": b"I am sorry.", "lines.jsonl": b'{"a": 1.10}\nx\n'}.items():
        (tmp_path / name).write_bytes(raw)
    good = run(app, ["check", str(tmp_path / "valid"), str(tmp_path / "repaired")])
    assert good.exit_code == 0, good.output
    names = [str(tmp_path / name) for name in (*TEXTS, "none", "lines.jsonl", "no such file")]
    result = run(app, ["check", "--json", *names])
    assert result.exit_code == 1
    found = {Path(each["file"]).name: each for each in json.loads(result.stdout)}
    assert {name: (each["quality"], each.get("code")) for name, each in found.items()} == {
        "valid": ("valid", None),
        "repaired": ("repaired", None),
        "truncated": ("truncated", "truncated"),
        "none": ("refused", "invalid_json"),
        "lines.jsonl:1": ("valid", None),
        "lines.jsonl:2": ("refused", "invalid_json"),
        "no such file": ("refused", "unreadable"),
    }
    assert '"a": 1.10' in result.stdout, "numbers keep their digits"
    assert found["truncated"]["document"] == {"name": "Ana", "tags": [1]}
    words = run(app, ["check", *names], env={"COLUMNS": "300"}).stdout
    assert "refused" in words
    assert "intake.accept" in words


def test_diff_shows_both_texts_and_the_receipt(fleet: Fleet) -> None:
    fleet.drop("r.json", b'{\n  "name": "Ana",\n  "n": 1,\n}\n')
    fleet.drop("v.json", b'{"a": 1}')
    fleet.drop("lines.jsonl", b'{"n": 1}\n')
    fleet.start()
    wait_until(lambda: len(fleet.results()) == 3 and not fleet.in_flight(), "three results")
    command = ["--config", str(fleet.config_path), "diff"]
    ids = {result["source"]: result["id"] for result in fleet.results()}
    shown = run(app, [*command, ids["r.json"]])
    assert shown.exit_code == 0, shown.output
    assert '-  "n": 1,' in shown.stdout
    assert '+  "n": 1' in shown.stdout
    assert "slip: trailing_comma at line 3, column 9" in shown.stdout
    assert "own text" in run(app, [*command, ids["v.json"]]).stdout
    assert "own text" in run(app, [*command, ids["lines.jsonl/000001.json"]]).stdout
    receipt = json.loads(run(app, [*command, ids["r.json"], "--json"]).stdout)
    assert receipt["original"] == '{\n  "name": "Ana",\n  "n": 1,\n}\n'
    assert json.loads(receipt["published"]) == {"name": "Ana", "n": 1}
    assert run(app, [*command, "0" * 26]).exit_code == 1
