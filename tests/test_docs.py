"""The reference pages say what the code does: every code and every key, no more and no less."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.config.loader import _SECRETS

DOCS = Path(__file__).parent.parent / "docs"


def rows(page: str) -> dict[str, list[str]]:
    """The table of a page by its first column, which is in backquotes."""
    found: dict[str, list[str]] = {}
    for line in (DOCS / page).read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and (name := re.fullmatch(r"`([a-z_.]+)`", cells[0])):
            assert name[1] not in found, f"{name[1]} stands twice in {page}"
            found[name[1]] = cells[1:]
    return found


def keys(part: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every key of the model with its default."""
    for name in part.__struct_fields__:
        value = getattr(part, name)
        if isinstance(value, msgspec.Struct):
            yield from keys(value, (*path, name))
        else:
            yield ".".join((*path, name)), value


def test_the_page_of_errors_has_every_code_and_no_other() -> None:
    table = rows("errors.md")
    assert list(table) == [code.value for code in Code]
    for code, (meaning, cure) in table.items():
        said = meaning.replace("`", "")
        assert said.startswith(Code(code).meaning.partition(".")[0].partition(":")[0]), code
        assert cure, f"{code} says what to do"


def test_the_page_of_the_configuration_has_every_key_and_its_default() -> None:
    table = rows("configuration.md")
    model = dict(keys(Config()))
    assert list(table) == list(model)
    for key, value in model.items():
        allowed, default, meaning = table[key]
        assert json.loads(default.strip("`")) == value, key
        assert allowed, key
        assert meaning, key


def test_every_secret_from_outside_is_on_the_page() -> None:
    text = (DOCS / "configuration.md").read_text()
    assert all(f"`{name}`" in text for name in _SECRETS)


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_words_of_the_troubles_are_the_words_of_the_log() -> None:
    """Who looks a message up has it from a log: what the page quotes in a first column is in the code."""
    page = (DOCS / "troubles.md").read_text()
    quoted = re.findall(r"^\| (?:`([^`]+)`(?:, `([^`]+)`)?)", page, re.MULTILINE)
    sources = [path.read_text() for layer in ("jobs", "ingest", "api") for path in (DOCS.parent / layer).rglob("*.py")]
    code = "\n".join(sources)
    phrases = [phrase for pair in quoted for phrase in pair if phrase]
    assert len(phrases) > 15
    made = {"Redis unreachable", "died of SIGSEGV"}  # put together at run time
    assert [phrase for phrase in phrases if phrase not in code and phrase not in made] == []
