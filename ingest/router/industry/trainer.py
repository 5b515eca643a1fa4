"""Training an industry model from labelled texts, and measuring one. The same rows always make the same model."""

import json
import lzma
import operator
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm_scheduler.ingest.router.industry.linear_model import (
    LENGTH_OFFSET,
    MAX_CHARACTERS,
    Feature,
    Floats,
    Model,
    Prediction,
    Taxonomy,
    broad_label,
    check_label,
    feature_text,
    features,
)
from llm_scheduler.ingest.router.industry.taxonomy import SECTIONS, section_of
from llm_scheduler.ingest.router.text import lower, normalized

_BATCH = 256  # rows
_MIN_STEPS = 200  # batches, where there are few rows
_FOLDS = 5
_MIN_CALIBRATION = 20  # unseen texts; with fewer the confidence is not calibrated
_MIN_PER_POINT, _MAX_POINTS = 40, 20  # answers for each point of the calibration curve, and its points
_LEVELS = 127  # of a weight in a model, on each side of zero
_BINS = 15  # of confidence, for the calibration error


class TrainingError(ValueError):
    """Rows from which no model can be trained; the message says which, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Row:
    """A text and its label. It counts as `weight` rows."""

    text: str
    label: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of one label, and the number of its rows."""

    recall: float
    precision: float
    f1: float
    rows: int


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of a model. `ece` is the expected calibration error: the mean gap between confidence and accuracy."""

    accuracy: float
    macro_f1: float
    ece: float
    labels: dict[str, Score]


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How to train: AdaGrad with a falling rate.

    `decay` pulls all weights to zero. `balance` gives rare labels more weight (0: none, 1: all labels weigh the same).
    A feature must be in `min_texts` texts; the `max_features` most common ones are kept.
    """

    rounds: int = 12
    rate: float = 0.7
    decay: float = 0.3
    balance: float = 0.0
    min_texts: int = 2
    max_features: int = 80_000


