"""The names of places and their meanings: the table in `places.bin`, and how it is read."""

import re
import sys
from array import array
from math import cos, radians
from pathlib import Path
from typing import NamedTuple

import ahocorasick_rs
import msgspec
import numpy as np
import zstandard

SHIPPED = Path(__file__).with_name("places.bin")

# The kinds of meaning. CUE: a phrase before a place ("headquartered in"); SUFFIX: one behind it; BLOCK: a phrase that
# only looks like a place. A packed sense is a kind, and the number of a country, a region, a city, a hint, ...
COUNTRY, DEMONYM, CITY, REGION, HINT, CUE, SUFFIX, BLOCK = range(1, 9)
KIND_SHIFT = 24
OTHER_NAME = 1 << 23  # set if it is not the city's main name
NUMBER_MASK = OTHER_NAME - 1
OTHER_NAME_RANK = 10  # by which the rank of a city is divided for its other names

# Flags of a name.
COMMON = 1  # it is an ordinary word too
UPPER = 2  # it counts only in capitals
STEM = 4  # an ending may follow
LIKE_GIVEN = 8  # it is a given name too
GIVEN = 16

_WEIGHTS = {COUNTRY: 1.0, DEMONYM: 0.9, REGION: 0.9, HINT: 0.8}
_MAX_UNPACKED = 1 << 28  # bytes; the table is a hundredth of it
_MAX_CACHED = 10_000  # meanings
_MARKS = "".join(chr(code) for code in range(33, 127) if not chr(code).isalnum() and chr(code) != "$")
_MARKS += "\t\n\r\x0b\x0c"
_SPACES = str.maketrans(dict.fromkeys(_MARKS, " "))
# With the punctuation of other scripts.
_ALL_MARKS = _MARKS
_ALL_MARKS += "’‘“”„«»‹›–—―‐‑−…·•、，。；：！？（）「」『』《》〈〉【】〔〕・،؛؟\u00a0\u3000\u060c\u2009\u202f¿¡|"
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")


class Artefact(msgspec.Struct):
    """The content of the file. Tables of numbers are the bytes of arrays; lists of names are lines."""

    codes: list[str]
    names: str
    counts: bytes
    senses: bytes
    flags: bytes
    regions: list[tuple[int, str]]
    region_codes: dict[str, list[int]]
    hints: list[tuple[list[int], float]]
    cues: list[float]
    cities: str
    city_country: bytes
    city_region: bytes
    city_rank: bytes
    city_people: bytes
    city_latitude: bytes
    city_longitude: bytes
    zones: dict[str, str]
    currencies: dict[str, str]
    endings: dict[str, str]
    three_letters: dict[str, str]
    given_names: list[str]


class Sense(NamedTuple):
    """One thing that a name can mean. `country` is the country's number, `region` that of its region plus one (0: no
    region), `rank` how likely it is meant, `people` its inhabitants."""

    kind: int
    number: int
    country: int
    region: int
    rank: int
    people: int


class Meaning(NamedTuple):
    """What a name can mean, most likely first, its weight by itself, and the kind of its first sense."""

    senses: tuple[Sense, ...]
    weight: float
    kind: int
    flags: int
    only_hints: bool


