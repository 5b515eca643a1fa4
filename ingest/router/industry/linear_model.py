"""A linear model over the words of a text, and over its characters in Chinese and Japanese.

A feature is a word or two neighbouring words, without the plural s; in Chinese and Japanese, one to three characters.
A text is the vector of its features, each weighted by its inverse document frequency, scaled to length one. The score
of a label is the product with the label's weights. A model file holds plain arrays: loading one runs no code.
"""

import math
import os
import re
import zipfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm_scheduler.ingest.router.industry.script import CJK, simplified
from llm_scheduler.ingest.router.industry.taxonomy import DIVISIONS, SECTIONS, section_of

Taxonomy = Literal["isic", "own"]
Floats = NDArray[np.float32]
Feature = str | tuple[str, str]  # two words stay apart: joining them would double the time

MAX_CHARACTERS = 8_000  # of a text; its subject is clear before that
NONE = "-"  # the label of a text that is about no industry
# Added to the square of a text's length: a text with one or two common features gets scores near zero.
LENGTH_OFFSET = 25.0
_VERSION = 1
# Words without the plural s ("business" always becomes "busine").
_WORD = re.compile(r"[^\W\d_][^\W_]*[^\W_s]")
_ASCII_WORD = re.compile(r"[a-z][a-z0-9]*[a-rt-z0-9]")
_CJK_RUN = re.compile(f"[{CJK}]+")


class ModelError(ValueError):
    """A file that is not a model, or not one of this version."""


def features(folded: str) -> Iterator[Feature]:
    """The features of a text in lower case, with repetitions."""
    if folded.isascii():
        words = _ASCII_WORD.findall(folded)
        return chain(words, pairwise(words))
    folded = simplified(folded)
    runs = _CJK_RUN.findall(folded)
    words = _WORD.findall(_CJK_RUN.sub(" ", folded) if runs else folded)
    pieces = [run[start : start + size] for run in runs for size in (1, 2, 3) for start in range(len(run) - size + 1)]
    return chain(pieces, words, pairwise(words))


def feature_text(feature: Feature) -> str:
    """A feature as it is written in a file."""
    return feature if isinstance(feature, str) else " ".join(feature)


