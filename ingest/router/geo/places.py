"""The names of places and what they mean: the artefact that `build` writes, and how it is read."""

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

# What a name can be. A sense is a kind and the number of a country, a state, a city, ...
COUNTRY, DEMONYM, CITY, REGION, HINT, CUE, AFTER, BLOCK = range(1, 9)
KIND_SHIFT = 24
OTHER_NAME = 1 << 23  # of a city: not the name it goes by
_NUMBER = OTHER_NAME - 1
_OWN_NAME_COUNTS = 10  # as much as another's name for another city

# What is to be minded with a name.
COMMON = 1  # it is a word too
UPPER = 2  # it counts in capitals only
STEM = 4  # an ending may follow
LIKE_GIVEN = 8  # people are called so
GIVEN = 16

_WEIGHTS = {COUNTRY: 1.0, DEMONYM: 0.9, REGION: 0.9, HINT: 0.8}
_LARGEST = 1 << 28  # an artefact is a hundredth of it
_REMEMBERED = 10_000
_ASIDE = "".join(chr(code) for code in range(33, 127) if not chr(code).isalnum() and chr(code) != "$")
_APART = str.maketrans(dict.fromkeys(_ASIDE + "\t\n\r\x0b\x0c", " "))
# The punctuation that stands beside names in other scripts.
_MARKS = "’‘“”„«»‹›–—―‐‑−…·•、，。；：！？（）「」『』《》〈〉【】〔〕・،؛؟\u00a0\u3000\u060c\u2009\u202f¿¡|"
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")


class Artefact(msgspec.Struct):
    """What is in the file. Tables of numbers are the bytes of arrays, names are lines."""

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
    """One thing that a name can mean. `country` is its number, `region` that of its state and one more (0: none)."""

    kind: int
    number: int
    country: int
    region: int
    rank: int
    people: int


class Named(NamedTuple):
    """What a name can mean, what it weighs by itself, and the kind of its first (likeliest) meaning."""

    senses: tuple[Sense, ...]
    weight: float
    kind: int
    flags: int
    only_hints: bool


class Places:
    """All names, ready to be looked for."""

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
        self.number_of = {code: number for number, code in enumerate(artefact.codes)}
        self.regions = artefact.regions
        self.region_codes = artefact.region_codes
        self.hints = artefact.hints
        self.cues = artefact.cues
        self.zones = {zone.lower(): code for zone, code in artefact.zones.items()}
        self.currencies = artefact.currencies
        self.endings = artefact.endings
        self.three_letters = artefact.three_letters
        self.given_names = frozenset(artefact.given_names)
        self.latitude = _numbers("h", artefact.city_latitude)
        self.longitude = _numbers("h", artefact.city_longitude)
        self.people = _numbers("I", artefact.city_people)
        self.city_country = artefact.city_country
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
        self._kept: dict[int, Named] = {}

    @classmethod
    def load(cls, path: Path | None = None) -> "Places":
        """The places of the artefact at `path`, or of the one that is shipped."""
        packed = (path or SHIPPED).read_bytes()
        unpacked = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_LARGEST)
        return cls(msgspec.msgpack.decode(unpacked, type=Artefact))

    def named(self, name: int) -> Named:
        """What the name of this number can mean."""
        kept = self._kept.get(name)
        if kept is None:
            if len(self._kept) >= _REMEMBERED:
                self._kept.clear()
            numbers = self._senses[self._starts[name] : self._starts[name + 1]]
            senses = tuple(sorted(map(self._sense, numbers), key=_by_rank))
            only_hints = all(sense.kind == HINT for sense in senses)
            weight = max(_weight(sense) for sense in senses)
            kept = self._kept[name] = Named(senses, weight, senses[0].kind, self.flags[name], only_hints)
        return kept

    def _sense(self, packed: int) -> Sense:
        kind, number = packed >> KIND_SHIFT, packed & _NUMBER
        if kind == CITY:
            return Sense(
                kind,
                number,
                self.city_country[number],
                self._city_region[number],
                self._city_rank[number] // (_OWN_NAME_COUNTS if packed & OTHER_NAME else 1),
                self.people[number],
            )
        if kind == REGION:
            return Sense(kind, number, self.regions[number][0], number + 1, 2_000_000_000, 0)
        if kind in (COUNTRY, DEMONYM):
            return Sense(kind, number, number, 0, 5_000_000_000, 0)
        return Sense(kind, number, -1, 0, 0, 0)

    def city(self, number: int) -> tuple[str, float, float]:
        """Name, latitude and longitude of a city."""
        return self._cities[number], self.latitude[number] / 100, self.longitude[number] / 100

    def nearest(self, latitude: float, longitude: float) -> int | None:
        """The city of more than 15,000 people that is nearest, within about 300 km."""
        north = self._north - latitude
        east = np.abs(self._east - longitude)
        east = np.minimum(east, 360 - east) * cos(radians(latitude))
        away = np.where(self._large, north * north + east * east, np.inf)
        nearest = int(np.argmin(away))
        return nearest if away[nearest] < 9 else None


def spaced(folded: str) -> str:
    """`folded` with a space for every sign that parts words, character for character."""
    words = folded.translate(_APART) if folded.isascii() else _spaced(folded)
    return words


def _spaced(folded: str) -> str:
    for mark in _ASIDE_AND_MARKS:
        if mark in folded:
            folded = folded.replace(mark, " ")
    return folded


def _by_rank(sense: Sense) -> int:
    return -sense.rank


def _weight(sense: Sense) -> float:
    """What a name weighs by itself."""
    if sense.kind == CITY:
        people = max(sense.people, sense.rank // 10)  # a small town that many languages have a name for
        if people >= 1_000_000:
            return 1.0
        return 0.9 if people >= 300_000 else 0.65 if people >= 100_000 else 0.35 if people >= 30_000 else 0.2
    return _WEIGHTS.get(sense.kind, 0.0)


def separate(sign: str) -> bool:
    """Whether `sign` is a letter or a digit of a script that puts spaces between words."""
    return sign.isalnum() and not _UNSPACED.match(sign)


def _numbers(kind: str, packed: bytes) -> "array[int]":
    numbers = array(kind, packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


_ASIDE_AND_MARKS = _ASIDE + _MARKS + "\t\n\r\x0b\x0c"