class Places:
    """All names, with the automaton that finds them."""

    def __init__(self, artefact: Artefact) -> None:
        names = artefact.names.split("\n")
        self.automaton = ahocorasick_rs.AhoCorasick(
            names,
            matchkind=ahocorasick_rs.MatchKind.LeftmostLongest,
            implementation=ahocorasick_rs.Implementation.ContiguousNFA,
            store_patterns=False,
        )
        self.flags = artefact.flags
        self.codes = artefact.codes
        self.regions = artefact.regions
        self.region_codes = artefact.region_codes
        self.hints = artefact.hints
        self.cues = artefact.cues
        self.zones = {zone.lower(): code for zone, code in artefact.zones.items()}
        self.currencies = artefact.currencies
        self.endings = artefact.endings
        self.given_names = frozenset(artefact.given_names)
        self._people = _numbers("I", artefact.city_people)
        self.city_country = artefact.city_country
        self.country_numbers = {code: number for number, code in enumerate(artefact.codes)}
        self.three_letters = artefact.three_letters
        self._north = np.frombuffer(artefact.city_latitude, "<i2") / 100
        self._east = np.frombuffer(artefact.city_longitude, "<i2") / 100
        self._large = np.frombuffer(artefact.city_people, "<u4") > 15_000
        self._cities = artefact.cities.split("\n")
        self._city_region = _numbers("H", artefact.city_region)
        self._city_rank = _numbers("I", artefact.city_rank)
        self._senses = _numbers("I", artefact.senses)
        self._starts = array("I", [0])
        total = 0
        for count in artefact.counts:
            total += count
            self._starts.append(total)
        self._cache: dict[int, Meaning] = {}

    @classmethod
    def load(cls, path: Path = SHIPPED) -> "Places":
        """The table in the file `path`."""
        unpacked = zstandard.ZstdDecompressor().decompress(path.read_bytes(), max_output_size=_MAX_UNPACKED)
        return cls(msgspec.msgpack.decode(unpacked, type=Artefact))

    def meaning(self, name: int) -> Meaning:
        """What the name with this number can mean."""
        cached = self._cache.get(name)
        if cached is None:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            packed = self._senses[self._starts[name] : self._starts[name + 1]]
            senses = tuple(sorted(map(self._sense, packed), key=lambda sense: -sense.rank))
            only_hints = all(sense.kind == HINT for sense in senses)
            weight = max(_weight(sense) for sense in senses)
            cached = self._cache[name] = Meaning(senses, weight, senses[0].kind, self.flags[name], only_hints)
        return cached

    def _sense(self, packed: int) -> Sense:
        kind, number = packed >> KIND_SHIFT, packed & NUMBER_MASK
        if kind == CITY:
            rank = self._city_rank[number] // (OTHER_NAME_RANK if packed & OTHER_NAME else 1)
            return Sense(kind, number, self.city_country[number], self._city_region[number], rank, self._people[number])
        if kind == REGION:
            return Sense(kind, number, self.regions[number][0], number + 1, 2_000_000_000, 0)
        if kind in (COUNTRY, DEMONYM):
            return Sense(kind, number, number, 0, 5_000_000_000, 0)
        return Sense(kind, number, -1, 0, 0, 0)

    def city(self, number: int) -> tuple[str, float, float]:
        """Name, latitude and longitude of a city."""
        return self._cities[number], float(self._north[number]), float(self._east[number])

    def nearest(self, latitude: float, longitude: float) -> int | None:
        """The nearest city with more than 15,000 inhabitants, within about 300 km."""
        north = self._north - latitude
        east = np.abs(self._east - longitude)
        east = np.minimum(east, 360 - east) * cos(radians(latitude))
        squares = np.where(self._large, north * north + east * east, np.inf)
        nearest = int(np.argmin(squares))
        return nearest if squares[nearest] < 9 else None


def spaced(folded: str) -> str:
    """`folded` with a space for every punctuation mark; the length stays."""
    if folded.isascii():
        return folded.translate(_SPACES)
    for mark in _ALL_MARKS:
        if mark in folded:
            folded = folded.replace(mark, " ")
    return folded


def is_spaced_letter(sign: str) -> bool:
    """Whether `sign` is a letter or a digit of a script that puts spaces between words."""
    return sign.isalnum() and not _UNSPACED.match(sign)


def _weight(sense: Sense) -> float:
    """The weight of a name by itself."""
    if sense.kind == CITY:
        people = max(sense.people, sense.rank // 10)  # a small town may have names in many languages
        if people >= 1_000_000:
            return 1.0
        return 0.9 if people >= 300_000 else 0.65 if people >= 100_000 else 0.35 if people >= 30_000 else 0.2
    return _WEIGHTS.get(sense.kind, 0.0)


def _numbers(kind: str, packed: bytes) -> "array[int]":
    numbers = array(kind, packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
