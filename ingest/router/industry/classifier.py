"""Which line of business a document is about."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_scheduler.ingest.router.industry.lexicon import WEIGHTS, Found, Lexicon
from llm_scheduler.ingest.router.industry.linear_model import NONE, Feature, Model, Scored, broad
from llm_scheduler.ingest.router.industry.script import has_cjk, one_form
from llm_scheduler.ingest.router.industry.taxonomy import DIVISIONS, SECTIONS
from llm_scheduler.ingest.router.industry.trainer import MAX_CHARACTERS
from llm_scheduler.ingest.router.signals import Evidence, Industry
from llm_scheduler.ingest.router.text import Text

BASE = Path(__file__).with_name("base.npz")
UNKNOWN_BELOW = 0.25  # of confidence: a section less sure than that is not said
DIVISION_BELOW = 0.8
_MAX_EVIDENCE = 6
_MAX_TERMS = 4  # of the lexicon among it
_MAX_FEATURES = 2  # of the model among it
# By what a term multiplies the chance of its section; measured on texts that neither the lexicon
# nor the model was made from.
_TIMES = {weight: math.exp(0.6 * weight) for weight in WEIGHTS.values()}
_TIMES_ALONE = {weight: math.exp(weight) for weight in WEIGHTS.values()}  # where the model does not know the language
# Features that the model knows, for each word of a text: in English 0.8 and more, in other languages of its letters 0.2
# and less. Between the two its word counts in part.
_FOREIGN, _FAMILIAR = 0.3, 0.6
_LEAST = 1e-6  # the chance of a section of which the model knows nothing


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the labels of a model lie among sections: those of one are side by side."""

    names: tuple[str, ...]  # the sections, or the operator's labels
    starts: list[int]
    ends: list[int]
    place: dict[str, int]

    @classmethod
    def of(cls, model: Model) -> "_Columns":
        broader = [broad(label, model.taxonomy) for label in model.labels]
        starts = [at for at, name in enumerate(broader) if at == 0 or broader[at - 1] != name]
        names = tuple(broader[at] for at in starts)
        ends = [*starts[1:], len(broader)]
        return cls(names, starts, ends, {name: at for at, name in enumerate(names)})


