"""The industry of a text, by the terms of the lexicon and by a model."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llm_scheduler.ingest.router.industry.lexicon import WEIGHTS, Lexicon, TermMatch
from llm_scheduler.ingest.router.industry.linear_model import (
    MAX_CHARACTERS,
    NONE,
    Model,
    Prediction,
    broad_label,
    feature_text,
)
from llm_scheduler.ingest.router.industry.script import has_cjk, simplified
from llm_scheduler.ingest.router.industry.taxonomy import DIVISIONS, SECTIONS
from llm_scheduler.ingest.router.signals import MAX_CLUES, Clue, Industry
from llm_scheduler.ingest.router.text import Text

BASE = Path(__file__).with_name("base.npz")
UNKNOWN_BELOW = 0.25  # confidence of a section
DIVISION_BELOW = 0.8  # confidence of a division; below it only the section is given
_MAX_TERMS = 4  # of the lexicon among the clues
_MAX_FEATURES = 2  # of the model among the clues
# A term multiplies the probability of its section by these. Measured on texts that neither the lexicon nor the model
# was made from.
_TERM_FACTORS = {weight: math.exp(0.6 * weight) for weight in WEIGHTS.values()}
_TERM_FACTORS_ALONE = {weight: math.exp(weight) for weight in WEIGHTS.values()}  # if the model lacks the language
# The model knows at least 0.8 features for each word of an English text, and at most 0.2 in another language with
# Latin letters. Below the first value it is ignored, from the second on it counts fully.
_FOREIGN, _FAMILIAR = 0.3, 0.6
_MIN_PROBABILITY = 1e-6  # of a section that only a term indicates


class Classifier:
    """Finds the industry of texts."""

    def __init__(self, model: Model, lexicon: Lexicon) -> None:
        self.model = model
        self._lexicon = lexicon
        # The sections (or own labels) of the model, and the columns of each: those of one section are neighbours.
        broad = [broad_label(label, model.taxonomy) for label in model.labels]
        self._starts = [at for at, name in enumerate(broad) if at == 0 or broad[at - 1] != name]
        self._ends = [*self._starts[1:], len(broad)]
        self._sections = [broad[at] for at in self._starts]
        self._index = {name: at for at, name in enumerate(self._sections)}
        self._features = list(model.vocabulary)
        self._flat = model.weights.reshape(-1)
        self._labels: dict[str | None, int] = {label: at for at, label in enumerate(model.labels)}

    @classmethod
    def load(cls, path: Path | None = None) -> "Classifier":
        """With the model in the file `path`, or the shipped one. Raises ModelError, OSError."""
        return cls(Model.load(path or BASE), Lexicon.load())

    def classify(self, text: Text, clues: int = MAX_CLUES) -> Industry:
        """The industry of a text, with at most `clues` clues."""
        folded = text.folded[:MAX_CHARACTERS]
        prediction = self.model.predict(folded)
        if self.model.taxonomy == "own":
            return self._own(text, folded, prediction, clues)
        terms = self._lexicon.find(folded)
        probabilities = self._probabilities(prediction, terms, _trust(folded, prediction))
        top = max(probabilities)
        best = probabilities.index(top)
        section, confidence = self._sections[best], round(self.model.confidence(top / sum(probabilities)), 4)
        if section == NONE or not (terms or len(prediction.rows)):
            return Industry()
        if confidence < UNKNOWN_BELOW:
            return Industry(confidence=confidence)
        return Industry(
            section=section,
            division=self._division(prediction, terms, best, confidence),
            label=SECTIONS[section],
            confidence=confidence,
            evidence=self._clues(text, folded, prediction, best, terms, clues),
        )

    def _own(self, text: Text, folded: str, prediction: Prediction, clues: int) -> Industry:
        if not len(prediction.rows):
            return Industry()
        best = int(prediction.probabilities.argmax())
        confidence = round(self.model.confidence(float(prediction.probabilities[best])), 4)
        evidence = self._clues(text, folded, prediction, best, [], clues)
        return Industry(label=self.model.labels[best], confidence=confidence, evidence=evidence)

    def _probabilities(self, prediction: Prediction, terms: list[TermMatch], trust: float) -> list[float]:
        """The relative probability of each section: the model's, as far as it is trusted, multiplied by the terms."""
        values: list[float] = np.add.reduceat(prediction.probabilities, self._starts).tolist()
        factors = _TERM_FACTORS
        if trust < 1:
            even = (1 - trust) / len(values)
            values = [trust * value + even for value in values]
            factors = _TERM_FACTORS_ALONE
        for term, _, _ in terms:
            at = self._index.get(term.section)
            if at is not None:
                values[at] = (values[at] + _MIN_PROBABILITY) * factors[term.weight]
        return values

    def _division(self, prediction: Prediction, terms: list[TermMatch], best: int, confidence: float) -> str | None:
        """The division within the best section, if the model and the terms are almost sure of it."""
        start, end = self._starts[best], self._ends[best]
        values = prediction.probabilities[start:end].tolist()
        section = self._sections[best]
        for term, _, _ in terms:
            if term.section == section and term.division in self._labels:
                at = self._labels[term.division] - start
                values[at] = (values[at] + _MIN_PROBABILITY) * _TERM_FACTORS[term.weight]
        top = max(values)
        division = self.model.labels[start + values.index(top)]
        return division if division in DIVISIONS and top / sum(values) * confidence >= DIVISION_BELOW else None

    def _clues(
        self, text: Text, folded: str, prediction: Prediction, best: int, terms: list[TermMatch], clues: int
    ) -> list[Clue]:
        """The clues for the answer: terms of the lexicon, then the features with the largest weights."""
        says = self._sections[best]
        own_terms = [each for each in terms if each.term.section == says]
        if len(own_terms) > _MAX_TERMS:
            own_terms.sort(key=lambda each: -each.term.weight)
        spans = [("term", start, end, term.weight) for term, start, end in own_terms[:_MAX_TERMS]]
        taken = {folded[start:end] for _, start, end, _ in spans}
        searched = folded if folded.isascii() else simplified(folded)
        for feature, weight in self._largest_features(prediction, best) if len(spans) < clues else ():
            span = _find(searched, feature)
            if span is not None and folded[span[0] : span[1]] not in taken:
                spans.append(("feature", *span, weight))
        found = []
        last, pointer = None, ""
        for kind, start, end, weight in spans[:clues]:
            part, offset = text.locate(start)
            if part is not last:  # making a pointer takes longer than all else here
                last, pointer = part, part.pointer
            words, weight = text.whole[start:end], round(weight, 3)
            found.append(Clue(kind=kind, text=words, says=says, weight=weight, pointer=pointer, offset=offset))
        return found

    def _largest_features(self, prediction: Prediction, best: int) -> Iterator[tuple[str, float]]:
        """The features with the largest weights for an answer, and these weights."""
        start, end = self._starts[best], self._ends[best]
        column = start + int(prediction.probabilities[start:end].argmax()) if end > start + 1 else start
        weights = prediction.shares * self._flat.take(prediction.rows * len(self.model.labels) + column)
        for at in weights.argsort()[: -_MAX_FEATURES - 1 : -1].tolist():
            weight = float(weights[at])
            if weight > 0:
                yield feature_text(self._features[prediction.rows[at]]), weight / prediction.length


def _trust(folded: str, prediction: Prediction) -> float:
    """How well the model knows the language of a text, from 0 to 1."""
    known = len(prediction.rows) / max(1, folded.count(" ") + 1)
    return min(1.0, max(0.0, (known - _FOREIGN) / (_FAMILIAR - _FOREIGN)))


def _find(folded: str, sought: str) -> tuple[int, int] | None:
    """The first position of a feature in a text, up to the end of its word; None: its words are not together."""
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
