"""What the table of places is built from: `facts.toml`, packages of npm, CLDR and the IANA's time zones."""

import io
import json
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

FACTS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("facts.toml").read_text("utf-8"))


def names_in(text: str) -> list[str]:
    """The names of a list separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def weighted_names(lines: Iterable[str]) -> Iterator[tuple[float, list[str]]]:
    """(weight, names) of lines such as `1.5: name, name`."""
    for line in lines:
        weight, _, names = line.strip().partition(": ")
        yield float(weight), names_in(names)


def npm_file(package: str, path: str) -> bytes:
    """A file of an npm package. Raises CalledProcessError if npm cannot fetch the package."""
    with tarfile.open(fileobj=io.BytesIO(_npm_package(package))) as archive:
        member = archive.extractfile(f"package/{path}")
        assert member is not None
        return member.read()


@cache
def _npm_package(package: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", package], cwd=folder, check=True, capture_output=True)
        return next(Path(folder).glob("*.tgz")).read_bytes()


def english_words() -> set[str]:
    return set(npm_file("word-list", "words.txt").decode().split())


def china_division(file: str) -> Any:
    """A table of China's administrative divisions: `cities`, `areas` or `HK-MO-TW`."""
    return json.loads(npm_file("china-division", f"dist/{file}.json"))


def time_zones() -> dict[str, str]:
    """The country of each time zone that has one (the first in the IANA's table)."""
    table = (Path(import_module("tzdata").__path__[0]) / "zoneinfo" / "zone.tab").read_text("utf-8")
    rows = (line.split("\t") for line in table.splitlines() if line and not line.startswith("#"))
    return {row[2]: row[0] for row in rows}


def three_letter_codes(codes: list[str]) -> dict[str, str]:
    """The two-letter code for each three-letter code of these countries (ISO 3166-1)."""
    aliases = _cldr("territory_aliases").items()
    return {alias: code for alias, (code, *_) in aliases if len(alias) == 3 and alias.isalpha() and code in codes}


def currencies(codes: list[str]) -> dict[str, str]:
    """The country of each currency (ISO 4217) that only one country uses."""
    found = dict(pair.split(":") for pair in names_in(FACTS["currencies"]))
    shared = set(names_in(FACTS["shared_currencies"]))
    for code, spans in _cldr("territory_currencies").items():
        for currency, _, end, tender in spans:
            if end is None and tender and currency[:2] == code and currency not in shared and code in codes:
                found.setdefault(currency, code)
    return dict(sorted(found.items()))


def domain_endings(codes: list[str]) -> dict[str, str]:
    """The country of each top-level domain of two letters that is not used by everybody."""
    used = {code.lower(): code for code in codes} | {"uk": "GB"}
    return {ending: code for ending, code in used.items() if ending not in set(names_in(FACTS["open_endings"]))}


def _cldr(table: str) -> Any:
    return import_module("babel.core").get_global(table)