class Classifier:
    """Says the line of business of a text, from the words of the lexicon and a model."""

    def __init__(self, model: Model, lexicon: Lexicon) -> None:
        self.model = model
        self._lexicon = lexicon
        self._columns = _Columns.of(model)
        self._features = list(model.vocabulary)
        self._flat = model.weights.reshape(-1)
        self._labels: dict[str | None, int] = {label: at for at, label in enumerate(model.labels)}

    @classmethod
    def load(cls, path: Path | None = None) -> "Classifier":
        """With the model in the file `path`, else the one shipped. Raises ModelError."""
        return cls(Model.load(path or BASE), Lexicon.load())

    def classify(self, text: Text, clues: int = _MAX_EVIDENCE) -> Industry:
        """The line of business of a text; nothing but the text decides. At most `clues` pieces of evidence are told."""
        folded = text.folded[:MAX_CHARACTERS]
        scored = self.model.scored(folded)
        if self.model.taxonomy == "own":
            return self._own(text, folded, scored, clues)
        found = self._lexicon.find(folded)
        chances = self._chances(scored, found, _trust(folded, scored))
        chance = max(chances)
        best = chances.index(chance)
        section, confidence = self._columns.names[best], round(self.model.confidence(chance / sum(chances)), 4)
        if section == NONE or not (found or len(scored.rows)):
            return Industry()
        if confidence < UNKNOWN_BELOW:
            return Industry(confidence=confidence)
        return Industry(
            section=section,
            division=self._division(scored, found, best, confidence),
            label=SECTIONS[section],
            confidence=confidence,
            evidence=self._evidence(text, folded, scored, best, found, clues),
        )

    def _own(self, text: Text, folded: str, scored: Scored, clues: int) -> Industry:
        if not len(scored.rows):
            return Industry()
        best = int(scored.chances.argmax())
        confidence = round(self.model.confidence(float(scored.chances[best])), 4)
        evidence = self._evidence(text, folded, scored, best, [], clues)
        return Industry(label=self.model.labels[best], confidence=confidence, evidence=evidence)

    def _chances(self, scored: Scored, found: list[Found], trust: float) -> list[float]:
        """How likely each section is beside the others: what the model says, as far as it is to be trusted, and what
        the terms say."""
        chances: list[float] = np.add.reduceat(scored.chances, self._columns.starts).tolist()
        times = _TIMES
        if trust < 1:
            even = (1 - trust) / len(chances)
            chances = [trust * chance + even for chance in chances]
            times = _TIMES_ALONE
        place = self._columns.place
        for term, _, _ in found:
            at = place.get(term.section)
            if at is not None:
                chances[at] = (chances[at] + _LEAST) * times[term.weight]
        return chances

    def _division(self, scored: Scored, found: list[Found], best: int, confidence: float) -> str | None:
        """The division, if the model and the terms leave hardly a doubt of it within the section."""
        start, end = self._columns.starts[best], self._columns.ends[best]
        chances = scored.chances[start:end].tolist()
        section = self._columns.names[best]
        for term, _, _ in found:
            if term.section == section and term.division in self._labels:
                at = self._labels[term.division] - start
                chances[at] = (chances[at] + _LEAST) * _TIMES[term.weight]
        chance = max(chances)
        division = self.model.labels[start + chances.index(chance)]
        return division if division in DIVISIONS and chance / sum(chances) * confidence >= DIVISION_BELOW else None

    def _evidence(
        self, text: Text, folded: str, scored: Scored, best: int, found: list[Found], clues: int
    ) -> list[Evidence]:
        """What spoke for the answer: terms of the lexicon, then the features that weigh most."""
        says = self._columns.names[best]
        for_it = [each for each in found if each.term.section == says]
        if len(for_it) > _MAX_TERMS:
            for_it.sort(key=lambda each: -each.term.weight)
        places = [("term", start, end, term.weight) for term, start, end in for_it[:_MAX_TERMS]]
        taken = {folded[start:end] for _, start, end, _ in places}
        plain = folded if folded.isascii() else one_form(folded)
        for feature, weight in self._heaviest(scored, best) if len(places) < clues else ():
            place = _place(plain, feature)
            if place is not None and folded[place[0] : place[1]] not in taken:
                places.append(("feature", *place, weight))
        evidence = []
        last, pointer = None, ""
        for kind, start, end, weight in places[:clues]:
            part, offset = text.at(start)
            if part is not last:  # a pointer takes longer than all else here
                last, pointer = part, part.pointer
            words = text.whole[start:end]
            evidence.append(
                Evidence(kind=kind, text=words, says=says, weight=round(weight, 3), pointer=pointer, offset=offset)
            )
        return evidence

    def _heaviest(self, scored: Scored, best: int) -> Iterator[tuple[Feature, float]]:
        """The features that speak most for an answer."""
        start, end = self._columns.starts[best], self._columns.ends[best]
        column = start + int(scored.chances[start:end].argmax()) if end > start + 1 else start
        weights = scored.shares * self._flat.take(scored.rows * len(self.model.labels) + column)
        for at in weights.argsort()[: -_MAX_FEATURES - 1 : -1].tolist():
            weight = float(weights[at])
            if weight > 0:
                yield self._features[scored.rows[at]], weight / scored.length


def _trust(folded: str, scored: Scored) -> float:
    """How far the model knows the language of a text, from 0 to 1."""
    known = len(scored.rows) / max(1, folded.count(" ") + 1)
    return min(1.0, max(0.0, (known - _FOREIGN) / (_FAMILIAR - _FOREIGN)))


def _place(folded: str, feature: Feature) -> tuple[int, int] | None:
    """Where a feature first stands in a text in lower case, to the end of its word; None: not as one piece."""
    sought = feature if isinstance(feature, str) else " ".join(feature)
    start = folded.find(sought)
    if not sought.isascii() and has_cjk(sought):
        return (start, start + len(sought)) if start >= 0 else None
    while start > 0 and folded[start - 1].isalnum() and folded[start - 1].isascii():
        start = folded.find(sought, start + 1)
    if start < 0:
        return None
    end = start + len(sought)
    while folded[end : end + 1] == "s":
        end += 1
    return start, end
