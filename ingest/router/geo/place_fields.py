"""Clues from the fields of a document whose name says what they hold, and from its coordinates."""

import re
from collections.abc import Iterator
from typing import Any

from llm_scheduler.ingest.router.geo.clues import CountryClues
from llm_scheduler.ingest.router.geo.patterns import add_phones
from llm_scheduler.ingest.router.text import Part, lower

_MAX_VALUES = 2_000  # of a document that are searched for coordinates
_MAX_FIELD = 300  # characters
_COUNTRY_WEIGHT = 12.0


def _keys(words: str) -> frozenset[str]:
    return frozenset(words.split())


_COUNTRY_KEYS = _keys(
    """
    country country_code countrycode country_name countryname nation hq_country headquarters_country country_of_origin
    pays país pais paese kraj nationality country_iso iso_country 國家 国家 國別 国别 国籍 國籍 国
    """
)
# The weight of a place in a field, by the field's key.
_PLACES_BY_WEIGHT = {
    8.0: "city town hq headquarters headquarter hq_location hq_city headquarters_location 總部 总部 本社 head_office "
    "siege siège siege_social sede sede_social sitz hauptsitz firmensitz hoofdkantoor",
    6.0: "location locality place region state province address addresses office street postal_address mailing_address "
    "full_address adresse direccion dirección indirizzo endereço standort ubicacion ubicación ort stadt ville ciudad "
    "地址 地點 地点 城市 地區 所在地 地区 住所",
    4.0: "cidade città miasto municipality county area venue birthplace destination",
}
_PLACE_KEYS = {key: weight for weight, keys in _PLACES_BY_WEIGHT.items() for key in keys.split()}
_STATE_KEYS = _keys("state province region")
_ZONE_KEYS = _keys("timezone time_zone tz zone timezone_name")
_MONEY_KEYS = _keys("currency currency_code currencycode reporting_currency 幣別 货币")
_PHONE_KEYS = _keys("phone telephone tel mobile fax phone_number phonenumber contact 電話 电话")
_WEB_KEYS = _keys("url website web domain email e-mail homepage site link contact_email")
_LOCALE_KEYS = _keys("locale lang language language_code")
PERSON_KEYS = _keys(
    """
    name first_name firstname last_name lastname full_name fullname author user username person player actor brand
    product customer contact_name employee ceo founder surname given_name nickname
    """
)
_INNER_KEYS = _keys("code name value iso iso2 iso3 alpha2 alpha_2 id label short text")
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
        if key in _COUNTRY_KEYS:
            word = part.text.strip().upper()
            code = "GB" if word == "UK" else word if len(word) == 2 else places.three_letters.get(word)
            country = clues.add_code(code, _COUNTRY_WEIGHT, "field", *span)
            if country is None:
                fields[number] = _COUNTRY_WEIGHT
            else:
                clues.field_countries.add(country)
        elif key in _PLACE_KEYS:
            fields[number] = _PLACE_KEYS[key]
            if key in _STATE_KEYS and len(part.text) < 4:
                for region in places.region_codes.get(part.text.strip().upper(), ())[:1]:
                    clues.regions.add(region + 1)
                    clues.add(places.regions[region][0], 3.0, "field", *span)
        elif key in _ZONE_KEYS:
            clues.add_code(places.zones.get(part.text.strip().lower()), 5.0, "timezone", *span)
        elif key in _MONEY_KEYS:
            clues.add_code(places.currencies.get(part.text.strip().upper()), 2.0, "currency", *span)
        elif key in _PHONE_KEYS:
            add_phones(clues, *span, 5.0)
        elif key in _WEB_KEYS:
            if host := _HOST.match(part.text.strip().lower()):
                clues.add_code(places.endings.get(host[1]), 2.0, "domain", *span)
        elif key in _LOCALE_KEYS and (locale := _LOCALE.match(part.text.strip())):
            clues.add_code(locale[1], 1.0, "locale", *span)
    return fields


def field_key(part: Part) -> str:
    """The key that says what a part holds: that of {"country": {"code": ...}} is `country`."""
    key = part.key
    if key in _INNER_KEYS and len(part.path) > 1:
        above = [step.lower() for step in part.path if isinstance(step, str)]
        if len(above) > 1 and (above[-2] in _COUNTRY_KEYS or above[-2] in _PLACE_KEYS):
            return above[-2]
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
