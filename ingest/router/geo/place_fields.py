"""Clues from the fields of a document whose name says what they hold, and from its coordinates."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_scheduler.ingest.router.geo.clues import CountryClues
from llm_scheduler.ingest.router.geo.patterns import add_phones
from llm_scheduler.ingest.router.text import Part, lower

_MAX_VALUES = 2_000  # of a document that are searched for coordinates
_MAX_FIELD = 300  # characters
_COUNTRY_WEIGHT = 12.0

_NAMES = tomllib.loads(Path(__file__).with_name("place_fields.toml").read_text("utf-8"))
_KINDS = {key: kind for kind, keys in _NAMES["kinds"].items() for key in keys.split()}
_PLACE_WEIGHTS = {key: float(weight) for weight, keys in _NAMES["places"].items() for key in keys.split()}
PERSON_KEYS = frozenset(_NAMES["others"]["person"].split())
_INNER_KEYS = frozenset(_NAMES["others"]["inner"].split())
_LATITUDES = ("lat", "latitude")
_LONGITUDES = ("lon", "lng", "long", "longitude")

_HOST = re.compile(r"^(?:[\w-]{1,63}\.){1,6}([a-z]{2})(?:[/?#:]|$)")
_LOCALE = re.compile(r"^[a-z]{2,3}[-_](?:[A-Za-z]{4}[-_])?([A-Z]{2})$")


def read_fields(clues: CountryClues) -> dict[int, float]:
    """Add the clues from fields. Returns the weight of each field for places, by the number of its part: the search
    for names reads these."""
    fields: dict[int, float] = {}
    places = clues.places
    for number, part in enumerate(clues.text.parts):
        if len(part.text) > _MAX_FIELD or not part.path:
            continue
        key = field_key(part)
        start = clues.text.starts[number]
        span = start, start + len(part.text)
        if weight := _PLACE_WEIGHTS.get(key):
            fields[number] = weight
            if key in ("state", "province", "region") and len(part.text) < 4:
                for region in places.region_codes.get(part.text.strip().upper(), ())[:1]:
                    clues.regions.add(region + 1)
                    clues.add(places.regions[region][0], 3.0, "field", *span)
            continue
        match _KINDS.get(key):
            case "country":
                word = part.text.strip().upper()
                code = "GB" if word == "UK" else word if len(word) == 2 else places.three_letters.get(word)
                country = clues.add_code(code, _COUNTRY_WEIGHT, "field", *span)
                if country is None:
                    fields[number] = _COUNTRY_WEIGHT
                else:
                    clues.field_countries.add(country)
            case "timezone":
                clues.add_code(places.zones.get(part.text.strip().lower()), 5.0, "timezone", *span)
            case "currency":
                clues.add_code(places.currencies.get(part.text.strip().upper()), 2.0, "currency", *span)
            case "phone":
                add_phones(clues, *span, 5.0)
            case "web":
                if host := _HOST.match(part.text.strip().lower()):
                    clues.add_code(places.endings.get(host[1]), 2.0, "domain", *span)
            case "locale":
                if locale := _LOCALE.match(part.text.strip()):
                    clues.add_code(locale[1], 1.0, "locale", *span)
    return fields


def field_key(part: Part) -> str:
    """The key that says what a part holds: that of {"country": {"code": ...}} is `country`."""
    key = part.key
    if key in _INNER_KEYS and len(part.path) > 1:
        above = [step.lower() for step in part.path if isinstance(step, str)][:-1]
        if above and (above[-1] in _PLACE_WEIGHTS or _KINDS.get(above[-1]) == "country"):
            return above[-1]
    return key


def read_coordinates(clues: CountryClues, document: Any) -> None:
    """Add the first coordinates near a city. `document` is the parsed value: numbers are not in the text."""
    for latitude, longitude in _coordinates(document):
        if clues.add_coordinates(latitude, longitude):
            return


def _coordinates(document: Any) -> Iterator[tuple[float, float]]:
    """The pairs of latitude and longitude in the objects of a document."""
    pending = [document]
    left = _MAX_VALUES
    while pending and left > 0:
        value = pending.pop()
        left -= 1
        if isinstance(value, dict):
            folded = {lower(key): inner for key, inner in list(value.items())[:left] if isinstance(key, str)}
            north, east = _number(folded, _LATITUDES), _number(folded, _LONGITUDES)
            if north is not None and east is not None and abs(north) <= 90 and abs(east) <= 180 and (north or east):
                yield north, east
            pending.extend(inner for inner in folded.values() if isinstance(inner, dict | list))
        elif isinstance(value, list):
            pending.extend(inner for inner in value[:left] if isinstance(inner, dict | list))


def _number(members: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    value = next((members[key] for key in keys if key in members), None)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
