"""Intake alone: valid and nearly valid documents through its steps, as ingest and a worker call them, on one core."""

import hashlib
import time
from collections.abc import Callable

import msgspec

from benchmarks.corpus import document
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.intake import strict

IN_INGEST = "guards and strict, as in ingest"
IN_WORKER = "whole, as in a worker (twin keys, too)"
_DOCUMENTS = 2000
_ROUNDS = 15
_LIMITS = intake.Limits(16 * 1024 * 1024, 200)


class Rate(msgspec.Struct, frozen=True):
    """Documents a second through a step; `size` is their average number of bytes."""

    step: str
    size: float
    per_second: float


def rates(rounds: int = _ROUNDS) -> list[Rate]:
    """Each step's best of several interleaved rounds, since others use the machine as well."""
    raws = [document(number) for number in range(_DOCUMENTS)]
    fenced = [b"```json\n" + raw + b"\n```" for raw in raws[:200]]
    slipped = [raw.rstrip()[:-1] + b",}" for raw in raws[:200]]
    steps: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
        IN_INGEST: (lambda raw: strict.read(raw, _LIMITS), raws),
        "the same with the SHA-256": (_with_hash, raws),
        IN_WORKER: (lambda raw: intake.read(raw, _LIMITS), raws),
        "whole, the document in a fence": (lambda raw: intake.read(raw, _LIMITS), fenced),
        "whole, a comma too many": (lambda raw: intake.read(raw, _LIMITS), slipped),
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