def read_rows(path: Path, taxonomy: Taxonomy = "own") -> list[Row]:
    """The rows of a file of JSON lines, `{"text": ..., "label": ...}`, compressed if its name ends in .xz.

    Raises TrainingError, which names the line, or OSError if the file can't be read.
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
        raise TrainingError(f'{where}: "text" is missing, empty or not a string; {form}')
    if not isinstance(label, str):
        raise TrainingError(f'{where}: "label" is missing or not a string; {form}')
    try:
        return Row(text, check_label(label, taxonomy))
    except ValueError as error:
        raise TrainingError(f"{where}: {error}") from error


def train(rows: Sequence[Row], taxonomy: Taxonomy = "isic", settings: Hyperparameters | None = None) -> Model:
    """The model of `rows`. Its confidence is calibrated by cross-validation. Raises TrainingError."""
    _check(rows, taxonomy)
    settings = settings or Hyperparameters(min_texts=1 if len(rows) < 500 else 2)
    lists = [_unique_features(row.text) for row in rows]
    folds = [_fold(row.text) for row in rows]
    scores, truths = [], []
    for fold in range(_FOLDS):
        inside = [place for place, own in enumerate(folds) if own != fold]
        outside = [place for place, own in enumerate(folds) if own == fold]
        if len({rows[place].label for place in inside}) < 2 or not outside:
            continue
        draft = _fit([rows[place] for place in inside], [lists[place] for place in inside], taxonomy, settings)
        for place in outside:
            row = rows[place]
            if _target(row.label, draft.labels).any():  # else only this fold has the label
                scores.append(_broad(np.log(_predict(draft, row.text).probabilities + 1e-9), draft))
                truths.append(broad_label(row.label, taxonomy))
    model = _fit(rows, lists, taxonomy, settings)
    return _calibrated(model, scores, truths) if len(scores) >= _MIN_CALIBRATION else model


def fit(rows: Sequence[Row], taxonomy: Taxonomy, settings: Hyperparameters) -> Model:
    """Like `train`, without calibration."""
    _check(rows, taxonomy)
    return _fit(rows, [_unique_features(row.text) for row in rows], taxonomy, settings)


def evaluate(model: Model, rows: Sequence[Row]) -> Scores:
    """The scores of `model` on `rows`; for ISIC by section."""
    answers, confidences = [], []
    for row in rows:
        sections = _broad(_predict(model, row.text).probabilities, model, add=True)
        best = max(sections, key=sections.__getitem__)
        answers.append(best)
        confidences.append(model.confidence(sections[best]))
    return score_answers([broad_label(row.label, model.taxonomy) for row in rows], answers, confidences)


def score_answers(truths: Sequence[str], answers: Sequence[str | None], confidences: Sequence[float]) -> Scores:
    """The scores of some answers. Raises TrainingError if there are none."""
    if not truths:
        raise TrainingError("no row to measure by")
    right = np.array([truth == answer for truth, answer in zip(truths, answers, strict=True)], dtype=float)
    labels = {}
    for label in sorted(set(truths)):
        hits = sum(1 for truth, answer in zip(truths, answers, strict=True) if truth == answer == label)
        rows, given = truths.count(label), list(answers).count(label)
        recall, precision = hits / rows, hits / given if given else 0.0
        labels[label] = Score(recall, precision, 2 * hits / (rows + given), rows)
    macro = sum(score.f1 for score in labels.values()) / len(labels)
    return Scores(float(right.mean()), macro, _calibration_error(np.array(confidences), right), labels)


def _calibration_error(confidences: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    bins = np.minimum((confidences * _BINS).astype(int), _BINS - 1)
    gaps = [abs(float((confidences[bins == each] - right[bins == each]).sum())) for each in range(_BINS)]
    return sum(gaps) / len(confidences)


def _predict(model: Model, text: str) -> Prediction:
    return model.predict(lower(normalized(text[:MAX_CHARACTERS])))


def _unique_features(text: str) -> list[Feature]:
    return list(dict.fromkeys(features(lower(normalized(text[:MAX_CHARACTERS])))))


def _check(rows: Sequence[Row], taxonomy: Taxonomy) -> None:
    for number, row in enumerate(rows, 1):
        try:
            check_label(row.label, taxonomy)
        except ValueError as error:
            raise TrainingError(f"row {number}: {error}") from error
    if len({row.label for row in rows}) < 2:
        raise TrainingError("rows of at least two labels are needed")


def _fold(text: str) -> int:
    """The fold of a text, by its first two words: all texts about one company must be in the same fold."""
    start = " ".join(text.lower().split()[:2])
    return zlib.crc32((start if start.isascii() else text[:4]).encode(errors="replace")) % _FOLDS


def _target(label: str, labels: Sequence[str]) -> Floats:
    """Which of `labels` are right for a row: its own, or for a section without a column each of its divisions."""
    same = np.array([each == label for each in labels], dtype=np.float32)
    if same.any() or label not in SECTIONS:
        return same
    return np.array([section_of(each) == label for each in labels], dtype=np.float32)


def _labels(rows: Sequence[Row], taxonomy: Taxonomy) -> tuple[str, ...]:
    """The labels of a model, those of one section together. A section is left out if its divisions have rows."""
    found = {row.label for row in rows}
    if taxonomy == "isic":
        divided = {section_of(label) for label in found if label not in SECTIONS}
        found -= {label for label in found if label in SECTIONS and label in divided}
    return tuple(sorted(found, key=lambda label: (broad_label(label, taxonomy), label)))


def _broad(values: Floats, model: Model, add: bool = False) -> dict[str, float]:
    """The values of a model's labels merged by section: logarithms, or with `add` plain probabilities."""
    merge, none = (operator.add, 0.0) if add else (np.logaddexp, -np.inf)
    merged: dict[str, float] = {}
    for label, value in zip(model.labels, values.tolist(), strict=True):
        section = broad_label(label, model.taxonomy)
        merged[section] = float(merge(merged.get(section, none), value))
    return merged


def _calibrated(model: Model, scores: Sequence[dict[str, float]], truths: Sequence[str]) -> Model:
    """`model` with the temperature and the curve that fit its answers for unseen texts."""
    names = sorted(set(chain.from_iterable(scores)))
    table = np.array([[each.get(name, -30.0) for name in names] for each in scores], dtype=np.float32)
    truth = np.array([names.index(label) for label in truths])

    def loss(temperature: float) -> float:
        probabilities = _softmax(table / np.float32(temperature))[np.arange(len(truth)), truth]
        return -float(np.log(probabilities + 1e-9).mean())

    temperature = min(np.geomspace(0.2, 5.0, 81).tolist(), key=loss)
    probabilities = _softmax(table / np.float32(temperature))
    predicted, actual = _curve(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth)
    return replace(model, temperature=temperature, predicted=predicted, actual=actual)


