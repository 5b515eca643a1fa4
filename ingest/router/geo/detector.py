"""The place that a document is about: the meaning of each name, weighed with all other clues."""

import re
from bisect import bisect_right
from typing import Any

from llm_scheduler.ingest.router.geo.clues import CountryClues
from llm_scheduler.ingest.router.geo.mention_groups import Group, Mention
from llm_scheduler.ingest.router.geo.mentions import find_mentions
from llm_scheduler.ingest.router.geo.patterns import read_patterns, read_states
from llm_scheduler.ingest.router.geo.place_fields import PERSON_KEYS, field_key, read_coordinates, read_fields
from llm_scheduler.ingest.router.geo.places import CITY, COUNTRY, DEMONYM, HINT, REGION, Places, Sense
from llm_scheduler.ingest.router.signals import MAX_CLUES, Geo
from llm_scheduler.ingest.router.text import Text

_LETTERS = re.compile(r"\w")


def detect(text: Text, places: Places, document: Any = None, clues: int = MAX_CLUES) -> Geo:
    """The place that a document is about, with at most `clues` clues. `document` is its parsed value: coordinates are
    numbers, which `text` lacks."""
    found = CountryClues(text, places)
    fields = read_fields(found)
    groups, hints = find_mentions(text, places, fields)
    read_coordinates(found, document)
    read_patterns(found)
    _add_hints(found, hints)
    _add_groups(found, groups, fields)
    read_states(found)
    return found.answer(clues)


def _add_hints(clues: CountryClues, hints: list[Mention]) -> None:
    added: set[int] = set()
    for hint in hints:
        for sense in hint.senses:
            if sense.number not in added:  # a repetition adds nothing
                added.add(sense.number)
                _add_hint(clues, sense, 1.0, hint)


def _add_hint(clues: CountryClues, sense: Sense, factor: float, where: Mention | Group) -> None:
    countries, weight = clues.places.hints[sense.number]
    for country in countries:
        clues.add(country, weight * factor, "hint", where.start, where.end)


def _add_groups(clues: CountryClues, groups: list[Group], fields: dict[int, float]) -> None:
    for group in groups:
        _weigh_part(clues.text, group, fields)
        for each in group.mentions:
            if each.senses[0].kind == REGION:
                clues.regions.add(each.senses[0].region)
    ambiguous = [group for group in groups if not _add_unambiguous(clues, group)]
    support = {country: sum(weights) for country, weights in clues.weights.items()}
    for group in ambiguous:
        _add_likeliest(clues, group, support)


def _weigh_part(text: Text, group: Group, fields: dict[int, float]) -> None:
    """Give more weight to a group in a field for places, and to one that is all the text of its part."""
    number = bisect_right(text.starts, group.start) - 1
    part = text.parts[number]
    if number in fields or not part.path:
        _drop_demonyms(group)
    if number in fields:
        if group.kind == "name":
            group.factor, group.kind = max(fields[number], group.factor), "field"
        return
    if len(part.text) > 60 or len(part.text) - (group.end - group.start) > 8:
        return
    start = text.starts[number]
    if _LETTERS.search(part.text[: group.start - start] + part.text[group.end - start :]):
        return
    if field_key(part) in PERSON_KEYS:
        group.factor = 0.3
    elif group.factor <= 1.3:
        group.factor = 6.0


def _drop_demonyms(group: Group) -> None:
    """In a field, "Americana" is the town in Brazil."""
    for mention in group.mentions:
        kinds = {sense.kind for sense in mention.senses}
        if DEMONYM in kinds and len(kinds) > 1:
            mention.senses = tuple(sense for sense in mention.senses if sense.kind != DEMONYM)


def _add_unambiguous(clues: CountryClues, group: Group) -> bool:
    """Add a group if all its senses are in one country. Returns whether it was added."""
    senses = group.mentions[-1].senses
    country = senses[0].country
    if country < 0:
        return False
    for sense in senses:
        if sense.country != country:
            return False
    _add_group(clues, group, country)
    return True


def _add_likeliest(clues: CountryClues, group: Group, support: dict[int, float]) -> None:
    """Add a group with several senses for the likeliest one: the largest, unless the rest of the text is about the
    country or the region of another."""
    total = 1.0 + sum(support.values())
    senses = [sense for sense in group.mentions[-1].senses if sense.country >= 0]
    if not senses:
        for sense in group.mentions[-1].senses:
            if sense.kind == HINT:
                _add_hint(clues, sense, group.factor, group)
        return

    def likelihood(sense: Sense) -> float:
        about = 1 + 8 * support.get(sense.country, 0.0) / total
        if group.kind == "field" and sense.country in clues.field_countries:  # {"city": "London", "country": "CA"}
            about *= 10_000
        return sense.rank * about * (1000 if sense.kind == CITY and sense.region in clues.regions else 1)

    best = max(senses, key=likelihood)
    rivals = sum(likelihood(sense) for sense in senses if sense.country != best.country)
    certainty = likelihood(best) / (likelihood(best) + rivals * 0.5 + 1)
    for mention in group.mentions:
        mention.weight *= certainty
    _add_group(clues, group, best.country)


def _add_group(clues: CountryClues, group: Group, country: int) -> None:
    weight = max(mention.weight for mention in group.mentions) * group.factor
    clues.add(country, weight, group.kind, group.start, group.end)
    if (city := _city(group, country)) is not None:
        clues.cities.append((weight, country, city))


def _city(group: Group, country: int) -> int | None:
    """The city that a group names: the largest with this name in the country."""
    for mention in group.mentions:
        for sense in mention.senses:
            if sense.kind == CITY and sense.country == country:
                if any(each.kind == COUNTRY for each in mention.senses) and len(group.mentions) == 1:
                    return sense.number if sense.people >= 300_000 else None
                return sense.number
    return None
