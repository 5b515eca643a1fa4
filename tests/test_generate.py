"""Test documents: the guide's format, the same bytes for the same seed, and broken ones that really are."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm_scheduler.api.cli import app
from llm_scheduler.api.cli.samples import MAX_BYTES, SPOILERS, Sample, documents, texts
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.config import Config

LIMITS = intake.IntakeLimits(1 << 20, 100)
CJK = re.compile("[\u4e00-\u9fff]")
run = CliRunner().invoke


def test_the_same_seed_makes_the_same_documents() -> None:
    assert list(documents(200, 7, 0.1)) == list(documents(200, 7, 0.1))
    assert list(documents(200, 7)) != list(documents(200, 8))


def test_a_document_does_not_depend_on_how_many_there_are() -> None:
    assert list(documents(10, 7)) == list(documents(500, 7))[:10]


def test_documents_have_the_guides_format() -> None:
    made = list(documents(1000, 1))
    assert len({sample.name for sample in made}) == 1000
    ids = set()
    for sample in made:
        assert 300 <= len(sample.raw) <= MAX_BYTES
        document = json.loads(sample.raw)
        assert list(document) == ["id", "timestamp", "content", "metadata"]
        assert set(document["metadata"]) <= {"source", "priority", "model"}
        assert document["metadata"]["source"]
        assert re.fullmatch(r"2026-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document["timestamp"])
        assert "{" not in document["content"]
        ids.add(document["id"])
    assert len(ids) == 1000


def test_documents_are_varied() -> None:
    read = [json.loads(sample.raw) for sample in documents(2000, 5)]
    priorities = Counter(document["metadata"].get("priority") for document in read)
    assert set(priorities) == {"high", "urgent", "medium", "normal", "low", "test", None}
    assert min(priorities.values()) > 80
    chinese = sum(bool(CJK.search(document["content"])) for document in read)
    assert 600 < chinese < 1000
    assert len({document["content"] for document in read}) == 2000
    sizes = sorted(len(document["content"].encode()) for document in read)
    assert sizes[0] < 400
    assert sizes[-1] > 1700


def test_only_the_sentences_meant_to_have_a_priority_keyword_have_one() -> None:
    rules = Config().intelligent_routing.priority_rules
    words = "|".join([*rules.urgent_keywords, *rules.low_priority_keywords])
    for language in texts().values():
        for topic in language.topics:
            for sentence in topic.sentences:
                assert not re.search(words, sentence, re.IGNORECASE), sentence
    urgent = sum(
        bool(re.search("|".join(rules.urgent_keywords), json.loads(sample.raw)["content"], re.IGNORECASE))
        for sample in documents(1000, 5)
    )
    assert 40 < urgent < 140


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_exactly_the_broken_share_is_refused(share: float) -> None:
    made = list(documents(400, 3, share))
    assert sum(sample.is_broken for sample in made) == 400 * share
    for sample in made:
        assert _quality(sample.raw) == _expected(sample), sample


def test_documents_are_broken_in_every_way() -> None:
    made = list(documents(300, 3, 1.0))
    codes = Counter(_code(sample.raw) for sample in made if sample.is_rejected)
    assert set(codes) == {"truncated", "invalid_json", "empty"}
    assert sum(not sample.is_rejected for sample in made) > 100
    assert len(SPOILERS) == 7


def test_generate_writes_whole_files_and_says_how_many(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    result = run(app, ["generate", "50", "--broken", "0.1", "--seed", "9", "--into", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"written": 50, "broken": 5, "folder": str(folder), "seed": 9}
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert written == {sample.name: sample.raw for sample in documents(50, 9, 0.1)}


def test_generating_again_overwrites_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(app, ["generate", "20", "--seed", "9", "--into", str(tmp_path)]).exit_code == 0
    contents = Counter(path.read_bytes() for path in tmp_path.iterdir())
    assert contents == Counter({sample.raw: 2 for sample in documents(20, 9)})


def test_without_a_seed_the_documents_can_be_had_again(tmp_path: Path) -> None:
    result = run(app, ["generate", "3", "--into", str(tmp_path), "--json"])
    seed = json.loads(result.stdout)["seed"]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {sample.raw for sample in documents(3, seed)}


def test_generate_goes_to_the_first_watch_folder(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    folders = {"watch_directory": [str(tmp_path / "a"), str(tmp_path / "b")]}
    config.write_text(json.dumps({"directories": folders}))
    assert run(app, ["--config", str(config), "generate", "4"]).exit_code == 0
    assert len(list((tmp_path / "a").iterdir())) == 4
    assert not (tmp_path / "b").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(app, ["generate", "1", "--into", str(tmp_path / "file")])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"{tmp_path / 'file'} is not a folder.\n"


def _expected(sample: Sample) -> str:
    if sample.is_rejected:
        return "refused"
    return "repaired" if sample.is_broken else "valid"


def _quality(raw: bytes) -> str:
    """What becomes of `raw` by default: truncated documents don't pass."""
    try:
        quality = intake.read(raw, LIMITS).quality.value
    except intake.IntakeRejection:
        return "refused"
    return "refused" if quality == "truncated" else quality


def _code(raw: bytes) -> str:
    try:
        return intake.read(raw, LIMITS).quality.value
    except intake.IntakeRejection as refused:
        return refused.code.value
