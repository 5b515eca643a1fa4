"""Putting what speaks for a place together, and saying how sure that is."""

import re
from bisect import bisect_right
from collections.abc import Iterator
from heapq import nsmallest
from math import exp
from typing import Any

from llm_scheduler.ingest.router.geo.mentions import Found, Group, look
from llm_scheduler.ingest.router.geo.places import CITY, COUNTRY, DEMONYM, HINT, REGION, Places, Sense
from llm_scheduler.ingest.router.signals import Evidence, Geo
from llm_scheduler.ingest.router.text import Part, Text, lower

_MAX_EVIDENCE = 8
_SURE_ENOUGH = 0.5
_MAX_VALUES = 2_000  # of a document that are looked at for coordinates
_COUNTRY_FIELD = 12.0
_MAX_NUMBERS = 5  # telephone numbers, addresses


def _keys(words: str) -> frozenset[str]:
    return frozenset(words.split())


# What a field's name says of its value: how much a place in it weighs.
_COUNTRY_KEYS = _keys(
    """
    country country_code countrycode country_name countryname nation hq_country headquarters_country country_of_origin
    pays país pais paese kraj nationality country_iso iso_country 國家 国家 國別 国别 国籍 國籍 国
    """
)
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
_NAME_KEYS = _keys(
    """
    name first_name firstname last_name lastname full_name fullname author user username person player actor brand
    product customer contact_name employee ceo founder surname given_name nickname
    """
)
_UNDER = _keys("code name value iso iso2 iso3 alpha2 alpha_2 id label short text")
_LATITUDES = ("lat", "latitude")
_LONGITUDES = ("lon", "lng", "long", "longitude")

_PHONE = re.compile(r"(?<![\w+])(?:\+|00)[1-9]\d{0,3}[\s().\-/]{0,3}(?:\d[\s().\-/]{0,2}){5,13}\d")
_HOST = re.compile(r"(?:https?://|www\.|@)(?:[\w-]{1,63}\.){1,6}([a-z]{2})(?![\w-]|\.\w)")
_BARE_HOST = re.compile(r"^(?:[\w-]{1,63}\.){1,6}([a-z]{2})(?:[/?#:]|$)")
_ZONE = re.compile(r"(?:africa|america|asia|atlantic|australia|europe|indian|pacific)/[a-z_]+(?:/[a-z_]+)?")
_CONTINENTS = ("africa/", "america/", "asia/", "atlantic/", "australia/", "europe/", "indian/", "pacific/")
_LOCALE = re.compile(r"^[a-z]{2,3}[-_](?:[A-Za-z]{4}[-_])?([A-Z]{2})$")
_STATE = re.compile(r", ([A-Z]{2})(?: (\d{5})(?:-\d{4})?)?(?![A-Za-z])")
_LETTERS = re.compile(r"\w")


def detect(text: Text, places: Places, document: Any = None, clues: int = _MAX_EVIDENCE) -> Geo:
    """The place that a document is about. `document` is its parsed value: coordinates are numbers, which `text` has
    not. At most `clues` pieces of evidence are told."""
    return _Case(text, places, document, clues).decide()


