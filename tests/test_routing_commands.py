"""`llmctl explain`, `llmctl router ...` and `python -m llm_scheduler.ingest.router.batch`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import SWITCHED_OFF, Fleet, wait_until
from typer.testing import CliRunner

from llm_scheduler.api.cli import app
from llm_scheduler.jobs.sealing import new_key

run = CliRunner().invoke
BILLS = {
    "name": "bills",
    "when": {"==": [{"var": "kind"}, "bill"]},
    "then": {"priority": "high", "handler": "bills", "tags": ["money"]},
}


def written(path: Path, **parts: Any) -> str:
    whole = {"intelligent_routing": SWITCHED_OFF, "handlers": {"default": "a:b", "bills": "a:c"}, **parts}
    path.write_text(json.dumps(whole))
    return str(path)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    names = {"watch": "raw", "output": "processed", "archive": "archive", "error": "errors", "temp": "temp"}
    return {f"{key}_directory": str(tmp_path / folder) for key, folder in names.items()}


def test_explain_a_file(tmp_path: Path) -> None:
    config = written(tmp_path / "c.json", routes=[BILLS])
    file = tmp_path / "bill.json"
    file.write_text('```json\n{"kind": "bill", "text": "urgent"}\n```')
    shown = run(app, ["--config", config, "explain", str(file)])
    assert shown.exit_code == 0, shown.output
    for word in ("high", "bills", "money", "urgent keyword 'urgent' in the text", "rule 'bills': priority high"):
        assert word in shown.output
    answer = json.loads(run(app, ["--config", config, "explain", str(file), "--json"]).stdout)
    assert (answer["priority"], answer["handler"], answer["tags"]) == ("high", "bills", ["money"])
    assert (answer["geo"]["country"], answer["industry"]["section"], answer["language"]) == (None, None, None)


def test_explain_prints_every_clue_as_json(tmp_path: Path) -> None:
    config = written(tmp_path / "c.json", intelligent_routing={})
    file = tmp_path / "bank.json"
    file.write_text('{"about": "A bank that offers microfinance. It is based in Chennai, India."}')
    shown = run(app, ["--config", config, "explain", str(file), "--json"])
    assert shown.exit_code == 0, shown.output
    answer = json.loads(shown.stdout)
    assert (answer["geo"]["country"], answer["industry"]["section"], answer["language"]) == ("IN", "K", "en")
    assert {"kind", "text", "says", "weight", "pointer"} <= answer["geo"]["evidence"][0].keys()
    assert answer["industry"]["evidence"][0]["pointer"] == "/about"


def test_explain_a_missing_file(tmp_path: Path) -> None:
    shown = run(app, ["--config", written(tmp_path / "c.json"), "explain", "nothing.json"])
    assert shown.exit_code == 1
    assert "nothing.json: No such file" in shown.output


def test_explain_a_document_by_its_id_even_when_its_original_is_sealed(fleet: Fleet) -> None:
    security = {"encryption_enabled": True, "encryption_key": new_key(), "encrypt_originals": True}
    security["encrypt_sensitive_fields"] = ["iban"]
    routing = {"labels": str(fleet.folder / "labels.jsonl")}
    fleet.configure(routes=[{**BILLS, "then": {"priority": "high"}}], security=security, intelligent_routing=routing)
    fleet.drop("bill.json", '{"kind": "bill", "iban": "DE02"}')
    fleet.start()
    fleet.wait_finished(1)
    wait_until(lambda: fleet.ledger_total("done") == 1, "the ledger to know")
    document_id = fleet.results()[0]["id"]
    shown = run(app, ["--config", str(fleet.config_path), "explain", document_id.lower(), "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["priority"] == "high"
    for label in ("Money", "K"):
        said = run(app, ["--config", str(fleet.config_path), "router", "label", document_id, label])
        assert said.exit_code == 0, said.output
    lines = [json.loads(line) for line in (fleet.folder / "labels.jsonl").read_text().splitlines()]
    assert lines == [{"text": "bill", "label": label, "id": document_id} for label in ("Money", "K")]


def test_rehearse(tmp_path: Path, folders: dict[str, Any]) -> None:
    now = written(tmp_path / "now.json", directories=folders)
    then = written(tmp_path / "then.json", directories=folders, routes=[BILLS])
    archive = tmp_path / "archive"
    (archive / "day").mkdir(parents=True)
    for number in range(5):
        kind = "bill" if number % 2 else "letter"
        (archive / "day" / f"{number}.json").write_text(json.dumps({"kind": kind}))
    shown = run(app, ["--config", now, "router", "rehearse", then])
    assert shown.exit_code == 0, shown.output
    assert "The route of 2 documents of 5 would change." in shown.output
    assert "rule 'bills'" in shown.output
    found = json.loads(run(app, ["--config", now, "router", "rehearse", then, "--last", "2", "--json"]).stdout)
    assert (found["documents"], [change["source"] for change in found["changes"]]) == (2, ["day/3.json"])
    assert found["changes"][0]["fields"]["priority"] == ["medium", "high"]
    same = run(app, ["--config", then, "router", "rehearse", then])
    assert "The route of 0 documents of 5 would change." in same.output
    assert sorted(path.name for path in archive.rglob("*.json")) == [f"{number}.json" for number in range(5)]


def test_errors_of_rehearse(tmp_path: Path, folders: dict[str, Any]) -> None:
    now = written(tmp_path / "now.json", directories=folders)
    bad = written(tmp_path / "bad.json", routes=[{"name": "a", "when": {"=": []}}])
    shown = run(app, ["--config", now, "router", "rehearse", bad])
    assert (shown.exit_code, "unknown operator" in shown.output) == (78, True)
    shown = run(app, ["--config", now, "router", "rehearse", now])
    assert (shown.exit_code, "There are no documents in" in shown.output) == (1, True)


def batch(lines: bytes, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "llm_scheduler.ingest.router.batch", *arguments],
        input=lines,
        capture_output=True,
        timeout=60,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_batch_of_lines_is_answered_in_order(tmp_path: Path) -> None:
    config = written(tmp_path / "c.json", routes=[BILLS])
    lines = [
        b'{"text": "asap please"}',
        b'{"document": {"kind": "bill"}}',
        b"{}",
        b"not JSON",
        b"\xff",
        b'{"text": null}',
        b'{"document": [1, "draft"]}',
    ]
    status, answers = batch(b"\n".join(lines), "--config", config)
    assert status == 1
    assert [answer.get("priority") for answer in answers] == ["high", "high", None, None, None, "medium", "low"]
    assert "line 3 is neither" in answers[2]["error"]
    assert "line 4 is not JSON" in answers[3]["error"]
    assert set(answers[0]) >= {"priority", "geo", "industry", "language", "reasons"}
    assert batch(lines[0], "--config", config)[0] == 0


def test_a_batch_without_a_usable_configuration_or_model(tmp_path: Path) -> None:
    assert batch(b"", "--config", str(tmp_path / "none.json"))[0] == 78
    (tmp_path / "m.npz").write_bytes(b"no model")
    assert batch(b"", "--model", str(tmp_path / "m.npz"))[0] == 1
