"""The clues for countries in one document, and the answer that they give together."""

from heapq import nsmallest
from math import exp

from llm_scheduler.ingest.router.geo.places import Places
from llm_scheduler.ingest.router.signals import Clue, Geo
from llm_scheduler.ingest.router.text import Text

_MIN_CONFIDENCE = 0.5  # below it the country is unknown
_MIN_CITY_WEIGHT = 0.5
_MAX_WORDS = 80  # characters of a clue


class CountryClues:
    """The clues in one document. A country is a number of the table of places."""

    def __init__(self, text: Text, places: Places) -> None:
        self.text = text
        self.places = places
        self.weights: dict[int, list[float]] = {}  # by country
        self.clues: list[tuple[float, int, str, str, int]] = []  # weight, country, kind, words, offset (-1: none)
        self.cities: list[tuple[float, int, int]] = []  # weight, country, number of the city
        self.regions: set[int] = set()  # the document's regions: numbers plus one, as in `Sense`
        self.field_countries: set[int] = set()  # countries that a field names

    def add(self, country: int, weight: float, kind: str, start: int, end: int) -> None:
        """Add a clue at a position of the text."""
        self.weights.setdefault(country, []).append(weight)
        self.clues.append((weight, country, kind, self.text.whole[start:end], start))

    def add_code(self, code: str | None, weight: float, kind: str, start: int, end: int) -> int | None:
        """Add a clue for the country with this code. Returns its number, or None if there is no such country."""
        country = self.places.country_numbers.get(code) if code else None
        if country is not None:
            self.add(country, weight, kind, start, end)
        return country

    def add_coordinates(self, latitude: float, longitude: float) -> bool:
        """Add the city at these coordinates. Returns whether one is near."""
        city = self.places.nearest(latitude, longitude)
        if city is None:
            return False
        country = self.places.city_country[city]
        self.weights.setdefault(country, []).append(9.0)
        self.clues.append((9.0, country, "coordinates", f"{latitude}, {longitude}", -1))
        self.cities.append((4.0, country, city))
        return True

    def answer(self, max_clues: int) -> Geo:
        if not self.weights:
            return Geo()
        totals = {country: _total(weights) for country, weights in self.weights.items()}
        self._favour_first(totals)
        best = max(totals, key=lambda country: (totals[country], -country))
        top = totals[best]
        share = top * top / sum(each * each for each in totals.values())
        confidence = round(0.99 * share * (1 - exp(-1.9 * top)), 3)
        evidence = self._evidence(best, max_clues)
        if confidence < _MIN_CONFIDENCE:
            return Geo(confidence=confidence, evidence=evidence)
        city = max((each for each in self.cities if each[1] == best and each[0] >= _MIN_CITY_WEIGHT), default=None)
        name, latitude, longitude = self.places.city(city[2]) if city else (None, None, None)
        return Geo(
            country=self.places.codes[best],
            city=name,
            latitude=latitude,
            longitude=longitude,
            confidence=confidence,
            evidence=evidence,
        )

    def _favour_first(self, totals: dict[int, float]) -> None:
        """The first country in a headline is the one that acts; in a longer text this is less often so."""
        if len(totals) < 2:
            return
        first = min(self.clues, key=lambda each: each[4])
        together = {each[1] for each in self.clues if each[4] == first[4]}
        if len(together) == 1:
            totals[first[1]] *= 1.4 if len(self.text.whole) < 200 else 1.15

    def _evidence(self, best: int, max_clues: int) -> list[Clue]:
        """The heaviest clues, first those for the answer."""
        ordered = self.clues
        if len(ordered) > 1:
            ordered = nsmallest(max_clues, ordered, key=lambda each: (each[1] != best, -each[0], each[4]))
        return [self._clue(*each) for each in ordered]

    def _clue(self, weight: float, country: int, kind: str, words: str, start: int) -> Clue:
        pointer, offset = "", 0
        if start >= 0:
            words = words[:_MAX_WORDS]
            part, offset = self.text.locate(start)
            pointer = part.pointer
        code, weight = self.places.codes[country], round(weight, 2)
        return Clue(kind=kind, text=words, says=code, weight=weight, pointer=pointer, offset=offset)


def _total(weights: list[float]) -> float:
    """The weight of all clues for one country: the heaviest counts fully, the others half, together at most as much."""
    best = max(weights)
    return best + min(best, 0.5 * (sum(weights) - best))