class _Case:
    """What speaks for which country, in one document."""

    def __init__(self, text: Text, places: Places, document: Any, clues: int) -> None:
        self.clues = clues
        self.text = text
        self.places = places
        self.document = document
        self.weights: dict[int, list[float]] = {}
        self.evidence: list[tuple[float, int, str, str, int]] = []  # weight, country, kind, words, where
        self.cities: list[tuple[float, int, int]] = []  # weight, country, number
        self.regions: set[int] = set()
        self.told: set[int] = set()  # countries that a field names

    def decide(self) -> Geo:
        fields = self.read_fields()
        found = look(self.text, self.places, fields)
        self.read_document()
        self.read_patterns()
        self.weigh(found, fields)
        return self.answer()

    def count(self, country: int, weight: float, kind: str, start: int, end: int) -> None:
        """One clue at a place in the text."""
        self.weights.setdefault(country, []).append(weight)
        self.evidence.append((weight, country, kind, self.text.whole[start:end], start))

    # Fields

    def read_fields(self) -> dict[int, float]:
        """Reads the parts whose key says what they hold; those that hold a place are left to the search for names."""
        fields: dict[int, float] = {}
        for number, part in enumerate(self.text.parts):
            if len(part.text) > 300 or not part.path:
                continue
            key = _key(part)
            if key in _COUNTRY_KEYS:
                if not self.country_field(number, part):
                    fields[number] = _COUNTRY_FIELD
            elif key in _PLACE_KEYS:
                fields[number] = _PLACE_KEYS[key]
                if key in _STATE_KEYS and len(part.text) < 4:
                    self.state_field(number, part.text)
            elif key in _ZONE_KEYS:
                self.found_code(self.places.zones.get(part.text.strip().lower()), 5.0, "timezone", number)
            elif key in _MONEY_KEYS:
                self.found_code(self.places.currencies.get(part.text.strip().upper()), 2.0, "currency", number)
            elif key in _PHONE_KEYS:
                self.phones(self.text.starts[number], self.text.starts[number] + len(part.text), 5.0)
            elif key in _WEB_KEYS:
                host = _BARE_HOST.match(part.text.strip().lower())
                if host:
                    self.found_code(self.places.endings.get(host[1]), 2.0, "domain", number)
            elif key in _LOCALE_KEYS:
                locale = _LOCALE.match(part.text.strip())
                if locale:
                    self.found_code(locale[1], 1.0, "locale", number)
        return fields

    def country_field(self, number: int, part: Part) -> bool:
        word = part.text.strip().upper()
        code = {"UK": "GB"}.get(word, word) if len(word) == 2 else self.places.three_letters.get(word)
        if not self.found_code(code, _COUNTRY_FIELD, "field", number):
            return False
        self.told.add(self.evidence[-1][1])
        return True

    def state_field(self, number: int, code: str) -> None:
        for region in self.places.region_codes.get(code.strip().upper(), ())[:1]:
            start = self.text.starts[number]
            self.regions.add(region + 1)
            self.count(self.places.regions[region][0], 3.0, "field", start, start + len(code))

    def found_code(self, code: str | None, weight: float, kind: str, number: int) -> bool:
        country = self.places.number_of.get(code) if code else None
        if country is None:
            return False
        start = self.text.starts[number]
        self.count(country, weight, kind, start, start + len(self.text.parts[number].text))
        return True

    def read_document(self) -> None:
        """Coordinates: numbers, so not in the text."""
        for latitude, longitude in _coordinates(self.document):
            nearest = self.places.nearest(latitude, longitude)
            if nearest is None:
                continue
            country = self.places.city_country[nearest]
            self.weights.setdefault(country, []).append(9.0)
            self.evidence.append((9.0, country, "coordinates", f"{latitude}, {longitude}", -1))
            self.cities.append((4.0, country, nearest))
            return

    # Patterns that are no names

    def read_patterns(self) -> None:
        whole, folded = self.text.whole, self.text.folded
        if "+" in whole or " 00" in whole or "(00" in whole or "\n00" in whole or whole.startswith("00"):
            self.phones(0, len(whole), 3.0)
        if "@" in folded or "www." in folded or "://" in folded:
            for number, host in enumerate(_HOST.finditer(folded)):
                country = self.places.number_of.get(self.places.endings.get(host[1], ""))
                if country is not None:
                    self.count(country, 1.5, "domain", host.start(), host.end())
                if number >= _MAX_NUMBERS:
                    break
        if "/" in folded and any(continent in folded for continent in _CONTINENTS):
            for number, zone in enumerate(_ZONE.finditer(folded)):
                country = self.places.number_of.get(self.places.zones.get(zone[0], ""))
                if country is not None:
                    self.count(country, 1.5, "timezone", zone.start(), zone.end())
                if number >= _MAX_NUMBERS:
                    break

    def phones(self, start: int, end: int, weight: float) -> None:
        known = {each[4] for each in self.evidence if each[2] == "phone"}
        if len(known) >= _MAX_NUMBERS:
            return
        for number, found in enumerate(_PHONE.finditer(self.text.whole, start, end)):
            if number >= _MAX_NUMBERS:
                break
            if found.start() in known:
                continue
            country = self.places.number_of.get(_country_of_phone(found[0]) or "")
            if country is not None:
                self.count(country, weight, "phone", found.start(), found.end())

    # Names

    def weigh(self, found: Found, fields: dict[int, float]) -> None:
        said: set[int] = set()
        for hint in found.hints:
            for sense in hint.senses:
                if sense.number in said:  # saying it again doesn't make it truer
                    continue
                said.add(sense.number)
                countries, weight = self.places.hints[sense.number]
                for country in countries:
                    self.count(country, weight, "hint", hint.start, hint.end)
        for group in found.groups:
            self.stand_alone(group, fields)
            for each in group.mentions:
                if each.senses[0].kind == REGION:
                    self.regions.add(each.senses[0].region)
        unsure = [group for group in found.groups if not self.settle(group)]
        support = {country: sum(weights) for country, weights in self.weights.items()}
        for group in unsure:
            self.choose(group, support)
        self.states()

    def stand_alone(self, group: Group, fields: dict[int, float]) -> None:
        """A part that is a place and nothing else, and one in a field for places."""
        starts = self.text.starts
        number = bisect_right(starts, group.start) - 1
        part = self.text.parts[number]
        if number in fields or not part.path:
            _prefer_cities(group)
        if number in fields:
            if group.kind == "name":
                group.factor, group.kind = max(fields[number], group.factor), "field"
            return
        if len(part.text) > 60 or len(part.text) - (group.end - group.start) > 8:
            return
        rest = part.text[: group.start - starts[number]] + part.text[group.end - starts[number] :]
        if _LETTERS.search(rest):
            return
        if _key(part) in _NAME_KEYS:
            group.factor = 0.3
        elif group.factor <= 1.3:
            group.factor = 6.0

    def settle(self, group: Group) -> bool:
        """Counts a group that can mean one country only."""
        senses = group.mentions[-1].senses
        country = senses[0].country
        if country < 0:
            return False
        for sense in senses:
            if sense.country != country:
                return False
        self.count_group(group, country)
        return True

    def choose(self, group: Group, support: dict[int, float]) -> None:
        """Counts a group with several meanings for the likeliest one: the largest, unless the rest of the text is
        about the country or the state of another."""
        total = 1.0 + sum(support.values())
        senses = [sense for sense in group.mentions[-1].senses if sense.country >= 0]
        if not senses:
            self.count_hint(group)
            return

        def likely(sense: Sense) -> float:
            about = 1 + 8 * support.get(sense.country, 0.0) / total
            if group.kind == "field" and sense.country in self.told:  # {"city": "London", "country": "CA"}
                about *= 10_000
            return sense.rank * about * (1000 if sense.kind == CITY and sense.region in self.regions else 1)

        best = max(senses, key=likely)
        rivals = sum(likely(sense) for sense in senses if sense.country != best.country)
        doubt = likely(best) / (likely(best) + rivals * 0.5 + 1)
        for mention in group.mentions:
            mention.weight *= doubt
        self.count_group(group, best.country)

    def count_hint(self, group: Group) -> None:
        for sense in group.mentions[-1].senses:
            if sense.kind == HINT:
                countries, weight = self.places.hints[sense.number]
                for country in countries:
                    self.count(country, weight * group.factor, "hint", group.start, group.end)

    def count_group(self, group: Group, country: int) -> None:
        weight = group.mentions[0].weight * group.factor
        for mention in group.mentions[1:]:
            weight = max(weight, mention.weight * group.factor)
        self.count(country, weight, group.kind, group.start, group.end)
        city = _city(group, country)
        if city is not None:
            self.cities.append((weight, country, city))

    def states(self) -> None:
        """A state's letters behind a town that is not known: "Smallville, KS 66002"."""
        if ", " not in self.text.whole:
            return
        spans = [(each[4], each[4] + len(each[3])) for each in self.evidence]
        for number, found in enumerate(_STATE.finditer(self.text.whole)):
            if number >= _MAX_NUMBERS:
                break
            regions = self.places.region_codes.get(found[1])
            lower_before = self.text.whole[found.start() - 1 : found.start()].islower()
            if regions and lower_before and not any(start <= found.start() < end for start, end in spans):
                home, _ = self.places.regions[regions[0]]
                self.count(home, 2.0 if found[2] else 0.8, "state", found.start(1), found.end(1))

    # The answer

    def answer(self) -> Geo:
        if not self.weights:
            return Geo()
        totals = {country: _total(weights) for country, weights in self.weights.items()}
        self.favour_first(totals)
        best = max(totals, key=lambda country: (totals[country], -country))
        top = totals[best]
        share = top * top / sum(each * each for each in totals.values())
        confidence = round(0.99 * share * (1 - exp(-1.9 * top)), 3)
        if confidence < _SURE_ENOUGH:
            return Geo(confidence=confidence, evidence=self.shown(best))
        city = max((each for each in self.cities if each[1] == best and each[0] >= 0.5), default=None)
        if city is None:
            return Geo(country=self.places.codes[best], confidence=confidence, evidence=self.shown(best))
        name, latitude, longitude = self.places.city(city[2])
        return Geo(
            country=self.places.codes[best],
            city=name,
            latitude=latitude,
            longitude=longitude,
            confidence=confidence,
            evidence=self.shown(best),
        )

    def favour_first(self, totals: dict[int, float]) -> None:
        """Of several countries in a headline, the first is the one that acts; in a longer text it is so less often."""
        if len(totals) < 2:
            return
        first = min(self.evidence, key=lambda each: each[4])
        together = {each[1] for each in self.evidence if each[4] == first[4]}
        if len(together) == 1:
            totals[first[1]] *= 1.4 if len(self.text.whole) < 200 else 1.15

    def shown(self, best: int) -> list[Evidence]:
        """The clues that count most, those for the answer first."""
        ordered = self.evidence
        if len(ordered) > 1:
            ordered = nsmallest(self.clues, ordered, key=lambda each: (each[1] != best, -each[0], each[4]))
        return [self.evidence_of(*each) for each in ordered]

    def evidence_of(self, weight: float, country: int, kind: str, words: str, start: int) -> Evidence:
        code = self.places.codes[country]
        if start < 0:
            return Evidence(kind=kind, text=words, says=code, weight=round(weight, 2))
        part, offset = self.text.at(start)
        pointer = part.pointer if part.path else ""
        return Evidence(kind=kind, text=words[:80], says=code, weight=round(weight, 2), pointer=pointer, offset=offset)


