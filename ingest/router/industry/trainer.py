"""Learning a model from labelled texts, and measuring one. No library beyond numpy; the same rows, the same model."""

import json
import lzma
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_scheduler.ingest.router.industry.linear_model import (
    LITTLE,
    Exact,
    Feature,
    Floats,
    Model,
    Taxonomy,
    broad,
    check_label,
    features,
    softmax,
    written,
)
from llm_scheduler.ingest.router.industry.taxonomy import SECTIONS, section_of
from llm_scheduler.ingest.router.text import lower, plain

MAX_CHARACTERS = 8_000  # of a text; what it is about is said before that
_BATCH = 256
_STEPS = 200  # at least, where there are few rows
_FOLDS = 5
_FEW = 20  # texts that were not seen; with fewer there is nothing to set confidence by
_POINT, _POINTS = 40, 20  # answers to a point of the curve of confidence at least, and points at most
_BINS = 15  # of confidence, for the calibration error


class TrainingError(ValueError):
    """Rows from which nothing can be learned; says which and what is allowed."""


@dataclass(frozen=True, slots=True)
class Row:
    """A text and what it is. `times`: as many rows like it as this one counts."""

    text: str
    label: str
    times: float = 1.0


@dataclass(frozen=True, slots=True)
class Score:
    """How well one label is told: its share found, the share right where it is said, both as F1, and its rows."""

    recall: float
    precision: float
    f1: float
    rows: int


@dataclass(frozen=True, slots=True)
class Scores:
    """How good a model is on some rows. `ece`: how far on average its confidence is from the share that is right."""

    accuracy: float
    macro_f1: float
    ece: float
    labels: dict[str, Score]


@dataclass(frozen=True, slots=True)
class Effort:
    """How to learn. `decay` is the pull of all weights to nought, `balance` how far rare labels are made up for
    (0: not at all, 1: to equal shares), `rare` the number of texts that a feature must be in."""

    rounds: int = 12
    rate: float = 0.7
    decay: float = 0.3
    balance: float = 0.0
    rare: int = 2
    most: int = 80_000


def read_rows(path: Path, taxonomy: Taxonomy = "own") -> list[Row]:
    """The rows of a file of JSON lines, `{"text": ..., "label": ...}`, compressed if its name ends in .xz.

    Raises TrainingError that names the line, OSError if the file can't be read.
    """
    rows = []
    try:
        with lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append(_row(line, taxonomy, f"{path}, line {number}"))
    except (lzma.LZMAError, EOFError) as error:
        raise TrainingError(f"{path}: not a whole xz file ({error})") from error
    if not rows:
        raise TrainingError(f"{path}: no line in it")
    return rows


def _row(line: bytes, taxonomy: Taxonomy, where: str) -> Row:
    form = 'must be a JSON object with the strings "text" and "label"'
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{where}: {form} ({error})") from error
    if not isinstance(value, dict):
        raise TrainingError(f"{where}: {form}, not {type(value).__name__}")
    text, label = value.get("text"), value.get("label")
    if not isinstance(text, str) or not text.strip():
        raise TrainingError(f'{where}: "text" is missing, empty or no string; {form}')
    if not isinstance(label, str):
        raise TrainingError(f'{where}: "label" is missing or no string; {form}')
    try:
        return Row(text, check_label(label, taxonomy))
    except ValueError as error:
        raise TrainingError(f"{where}: {error}") from error


def train(rows: Sequence[Row], taxonomy: Taxonomy = "isic", effort: Effort | None = None) -> Model:
    """The model that `rows` teach; its confidence is set by texts that a model like it has not seen.

    Raises TrainingError.
    """
    _check(rows, taxonomy)
    effort = effort or Effort(rare=1 if len(rows) < 500 else 2)
    lists = [prepared(row.text) for row in rows]
    folds = [_fold(row.text) for row in rows]
    scores, wanted = [], []
    for fold in range(_FOLDS):
        inside = [place for place, own in enumerate(folds) if own != fold]
        outside = [place for place, own in enumerate(folds) if own == fold]
        if len({rows[place].label for place in inside}) < 2 or not outside:
            continue
        draft = _learn([rows[place] for place in inside], [lists[place] for place in inside], taxonomy, effort)
        truths = [_target(rows[place].label, draft.labels) for place in outside]
        for place, truth in zip(outside, truths, strict=True):
            if truth.any():  # else a label that is in this fold alone
                chances = draft.scored(lower(plain(rows[place].text[:MAX_CHARACTERS]))).chances
                scores.append(_by_broad(np.log(chances + 1e-9), draft))
                wanted.append(broad(rows[place].label, taxonomy))
    model = _learn(rows, lists, taxonomy, effort)
    return _sure(model, scores, wanted) if len(scores) >= _FEW else model


