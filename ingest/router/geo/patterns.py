"""Clues that are not names: telephone numbers, web and mail addresses, time zones, and the letters of states."""

import re
from itertools import islice

from llm_scheduler.ingest.router.geo.clues import CountryClues

_MAX_MATCHES = 5  # telephone numbers, or letters of states
_MAX_ADDRESSES = 6  # hosts, or time zones
_PHONE = re.compile(r"(?<![\w+])(?:\+|00)[1-9]\d{0,3}[\s().\-/]{0,3}(?:\d[\s().\-/]{0,2}){5,13}\d")
_HOST = re.compile(r"(?:https?://|www\.|@)(?:[\w-]{1,63}\.){1,6}([a-z]{2})(?![\w-]|\.\w)")
_CONTINENTS = ("africa/", "america/", "asia/", "atlantic/", "australia/", "europe/", "indian/", "pacific/")
_ZONE = re.compile(r"(?:africa|america|asia|atlantic|australia|europe|indian|pacific)/[a-z_]+(?:/[a-z_]+)?")
_STATE = re.compile(r", ([A-Z]{2})(?: (\d{5})(?:-\d{4})?)?(?![A-Za-z])")


def read_patterns(clues: CountryClues) -> None:
    """Add the telephone numbers, addresses and time zones in the text."""
    whole, folded, places = clues.text.whole, clues.text.folded, clues.places
    if "+" in whole or " 00" in whole or "(00" in whole or "\n00" in whole or whole.startswith("00"):
        add_phones(clues, 0, len(whole), 3.0)
    if "@" in folded or "www." in folded or "://" in folded:
        for host in islice(_HOST.finditer(folded), _MAX_ADDRESSES):
            clues.add_code(places.endings.get(host[1]), 1.5, "domain", *host.span())
    if "/" in folded and any(continent in folded for continent in _CONTINENTS):
        for zone in islice(_ZONE.finditer(folded), _MAX_ADDRESSES):
            clues.add_code(places.zones.get(zone[0]), 1.5, "timezone", *zone.span())


def add_phones(clues: CountryClues, start: int, end: int, weight: float) -> None:
    """Add the telephone numbers between two positions of the text that are not added yet."""
    known = {each[4] for each in clues.clues if each[2] == "phone"}
    if len(known) >= _MAX_MATCHES:
        return
    for match in islice(_PHONE.finditer(clues.text.whole, start, end), _MAX_MATCHES):
        if match.start() not in known:
            clues.add_code(_phone_country(match[0]), weight, "phone", *match.span())


def read_states(clues: CountryClues) -> None:
    """Add a state's letters behind an unknown town: "Smallville, KS 66002". Must follow the search for names."""
    whole = clues.text.whole
    if ", " not in whole:
        return
    spans = [(each[4], each[4] + len(each[3])) for each in clues.clues]
    for match in islice(_STATE.finditer(whole), _MAX_MATCHES):
        regions = clues.places.region_codes.get(match[1])
        after_lower = whole[match.start() - 1 : match.start()].islower()
        if regions and after_lower and not any(start <= match.start() < end for start, end in spans):
            home, _ = clues.places.regions[regions[0]]
            clues.add(home, 2.0 if match[2] else 0.8, "state", *match.span(1))


def _phone_country(number: str) -> str | None:
    """The country of a number in international form, by its prefix."""
    import phonenumbers  # its tables take long to load: only for documents with such a number

    try:
        parsed = phonenumbers.parse("+" + number[2:] if number.startswith("00") else number)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(parsed):
        return None
    code: str | None = phonenumbers.region_code_for_number(parsed)
    if code is None:
        code = phonenumbers.region_code_for_country_code(parsed.country_code or 0)
    return code if code != "001" else None
