"""The house stays in order: one name for each module and class, short files, key names in one place, a complete map."""

import ast
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("jobs", "ingest", "api")
MAP = (ROOT / "docs" / "architecture.md").read_text()
KEY_NAMES = re.compile(r"\b(?:rq|llm):[a-z_{<]")
# RQ's own tools are asked for RQ's own keys.
MAY_SPELL_KEYS = {"jobs/store/keys.py", "tests/test_house.py", "tests/test_rq_tools.py", "tests/test_formats.py"}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in sorted((ROOT / folder).rglob("*.py")) if "data" not in path.parts)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_long() -> None:
    long = {relative(path): count for path in sources(*PACKAGES) if (count := len(path.read_text().split("\n"))) > 400}
    assert long == {}


def test_a_module_name_stands_once_or_the_map_says_why() -> None:
    names = Counter(path.stem for path in sources(*PACKAGES) if path.stem != "__init__")
    said = set(re.findall(r"^\| `(\w+)\.py` \|", MAP.partition("## Names that stand twice")[2], re.MULTILINE))
    assert {name for name, count in names.items() if count > 1} == said


def test_a_class_name_stands_once() -> None:
    names = Counter(
        node.name
        for path in sources(*PACKAGES)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in names.items() if count > 1} == set()


def test_no_module_is_a_gerund() -> None:
    nouns = {"reasoning", "coalescing"}  # reasoning blocks; the coalescing of reads
    names = {path.stem for path in sources(*PACKAGES) if path.stem.endswith("ing")}
    assert names <= nouns


@pytest.mark.parametrize("package", PACKAGES)
def test_the_map_has_every_folder_and_every_module_beside_them(package: str) -> None:
    section = MAP.partition(f"### `{package}/`")[2].partition("\n##")[0]
    told = dict(re.findall(r"^\| `(?:\w+/)?(\w+(?:/|\.py))` \| (.+) \|$", section, re.MULTILINE))
    here = {path.name for path in (ROOT / package).glob("*.py") if path.name != "__init__.py"}
    here |= {f"{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")}
    assert set(told) == here
    assert all(sentence.endswith(".") and len(sentence.split()) > 3 for sentence in told.values())


def test_key_names_are_spelled_in_one_module() -> None:
    """In code, scripts and tests; comments and docstrings included."""
    spelled = []
    for path in sources(*PACKAGES, "tests", "benchmarks"):
        if relative(path) in MAY_SPELL_KEYS:
            continue
        with path.open("rb") as file:
            texts = [
                each for each in tokenize.tokenize(file.readline) if each.type in (tokenize.STRING, tokenize.COMMENT)
            ]
        spelled += [f"{relative(path)}:{each.start[0]}" for each in texts if KEY_NAMES.search(each.string)]
    assert spelled == []
