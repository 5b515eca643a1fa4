"""A linear model over the words of a text, and over the characters where it is Chinese or Japanese.

A feature is a word or two neighbouring ones, without the s of a plural; in Chinese and Japanese one to three
characters. A text is the vector of the features in it, each with its inverse document frequency, at length one; a
label's score is a product with it. A file of the model holds plain arrays: nothing in it is ever run.
"""

import math
import os
import re
import zipfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm_scheduler.ingest.router.industry.script import CJK, one_form
from llm_scheduler.ingest.router.industry.taxonomy import DIVISIONS, SECTIONS, section_of

Taxonomy = Literal["isic", "own"]
Floats = NDArray[np.float32]
Feature = str | tuple[str, str]  # two words are not put together: that would take as long as all the rest

NONE = "-"  # the label of a text that is about no line of business
# Added to the square of a text's length before that is made one: of a text with a word or two that are known, and those
# common ones, little is to be said.
LITTLE = 25.0
_VERSION = 1
# Words without the s of a plural (business becomes busine, always).
_WORD = re.compile(r"[^\W\d_][^\W_]*[^\W_s]")
_ASCII_WORD = re.compile(r"[a-z][a-z0-9]*[a-rt-z0-9]")
_RUN = re.compile(f"[{CJK}]+")
_LEVELS = 127  # of a weight, to either side of nought


class ModelError(ValueError):
    """A file that is no model, or not one of this version."""


def features(folded: str) -> Iterator[Feature]:
    """The features of a text in lower case, with repetitions."""
    if folded.isascii():
        words = _ASCII_WORD.findall(folded)
        return chain(words, pairwise(words))
    folded = one_form(folded)
    runs = _RUN.findall(folded)
    words = _WORD.findall(_RUN.sub(" ", folded) if runs else folded)
    pieces = [run[start : start + size] for run in runs for size in (1, 2, 3) for start in range(len(run) - size + 1)]
    return chain(pieces, words, pairwise(words))


def written(feature: Feature) -> str:
    """A feature as it stands in a file."""
    return feature if isinstance(feature, str) else " ".join(feature)