def _key(part: Part) -> str:
    """The key that says what a part is: that of {"country": {"code": ...}} is country."""
    key = part.key
    if key in _UNDER and len(part.path) > 1:
        above = [step.lower() for step in part.path if isinstance(step, str)]
        if len(above) > 1 and (above[-2] in _COUNTRY_KEYS or above[-2] in _PLACE_KEYS):
            return above[-2]
    return key


def _prefer_cities(group: Group) -> None:
    """Where nothing but a place stands, "Americana" is the town in Brazil."""
    for mention in group.mentions:
        kinds = {sense.kind for sense in mention.senses}
        if DEMONYM in kinds and len(kinds) > 1:
            mention.senses = tuple(sense for sense in mention.senses if sense.kind != DEMONYM)


def _city(group: Group, country: int) -> int | None:
    """The city that a group names: the largest of its name there."""
    for mention in group.mentions:
        for sense in mention.senses:
            if sense.kind == CITY and sense.country == country:
                if any(each.kind == COUNTRY for each in mention.senses) and len(group.mentions) == 1:
                    return sense.number if sense.people >= 300_000 else None
                return sense.number
    return None


def _total(weights: list[float]) -> float:
    """What clues for one country weigh together: the best one whole, the others half, and at most as much again."""
    best = max(weights)
    return best + min(best, 0.5 * (sum(weights) - best))