class Prediction(NamedTuple):
    """A model's answer for one text: the probability of each label.

    `rows` are the numbers of the text's features, `length` is that of its vector. A feature adds its share, times its
    weight for a label, divided by `length`, to the score of that label.
    """

    probabilities: Floats
    rows: NDArray[np.intp]
    shares: Floats
    length: float


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A weight for every feature (row) and label (column): the number in `weights` times the step of its row."""

    taxonomy: Taxonomy
    labels: tuple[str, ...]
    vocabulary: dict[Feature, int]
    weights: NDArray[np.int8]
    steps: Floats
    rarity: Floats  # the inverse document frequency of each feature
    bias: Floats
    temperature: float = 1.0  # by which scores are divided
    # The calibration curve: an answer with the probability `predicted` is right with the frequency `actual`.
    predicted: tuple[float, ...] = (0.0, 1.0)
    actual: tuple[float, ...] = (0.0, 1.0)

    def predict(self, folded: str) -> Prediction:
        """The probability of each label for a text in lower case."""
        known = set(map(self.vocabulary.get, features(folded)))
        known.discard(None)
        rows = np.fromiter(known, np.intp, len(known))
        shares = self.rarity.take(rows)
        length = math.sqrt(shares.dot(shares) + LENGTH_OFFSET)
        shares *= self.steps.take(rows)
        scores = shares.dot(self.weights.take(rows, axis=0).astype(np.float32))
        scores *= 1 / length
        scores += self.bias
        scores *= 1 / self.temperature
        scores -= scores.max()
        np.exp(scores, scores)
        scores /= scores.sum()
        return Prediction(scores, rows, shares, length)

    def confidence(self, probability: float) -> float:
        """How often answers with this probability are right."""
        after = min(max(bisect_right(self.predicted, probability), 1), len(self.predicted) - 1)
        low, high = self.predicted[after - 1], self.predicted[after]
        share = (probability - low) / (high - low) if high > low else 1.0
        return self.actual[after - 1] + share * (self.actual[after] - self.actual[after - 1])

    def save(self, path: Path) -> None:
        """Write the model to `path`, whole or not at all. The same model is always the same bytes."""
        arrays: dict[str, Any] = {
            "version": np.array([_VERSION], dtype=np.int32),
            "taxonomy": _bytes([self.taxonomy]),
            "labels": _bytes(self.labels),
            "vocabulary": _bytes(map(feature_text, self.vocabulary)),
            "weights": self.weights,
            "steps": self.steps,
            "rarity": self.rarity.astype(np.float16),
            "bias": self.bias,
            "temperature": np.array([self.temperature], dtype=np.float64),
            "said": np.array(self.predicted, dtype=np.float64),
            "true": np.array(self.actual, dtype=np.float64),
        }
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> "Model":
        """The model in the file `path`. Raises ModelError if it holds none, OSError if it can't be read."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls._from_arrays(arrays)
        except (zipfile.BadZipFile, ValueError, KeyError, AttributeError, IndexError, EOFError, TypeError) as error:
            raise ModelError(f"{path}: not an industry model ({error})") from error

    @classmethod
    def _from_arrays(cls, arrays: Any) -> "Model":
        if arrays["version"].tolist() != [_VERSION]:
            raise ModelError(f"version {arrays['version'].tolist()}, not {_VERSION}")
        terms = _strings(arrays["vocabulary"])
        model = cls(
            taxonomy="own" if _strings(arrays["taxonomy"]) == ["own"] else "isic",
            labels=tuple(_strings(arrays["labels"])),
            vocabulary={_feature(term): row for row, term in enumerate(terms)},
            weights=arrays["weights"],
            steps=arrays["steps"],
            rarity=arrays["rarity"].astype(np.float32),
            bias=arrays["bias"],
            temperature=float(arrays["temperature"][0]),
            predicted=tuple(arrays["said"].tolist()),
            actual=tuple(arrays["true"].tolist()),
        )
        model._check(len(terms))
        return model

    def _check(self, rows: int) -> None:
        shape = (rows, len(self.labels))
        if self.weights.shape != shape or self.weights.dtype != np.int8 or len(self.vocabulary) != rows:
            raise ModelError(f"weights of shape {self.weights.shape}, not {shape}")
        if not (self.steps.shape == self.rarity.shape == shape[:1] and self.bias.shape == shape[1:] and self.labels):
            raise ModelError("arrays of different lengths")
        curve = self.predicted
        if len(curve) != len(self.actual) or len(curve) < 2 or list(curve) != sorted(curve):
            raise ModelError("no calibration curve")
        numbers = (self.steps, self.rarity, self.bias, np.array([self.temperature, *curve, *self.actual]))
        if not all(np.isfinite(each).all() for each in numbers) or self.temperature <= 0:
            raise ModelError("numbers that are infinite, NaN or out of range")
        if self.taxonomy == "isic":
            for label in self.labels:
                check_label(label, "isic")


def check_label(label: str, taxonomy: Taxonomy) -> str:
    """`label`, if the taxonomy allows it. Raises ValueError."""
    if taxonomy == "own":
        if not label.strip() or "\n" in label:
            raise ValueError(f"label {label!r}: must be one line of text, not empty")
    elif label not in SECTIONS and label not in DIVISIONS and label != NONE:
        raise ValueError(
            f"label {label!r}: must be an ISIC Rev. 4 section ({min(SECTIONS)} to {max(SECTIONS)}), a division of two"
            f" digits ({min(DIVISIONS)} to {max(DIVISIONS)}), or {NONE} for none"
        )
    return label


def broad_label(label: str, taxonomy: Taxonomy) -> str:
    """The section of an ISIC label (or NONE); an own label itself. Answers and scores are given for these."""
    return label if taxonomy == "own" else section_of(label) or NONE


def _feature(term: str) -> Feature:
    first, _, second = term.partition(" ")
    return (first, second) if second else first


def _bytes(strings: Iterable[str]) -> NDArray[np.uint8]:
    return np.frombuffer("\n".join(strings).encode(), dtype=np.uint8)


def _strings(array: NDArray[np.uint8]) -> list[str]:
    return array.tobytes().decode().split("\n")