class Scored(NamedTuple):
    """What a model says of one text. `chances` are those of its labels; `rows` are the features that are in it, and
    each one's `shares`, times its weight for a label and by the `length` of all, is what it gives to the score."""

    chances: Floats
    rows: NDArray[np.intp]
    shares: Floats
    length: float


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Weights for every feature and label. A row of `weights` times its `steps` are the real ones."""

    taxonomy: Taxonomy
    labels: tuple[str, ...]
    vocabulary: dict[Feature, int]
    weights: NDArray[np.int8]
    steps: Floats
    rarity: Floats  # the inverse document frequency of each feature
    bias: Floats
    temperature: float  # by which scores are divided
    # How often an answer with such a chance is right: points of a curve, and what each is in truth.
    said: tuple[float, ...] = (0.0, 1.0)
    true: tuple[float, ...] = (0.0, 1.0)

    @classmethod
    def of(cls, taxonomy: Taxonomy, labels: tuple[str, ...], vocabulary: dict[Feature, int], exact: "Exact") -> "Model":
        """The model with the weights of `exact`, in whole steps."""
        top = np.abs(exact.weights).max(axis=1, initial=0.0)
        steps = np.maximum(top / _LEVELS, 1e-12).astype(np.float32)
        weights = np.rint(exact.weights / steps[:, None]).astype(np.int8)
        return cls(taxonomy, labels, vocabulary, weights, steps, exact.rarity, exact.bias, exact.temperature)

    def scored(self, folded: str) -> Scored:
        """The chance of each label for a text in lower case."""
        known = set(map(self.vocabulary.get, features(folded)))
        known.discard(None)
        rows = np.fromiter(known, np.intp, len(known))
        shares = self.rarity.take(rows)
        length = math.sqrt(shares.dot(shares) + LITTLE)
        shares *= self.steps.take(rows)
        scores = shares.dot(self.weights.take(rows, axis=0).astype(np.float32))
        scores *= 1 / length
        scores += self.bias
        scores *= 1 / self.temperature
        scores -= scores.max()
        np.exp(scores, scores)
        scores /= scores.sum()
        return Scored(scores, rows, shares, length)

    def confidence(self, chance: float) -> float:
        """How often an answer is right that has this chance."""
        after = min(max(bisect_right(self.said, chance), 1), len(self.said) - 1)
        low, high = self.said[after - 1], self.said[after]
        share = (chance - low) / (high - low) if high > low else 1.0
        return self.true[after - 1] + share * (self.true[after] - self.true[after - 1])

    def save(self, path: Path) -> None:
        """Writes it to `path`, all or nothing; the same model is always the same bytes."""
        arrays: dict[str, Any] = {
            "version": np.array([_VERSION], dtype=np.int32),
            "taxonomy": _bytes([self.taxonomy]),
            "labels": _bytes(self.labels),
            "vocabulary": _bytes(map(written, self.vocabulary)),
            "weights": self.weights,
            "steps": self.steps,
            "rarity": self.rarity.astype(np.float16),
            "bias": self.bias,
            "temperature": np.array([self.temperature], dtype=np.float64),
            "said": np.array(self.said, dtype=np.float64),
            "true": np.array(self.true, dtype=np.float64),
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
        """The model in the file `path`. Raises ModelError if there is none in it, OSError if it can't be read."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls._from(arrays)
        except (zipfile.BadZipFile, ValueError, KeyError, AttributeError, IndexError, EOFError, TypeError) as error:
            raise ModelError(f"{path}: not a model of industries ({error})") from error

    @classmethod
    def _from(cls, arrays: Any) -> "Model":
        if arrays["version"].tolist() != [_VERSION]:
            raise ModelError(f"version {arrays['version'].tolist()}, not {_VERSION}")
        terms = _strings(arrays["vocabulary"])
        model = cls(
            taxonomy="own" if _strings(arrays["taxonomy"]) == ["own"] else "isic",
            labels=tuple(_strings(arrays["labels"])),
            vocabulary={_read(term): row for row, term in enumerate(terms)},
            weights=arrays["weights"],
            steps=arrays["steps"],
            rarity=arrays["rarity"].astype(np.float32),
            bias=arrays["bias"],
            temperature=float(arrays["temperature"][0]),
            said=tuple(arrays["said"].tolist()),
            true=tuple(arrays["true"].tolist()),
        )
        model._check(len(terms))
        return model

    def _check(self, rows: int) -> None:
        shape = (rows, len(self.labels))
        if self.weights.shape != shape or self.weights.dtype != np.int8 or len(self.vocabulary) != rows:
            raise ModelError(f"weights of shape {self.weights.shape}, not {shape}")
        if not (self.steps.shape == self.rarity.shape == shape[:1] and self.bias.shape == shape[1:] and self.labels):
            raise ModelError("arrays of different lengths")
        if len(self.said) != len(self.true) or len(self.said) < 2 or list(self.said) != sorted(self.said):
            raise ModelError("no curve of confidence")
        numbers = (self.steps, self.rarity, self.bias, np.array([self.temperature, *self.said, *self.true]))
        if not all(np.isfinite(each).all() for each in numbers) or self.temperature <= 0:
            raise ModelError("numbers that are none")
        if self.taxonomy == "isic":
            for label in self.labels:
                check_label(label, "isic")


@dataclass(frozen=True, slots=True)
class Exact:
    """The numbers of a model as they were learned."""

    weights: Floats
    rarity: Floats
    bias: Floats
    temperature: float


def softmax(scores: Floats) -> Floats:
    """The chances that belong to `scores`, by row."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    chances: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return chances


def check_label(label: str, taxonomy: Taxonomy) -> str:
    """`label`, if the taxonomy has it. Raises ValueError."""
    if taxonomy == "own":
        if not label.strip() or "\n" in label:
            raise ValueError(f"label {label!r}: must be one line of text, and not an empty one")
    elif label not in SECTIONS and label not in DIVISIONS and label != NONE:
        raise ValueError(
            f"label {label!r}: must be an ISIC Rev. 4 section ({min(SECTIONS)} to {max(SECTIONS)}), a division of two"
            f" digits ({min(DIVISIONS)} to {max(DIVISIONS)}), or {NONE} for none"
        )
    return label


def broad(label: str, taxonomy: Taxonomy) -> str:
    """What a label is measured by: its section, an own one as it is."""
    return label if taxonomy == "own" else section_of(label) or NONE


def _read(term: str) -> Feature:
    first, _, second = term.partition(" ")
    return (first, second) if second else first


def _bytes(strings: Any) -> NDArray[np.uint8]:
    return np.frombuffer("\n".join(strings).encode(), dtype=np.uint8)


def _strings(array: NDArray[np.uint8]) -> list[str]:
    return array.tobytes().decode().split("\n")
