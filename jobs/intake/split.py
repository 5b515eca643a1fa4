"""Files that hold several documents: JSON lines, values one after the other, and lines of batches with several answers.

Each document is split off with its own bytes; none is merged with another, and none is dropped.
"""

import re
from collections.abc import Iterator
from itertools import islice

import msgspec

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import binary, brackets, encodings, envelope, fences, strict
from llm_scheduler.jobs.intake.reasoning import without_thoughts
from llm_scheduler.jobs.intake.rejection import Refused
from llm_scheduler.jobs.intake.strict import Limits

LINE_ENDINGS = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
MOST = 100_000
_LOOKED_AT = 20  # lines, of which one at least is a document, or the text is not made of such lines
_BETWEEN = re.compile(r"[\s,\x1e]*")  # RFC 7464 puts a record separator (0x1E) before each value
_MOSTLY = 0.8  # of the lines are documents, where some don't even begin like one


def is_by_line(name: str) -> bool:
    """Whether a file of this name holds one document a line."""
    return name.lower().endswith(LINE_ENDINGS)


def split(raw: bytes, name: str, limits: Limits, most: int = MOST) -> list[bytes]:
    """The documents in `raw`, each with its own bytes; `[raw]` where it is one.

    `name` is the file's: `.jsonl` and `.ndjson` hold a document a line, whatever each of them is. Raises `Refused`
    (too_large) when there are more than `most`.
    """
    if raw.startswith(binary.GZIP):
        try:
            plain = binary.gunzip(raw, limits.max_bytes)
        except Refused:
            return [raw]
        parts = split(plain, name, limits, most)
        return [raw] if len(parts) == 1 and not is_by_line(name) else parts
    if strict.is_strict(raw, limits):
        return _answers([strict.body(raw)], most) if b'"custom_id"' in raw else [raw]
    if is_by_line(name):
        return _answers(_lines(raw, most), most) or [raw]
    if len(raw) > limits.max_bytes:
        return [raw]
    parts = _sequence(raw, most)
    return _answers(parts, most) if len(parts) > 1 else [raw]


def _lines(raw: bytes, most: int) -> list[bytes]:
    """The lines of a file of lines that are not blank."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in raw[:4]:
        try:
            raw = encodings.decode(raw).text.encode()
        except Refused:
            return []
    if binary.kind_of(raw):
        return []
    lines = list(islice((line for line in strict.body(raw).split(b"\n") if line.strip()), most + 1))
    _refuse_more(len(lines), most)
    return [line.strip() for line in lines]


def _refuse_more(count: int, most: int) -> None:
    if count > most:
        raise Refused(Code.TOO_LARGE, f"The file holds more than {most} documents (intake.max_lines).")


def _sequence(raw: bytes, most: int) -> list[bytes]:
    """The values of a text that is nothing but values; fewer than two where it is anything else."""
    try:
        draft = without_thoughts(encodings.decode(raw))
    except Refused:
        return []
    draft = fences.only(draft) or draft
    text = draft.text
    if not text.lstrip().startswith(("{", "[", "\x1e")):
        return []
    return [part.encode() for part in _by_lines(text, most) or _by_brackets(text, most)]


def _by_lines(text: str, most: int) -> list[str]:
    if text.count("\n") > 2 * most:  # most of a printed document's lines are no documents
        return []
    lines = [line.strip().strip("\x1e") for line in text.split("\n")]
    lines = [line for line in lines if line]
    if not any(map(_is_value, lines[:_LOOKED_AT])):
        return []
    good = sum(_is_value(line) for line in lines)
    begun = all(line.startswith(("{", "[")) and len(line) > 1 for line in lines)
    enough = good >= 2 and (2 * good >= len(lines) if begun else good >= _MOSTLY * len(lines))
    return lines if enough or (good == 1 and len(lines) == 2 and begun) else []


def _by_brackets(text: str, most: int) -> list[str]:
    parts: list[str] = []
    for part in _segments(text):
        if part is None or (not parts and not _is_value(part)):
            return []
        parts.append(part)
        _refuse_more(len(parts), most)
    good = sum(_is_value(part) for part in parts)
    return parts if len(parts) > 1 and good >= 1 and 2 * good >= len(parts) else []


def _segments(text: str) -> Iterator[str | None]:
    """Values one after the other, the last as far as it goes; None where something else stands between."""
    place = _BETWEEN.match(text).end()  # type: ignore[union-attr]
    while place < len(text):
        if text[place] not in "[{":
            yield None
            return
        end = brackets.closing(text, place) or len(text)
        yield text[place:end]
        place = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]


def _is_value(text: str) -> bool:
    """Whether `text` is strictly an object or an array."""
    return brackets.overstep(text.encode(), 200) is None and strict.document_of(text) is not None


def _answers(parts: list[bytes], most: int) -> list[bytes]:
    """`parts`, the lines of batches among them with one answer each."""
    split_off: list[bytes] = []
    for part in parts:
        singles: list[bytes] = []
        if b'"custom_id"' in part and brackets.overstep(part, 200) is None:
            try:
                line = strict.value_of(part)
            except ValueError:
                line = None
            if envelope.is_envelope(line):
                singles = [msgspec.json.encode(single) for single in envelope.singles(line)]
        split_off += singles if len(singles) > 1 else [part]
    _refuse_more(len(split_off), most)
    return split_off