def _coordinates(document: Any) -> Iterator[tuple[float, float]]:
    """Pairs of latitude and longitude in the objects of a document."""
    pending = [document]
    left = _MAX_VALUES
    while pending and left > 0:
        value = pending.pop()
        left -= 1
        if isinstance(value, dict):
            folded = {lower(key): inner for key, inner in list(value.items())[:left] if isinstance(key, str)}
            latitude = next((folded[key] for key in _LATITUDES if key in folded), None)
            longitude = next((folded[key] for key in _LONGITUDES if key in folded), None)
            north, east = _number(latitude), _number(longitude)
            if north is not None and east is not None and abs(north) <= 90 and abs(east) <= 180 and (north or east):
                yield north, east
            pending.extend(inner for inner in folded.values() if isinstance(inner, dict | list))
        elif isinstance(value, list):
            pending.extend(inner for inner in value[:left] if isinstance(inner, dict | list))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _country_of_phone(number: str) -> str | None:
    """The country whose prefix a number in international form has."""
    import phonenumbers  # its tables take their time: only for documents that have such a number

    written = "+" + number[2:] if number.startswith("00") else number
    try:
        parsed = phonenumbers.parse(written)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(parsed):
        return None
    code: str | None = phonenumbers.region_code_for_number(parsed)
    if code is None:
        code = phonenumbers.region_code_for_country_code(parsed.country_code or 0)
    return code if code != "001" else None
