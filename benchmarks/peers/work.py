"""The work on one document, the same for every contender.

It needs only msgspec, so that it can be imported in each contender's environment.
"""

import hashlib
import os
from typing import Any

import msgspec

KEYWORDS: dict[str, tuple[str, ...]] = {
    "billing": ("invoice", "payment", "refund", "discount"),
    "shipping": ("parcel", "warehouse", "courier", "pallet"),
    "security": ("password", "certificate", "breach", "audit"),
    "engineering": ("deploy", "latency", "database", "release"),
}

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_made: set[str] = set()


class Result(msgspec.Struct):
    """What a contender writes: the document and its classification, like the project's own results."""

    source: str
    status: str
    sha256: str
    document: msgspec.Raw
    result: dict[str, Any]


def classify(document: Any) -> dict[str, Any]:
    """The category with the most keywords in the text, and the counts."""
    text = document["content"].lower()
    scores = {name: sum(map(text.count, words)) for name, words in KEYWORDS.items()}
    category = max(scores, key=lambda name: scores[name]) if any(scores.values()) else "other"
    return {"category": category, "scores": scores, "words": len(text.split()), "characters": len(text)}


def write_result(spool: str, source: str) -> str:
    """Read, parse and classify `raw/<source>`, and write its result under a hidden name. Returns that path."""
    with open(os.path.join(spool, "raw", source), "rb") as file:
        raw = file.read()
    result = Result(source, "done", hashlib.sha256(raw).hexdigest(), msgspec.Raw(raw), classify(_decode(raw)))
    target = os.path.join(spool, "processed", source)
    make(os.path.dirname(target))
    unfinished = os.path.join(os.path.dirname(target), f".{os.path.basename(source)}.tmp")
    with open(unfinished, "wb") as file:
        file.write(_encode(result))
    return unfinished


def place(spool: str, source: str, unfinished: str) -> None:
    """Rename a result into place and its original into the archive."""
    os.rename(unfinished, os.path.join(spool, "processed", source))
    home = os.path.join(spool, "archive", source)
    make(os.path.dirname(home))
    os.rename(os.path.join(spool, "raw", source), home)


def finish(spool: str, source: str) -> None:
    """The whole task for one document. If it is gone, another worker has done it."""
    try:
        place(spool, source, write_result(spool, source))
    except FileNotFoundError:
        if os.path.exists(os.path.join(spool, "raw", source)):
            raise


def make(folder: str) -> None:
    """Make a folder, unless this process has done so before."""
    if folder not in _made:
        os.makedirs(folder, exist_ok=True)
        _made.add(folder)
