"""Splits files of several documents: JSON lines, values one after the other, and batch lines with several answers.

Each document keeps its own bytes. Documents are never merged, and none is dropped.
"""

import re
from collections.abc import Iterator
from itertools import islice

import msgspec

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import binary, brackets, encodings, envelope, fences, strict
from llm_scheduler.jobs.intake.limits import IntakeLimits
from llm_scheduler.jobs.intake.reasoning import without_reasoning
from llm_scheduler.jobs.intake.rejection import IntakeRejection

LINE_SUFFIXES = (".jsonl", ".ndjson")
MAX_DOCUMENTS = 100_000
_MAX_DEPTH = 200  # of a value that is parsed here
_FIRST_LINES = 20  # one of them must be a document, else the text is not JSON lines
_MIN_SHARE = 0.8  # share of lines that must be documents when some lines do not begin like one
_BETWEEN = re.compile(r"[\s,\x1e]*")  # RFC 7464 puts a record separator (0x1E) before each value


def is_by_line(name: str) -> bool:
    """Whether a file of this name holds one document per line."""
    return name.lower().removesuffix(".gz").endswith(LINE_SUFFIXES)


def split(raw: bytes, name: str, limits: IntakeLimits, max_documents: int = MAX_DOCUMENTS) -> list[bytes]:
    """The documents in the file `name`, each with its own bytes; `[raw]` for one document.

    In `.jsonl` and `.ndjson` files every line is a document, even a broken one. Raises `IntakeRejection` (too_large)
    for more than `max_documents`.
    """
    if raw.startswith(binary.GZIP):
        try:
            plain = binary.gunzip(raw, limits.max_bytes)
        except IntakeRejection:
            return [raw]
        parts = split(plain, name, limits, max_documents)
        return [raw] if len(parts) == 1 and not is_by_line(name) else parts
    if strict.is_strict(raw, limits):
        return _single_answers([strict.body(raw)], max_documents) if b'"custom_id"' in raw else [raw]
    if is_by_line(name):
        return _single_answers(_lines(raw, max_documents), max_documents) or [raw]
    if len(raw) > limits.max_bytes:
        return [raw]
    parts = _sequence(raw, max_documents)
    return _single_answers(parts, max_documents) if len(parts) > 1 else [raw]


def _lines(raw: bytes, max_documents: int) -> list[bytes]:
    """The lines that are not blank; none for a binary file."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in raw[:4]:
        try:
            raw = encodings.decode(raw).text.encode()
        except IntakeRejection:
            return []
    if binary.format_of(raw):
        return []
    stripped = (line.strip() for line in strict.body(raw).split(b"\n"))
    lines = list(islice(filter(None, stripped), max_documents + 1))
    _check_count(len(lines), max_documents)
    return lines


def _check_count(count: int, max_documents: int) -> None:
    if count > max_documents:
        message = f"The file holds more than {max_documents} documents (intake.max_lines)."
        raise IntakeRejection(Code.TOO_LARGE, message)


def _sequence(raw: bytes, max_documents: int) -> list[bytes]:
    """The values of a text that holds only values; fewer than two for any other text."""
    try:
        draft = without_reasoning(encodings.decode(raw))
    except IntakeRejection:
        return []
    text = (fences.only_block(draft) or draft).text
    if not text.lstrip().startswith(("{", "[", "\x1e")):
        return []
    return [part.encode() for part in _by_lines(text, max_documents) or _by_brackets(text, max_documents)]


def _by_lines(text: str, max_documents: int) -> list[str]:
    if text.count("\n") > 2 * max_documents:  # an indented document: most of its lines are no documents
        return []
    lines = [line.strip().strip("\x1e") for line in text.split("\n")]
    lines = [line for line in lines if line]
    if not any(map(_is_document, lines[:_FIRST_LINES])):
        return []
    good = sum(_is_document(line) for line in lines)
    all_begin = all(line.startswith(("{", "[")) and len(line) > 1 for line in lines)
    enough = good >= 2 and (2 * good >= len(lines) if all_begin else good >= _MIN_SHARE * len(lines))
    return lines if enough or (good == 1 and len(lines) == 2 and all_begin) else []


def _by_brackets(text: str, max_documents: int) -> list[str]:
    parts: list[str] = []
    for part in _segments(text):
        if part is None or (not parts and not _is_document(part)):
            return []
        parts.append(part)
        _check_count(len(parts), max_documents)
    good = sum(map(_is_document, parts))
    return parts if len(parts) > 1 and 2 * good >= len(parts) else []


def _segments(text: str) -> Iterator[str | None]:
    """The bracketed parts of `text`; the last one may be cut off. Then None, if other text comes between them."""
    place = _BETWEEN.match(text).end()  # type: ignore[union-attr]
    while place < len(text):
        if text[place] not in "[{":
            yield None
            return
        end = brackets.closing(text, place) or len(text)
        yield text[place:end]
        place = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]


def _is_document(text: str) -> bool:
    """Whether `text` is strictly an object or an array."""
    return brackets.overstep(text.encode(), _MAX_DEPTH) is None and strict.document_of(text) is not None


def _single_answers(parts: list[bytes], max_documents: int) -> list[bytes]:
    """`parts`, with every batch line of several answers replaced by lines of one answer each."""
    found: list[bytes] = []
    for part in parts:
        singles: list[bytes] = []
        if b'"custom_id"' in part and brackets.overstep(part, _MAX_DEPTH) is None:
            try:
                line = strict.value_of(part)
            except ValueError:
                line = None
            if envelope.is_envelope(line):
                singles = [msgspec.json.encode(single) for single in envelope.single_answers(line)]
        found += singles if len(singles) > 1 else [part]
    _check_count(len(found), max_documents)
    return found