def learned(rows: Sequence[Row], taxonomy: Taxonomy, effort: Effort) -> Model:
    """As `train`, but its confidence is not set."""
    _check(rows, taxonomy)
    return _learn(rows, [prepared(row.text) for row in rows], taxonomy, effort)


def prepared(text: str) -> list[Feature]:
    """The features of a text as it was written, each once."""
    return list(dict.fromkeys(features(lower(plain(text[:MAX_CHARACTERS])))))


def evaluate(model: Model, rows: Sequence[Row]) -> Scores:
    """How often and how surely `model` is right about `rows`; for ISIC by section."""
    said, sure = [], []
    for row in rows:
        scored = _by_broad(model.scored(lower(plain(row.text[:MAX_CHARACTERS]))).chances, model, add=True)
        best = max(scored, key=scored.__getitem__)
        said.append(best)
        sure.append(model.confidence(scored[best]))
    return scores_of([broad(row.label, model.taxonomy) for row in rows], said, sure)


def scores_of(wanted: Sequence[str], said: Sequence[str | None], sure: Sequence[float]) -> Scores:
    """The scores of answers `said`, each as sure as `sure`, where `wanted` were right."""
    if not wanted:
        raise TrainingError("no row to measure by")
    right = np.array([one == other for one, other in zip(wanted, said, strict=True)], dtype=float)
    labels = {}
    for label in sorted(set(wanted)):
        hits = sum(1 for one, other in zip(wanted, said, strict=True) if one == other == label)
        rows, answers = wanted.count(label), list(said).count(label)
        recall, precision = hits / rows, hits / answers if answers else 0.0
        labels[label] = Score(recall, precision, 2 * hits / (rows + answers), rows)
    macro = sum(score.f1 for score in labels.values()) / len(labels)
    return Scores(float(right.mean()), macro, _ece(np.array(sure), right), labels)


