"""Intake alone, on one core: valid and nearly valid documents, read as ingest and as a worker reads them."""

import hashlib
import time
from collections.abc import Callable

import msgspec

from benchmarks.corpus import document
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.intake import strict

IN_INGEST = "guards and strict, as in ingest"
IN_WORKER = "complete, as in a worker (duplicate keys, too)"
_DOCUMENTS = 2000
ROUNDS = 15
_LIMITS = intake.IntakeLimits(16 * 1024 * 1024, 200)


class Rate(msgspec.Struct, frozen=True):
    """Documents per second through a step. `size`: their mean number of bytes."""

    step: str
    size: float
    per_second: float


def rates(rounds: int) -> list[Rate]:
    """The best of several interleaved rounds for each step, since others use the machine as well."""
    raws = [document(number) for number in range(_DOCUMENTS)]
    fenced = [b"```json\n" + raw + b"\n```" for raw in raws[:200]]
    trailing_comma = [raw.rstrip()[:-1] + b",}" for raw in raws[:200]]
    steps: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
        IN_INGEST: (lambda raw: strict.read(raw, _LIMITS), raws),
        "the same with the SHA-256": (_with_hash, raws),
        IN_WORKER: (lambda raw: intake.read(raw, _LIMITS), raws),
        "complete, the document in a code fence": (lambda raw: intake.read(raw, _LIMITS), fenced),
        "complete, one comma too many": (lambda raw: intake.read(raw, _LIMITS), trailing_comma),
        "for comparison: msgspec alone": (msgspec.json.decode, raws),
    }
    best = dict.fromkeys(steps, 0.0)
    for _ in range(rounds):
        for name, (step, texts) in steps.items():
            began = time.perf_counter()
            for raw in texts:
                step(raw)
            best[name] = max(best[name], len(texts) / (time.perf_counter() - began))
    return [Rate(name, sum(map(len, steps[name][1])) / len(steps[name][1]), rate) for name, rate in best.items()]


def _with_hash(raw: bytes) -> object:
    hashlib.sha256(raw).hexdigest()
    return strict.read(raw, _LIMITS)