def _curve(probabilities: Floats, right: NDArray[np.bool_]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The calibration curve: each point is the mean of equally many answers, and no point is below the one before."""
    parts = min(len(probabilities) // _MIN_PER_POINT, _MAX_POINTS)
    if parts < 2:
        return (0.0, 1.0), (0.0, 1.0)
    groups = np.array_split(np.argsort(probabilities, kind="stable"), parts)
    predicted = [float(probabilities[group].mean()) for group in groups]
    actual = np.maximum.accumulate([float(right[group].mean()) for group in groups]).tolist()
    return (0.0, *predicted, 1.0), (0.0, *actual, actual[-1])


class _MiniBatch(NamedTuple):
    """Some rows as a table of the features in any of them: `values` stand at `places`, the rest is zero."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]  # the numbers of the features
    places: tuple[NDArray[np.intp], NDArray[np.intp]]
    values: Floats


def _fit(rows: Sequence[Row], lists: Sequence[list[Feature]], taxonomy: Taxonomy, settings: Hyperparameters) -> Model:
    labels = _labels(rows, taxonomy)
    vocabulary, rarity = _vocabulary(lists, settings)
    targets = np.array([_target(row.label, labels) for row in rows])
    row_weights = _row_weights(rows, taxonomy, settings.balance)
    random = np.random.default_rng(1)
    order = random.permutation(len(rows))
    batches = [_mini_batch(order[at : at + _BATCH], lists, vocabulary, rarity) for at in range(0, len(order), _BATCH)]
    weights = np.zeros((len(vocabulary), len(labels)), dtype=np.float32)
    squares = np.full_like(weights, 1e-8)
    bias = np.zeros(len(labels), dtype=np.float32)
    bias_squares = np.full_like(bias, 1e-8)
    decay = np.float32(settings.decay / len(rows))
    rounds = max(settings.rounds, _MIN_STEPS // len(batches))
    for turn in range(rounds):
        rate = np.float32(settings.rate * (1 - turn / rounds))
        for number in random.permutation(len(batches)):
            batch = batches[number]
            table = np.zeros((len(batch.rows), len(batch.columns)), dtype=np.float32)
            table[batch.places] = batch.values
            own = weights[batch.columns]
            probabilities = _softmax(table @ own + bias)
            aims = probabilities * targets[batch.rows]
            aims /= np.maximum(aims.sum(axis=1, keepdims=True), 1e-12)
            errors = (probabilities - aims) * (row_weights[batch.rows, None] / np.float32(len(batch.rows)))
            slope = table.T @ errors
            slope += decay * own
            squares[batch.columns] += slope * slope
            weights[batch.columns] = own - rate * slope / np.sqrt(squares[batch.columns])
            bias_slope = errors.sum(axis=0)
            bias_squares += bias_slope * bias_slope
            bias -= rate * np.float32(0.1) * bias_slope / np.sqrt(bias_squares)
    steps = np.maximum(np.abs(weights).max(axis=1, initial=0.0) / _LEVELS, 1e-12).astype(np.float32)
    quantized = np.rint(weights / steps[:, None]).astype(np.int8)
    return Model(taxonomy, labels, vocabulary, quantized, steps, rarity, bias)


def _softmax(scores: Floats) -> Floats:
    """The probabilities for `scores`, by row."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def _vocabulary(lists: Sequence[list[Feature]], settings: Hyperparameters) -> tuple[dict[Feature, int], Floats]:
    """The features that are in enough texts, the most common first, and their inverse document frequencies."""
    counts = Counter(chain.from_iterable(lists))
    kept = [pair for pair in counts.items() if pair[1] >= settings.min_texts]
    kept.sort(key=lambda pair: (-pair[1], feature_text(pair[0])))
    kept = kept[: settings.max_features]
    if not kept:
        raise TrainingError("no word in the rows is in enough of them")
    numbers = np.array([count for _, count in kept], dtype=np.float32)
    # In half precision, as in a file: a loaded model must give the same answers.
    rarity = (np.log((1 + len(lists)) / (1 + numbers)) + 1).astype(np.float16).astype(np.float32)
    return {feature: row for row, (feature, _) in enumerate(kept)}, rarity


def _row_weights(rows: Sequence[Row], taxonomy: Taxonomy, balance: float) -> Floats:
    """How much each row counts, one on average."""
    shares: dict[str, float] = defaultdict(float)
    for row in rows:
        shares[broad_label(row.label, taxonomy)] += row.weight
    weights = [row.weight / shares[broad_label(row.label, taxonomy)] ** balance for row in rows]
    return np.array(weights, dtype=np.float32) / np.float32(sum(weights) / len(weights))


def _mini_batch(
    rows: NDArray[np.intp], lists: Sequence[list[Feature]], vocabulary: dict[Feature, int], rarity: Floats
) -> _MiniBatch:
    known = [[vocabulary[each] for each in lists[row] if each in vocabulary] for row in rows]
    found = np.array(list(chain.from_iterable(known)), dtype=np.intp)
    at = np.repeat(np.arange(len(rows)), [len(each) for each in known])
    columns, places = np.unique(found, return_inverse=True)
    values = rarity[found]
    lengths = np.sqrt(np.bincount(at, weights=values * values, minlength=len(rows)) + LENGTH_OFFSET)
    return _MiniBatch(rows, columns, (at, places), (values / lengths[at]).astype(np.float32))