def _ece(sure: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    gaps = [abs(float((sure[bins == each] - right[bins == each]).sum())) for each in range(_BINS)]
    return sum(gaps) / len(sure)


def _check(rows: Sequence[Row], taxonomy: Taxonomy) -> None:
    for number, row in enumerate(rows, 1):
        try:
            check_label(row.label, taxonomy)
        except ValueError as error:
            raise TrainingError(f"row {number}: {error}") from error
    if len({row.label for row in rows}) < 2:
        raise TrainingError("rows of at least two labels are needed")


def _fold(text: str) -> int:
    """The fold of a text, by its first two words: what is said of one company must not be on both sides."""
    start = " ".join(text.lower().split()[:2])
    return zlib.crc32((start if start.isascii() else text[:4]).encode(errors="replace")) % _FOLDS


def _target(label: str, labels: Sequence[str]) -> Floats:
    """Which of `labels` a row may be: its own one, or for a section that is none of them each of its divisions."""
    same = np.array([each == label for each in labels], dtype=np.float32)
    if same.any() or label not in SECTIONS:
        return same
    return np.array([section_of(each) == label for each in labels], dtype=np.float32)


def _labels(rows: Sequence[Row], taxonomy: Taxonomy) -> tuple[str, ...]:
    """The labels of a model, those of one section side by side. A section with rows of its divisions is none."""
    found = {row.label for row in rows}
    if taxonomy == "isic":
        divided = {section_of(label) for label in found if label not in SECTIONS}
        found -= {label for label in found if label in SECTIONS and label in divided}
    return tuple(sorted(found, key=lambda label: (broad(label, taxonomy), label)))


def _by_broad(values: Floats, model: Model, add: bool = False) -> dict[str, float]:
    merged: dict[str, float] = {}
    for label, value in zip(model.labels, values.tolist(), strict=True):
        section = broad(label, model.taxonomy)
        if add:
            merged[section] = merged.get(section, 0.0) + value
        else:
            merged[section] = float(np.logaddexp(merged.get(section, -np.inf), value))
    return merged


def _sure(model: Model, scores: Sequence[dict[str, float]], wanted: Sequence[str]) -> Model:
    """`model` with the confidence that fits: what it said of texts that it had not seen, and what was right."""
    names = sorted(set(chain.from_iterable(scores)))
    table = np.array([[each.get(name, -30.0) for name in names] for each in scores], dtype=np.float32)
    truth = np.array([names.index(label) for label in wanted])

    def loss(temperature: float) -> float:
        chances = softmax(table / np.float32(temperature))[np.arange(len(truth)), truth]
        return -float(np.log(chances + 1e-9).mean())

    temperature = min(np.geomspace(0.2, 5.0, 81).tolist(), key=loss)
    chances = softmax(table / np.float32(temperature))
    said, true = _curve(chances.max(axis=1), chances.argmax(axis=1) == truth)
    return replace(model, temperature=temperature, said=said, true=true)


def _curve(chances: Floats, right: NDArray[np.bool_]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """How often answers with a chance are right: the means of equally many answers each, never going down."""
    parts = min(len(chances) // _POINT, _POINTS)
    if parts < 2:
        return (0.0, 1.0), (0.0, 1.0)
    order = np.argsort(chances, kind="stable")
    said = [float(chances[part].mean()) for part in np.array_split(order, parts)]
    true = np.maximum.accumulate([float(right[part].mean()) for part in np.array_split(order, parts)]).tolist()
    return (0.0, *said, 1.0), (0.0, *true, true[-1])


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some rows as a table of the features that are in any of them."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]  # which features
    places: tuple[NDArray[np.intp], NDArray[np.intp]]
    values: Floats

    def table(self) -> Floats:
        filled = np.zeros((len(self.rows), len(self.columns)), dtype=np.float32)
        filled[self.places] = self.values
        return filled


def _learn(rows: Sequence[Row], lists: Sequence[list[Feature]], taxonomy: Taxonomy, effort: Effort) -> Model:
    labels = _labels(rows, taxonomy)
    vocabulary, rarity = _vocabulary(lists, effort)
    targets = np.array([_target(row.label, labels) for row in rows])
    times = _times(rows, taxonomy, effort.balance)
    random = np.random.default_rng(1)
    order = random.permutation(len(rows))
    batches = [_batch(order[at : at + _BATCH], lists, vocabulary, rarity) for at in range(0, len(order), _BATCH)]
    weights = np.zeros((len(vocabulary), len(labels)), dtype=np.float32)
    squares = np.full_like(weights, 1e-8)
    bias = np.zeros(len(labels), dtype=np.float32)
    bias_squares = np.full_like(bias, 1e-8)
    decay = np.float32(effort.decay / len(rows))
    rounds = max(effort.rounds, _STEPS // len(batches))
    for turn in range(rounds):
        rate = np.float32(effort.rate * (1 - turn / rounds))
        for number in random.permutation(len(batches)):
            batch = batches[number]
            table = batch.table()
            own = weights[batch.columns]
            chances = softmax(table @ own + bias)
            aims = chances * targets[batch.rows]
            aims /= np.maximum(aims.sum(axis=1, keepdims=True), 1e-12)
            errors = (chances - aims) * (times[batch.rows, None] / np.float32(len(batch.rows)))
            slope = table.T @ errors
            slope += decay * own
            squares[batch.columns] += slope * slope
            weights[batch.columns] = own - rate * slope / np.sqrt(squares[batch.columns])
            down = errors.sum(axis=0)
            bias_squares += down * down
            bias -= rate * np.float32(0.1) * down / np.sqrt(bias_squares)
    return Model.of(taxonomy, labels, vocabulary, Exact(weights, rarity, bias, 1.0))


def _vocabulary(lists: Sequence[list[Feature]], effort: Effort) -> tuple[dict[Feature, int], Floats]:
    """The features that are in enough texts, the commonest first, and how rare each is."""
    counts = Counter(chain.from_iterable(lists))
    kept = [pair for pair in counts.items() if pair[1] >= effort.rare]
    kept.sort(key=lambda pair: (-pair[1], written(pair[0])))
    kept = kept[: effort.most]
    if not kept:
        raise TrainingError("no word in the rows is in enough of them")
    numbers = np.array([count for _, count in kept], dtype=np.float32)
    # In halves, as in a file: a model that is loaded is to say the same.
    rarity = (np.log((1 + len(lists)) / (1 + numbers)) + 1).astype(np.float16).astype(np.float32)
    return {feature: row for row, (feature, _) in enumerate(kept)}, rarity


def _times(rows: Sequence[Row], taxonomy: Taxonomy, balance: float) -> Floats:
    """How much each row counts, one on average."""
    shares: dict[str, float] = defaultdict(float)
    for row in rows:
        shares[broad(row.label, taxonomy)] += row.times
    times = [row.times / shares[broad(row.label, taxonomy)] ** balance for row in rows]
    return np.array(times, dtype=np.float32) / np.float32(sum(times) / len(times))


def _batch(
    rows: NDArray[np.intp], lists: Sequence[list[Feature]], vocabulary: dict[Feature, int], rarity: Floats
) -> _Batch:
    known = [[vocabulary[each] for each in lists[row] if each in vocabulary] for row in rows]
    found = np.array(list(chain.from_iterable(known)), dtype=np.intp)
    at = np.repeat(np.arange(len(rows)), [len(each) for each in known])
    columns, places = np.unique(found, return_inverse=True)
    values = rarity[found]
    lengths = np.sqrt(np.bincount(at, weights=values * values, minlength=len(rows)) + LITTLE)
    return _Batch(rows, columns, (at, places), (values / lengths[at]).astype(np.float32))
