"""The steps from bytes to a document, in their order: docs/intake.md lists them."""

from dataclasses import replace
from typing import Any

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import binary, encodings, envelope, strict
from llm_scheduler.jobs.intake.draft import Draft, ReadDocument
from llm_scheduler.jobs.intake.limits import IntakeLimits
from llm_scheduler.jobs.intake.reasoning import without_reasoning
from llm_scheduler.jobs.intake.rejection import IntakeRejection, invalid_json
from llm_scheduler.jobs.intake.unwrap import isolate, unescaped
from llm_scheduler.jobs.receipt import DocumentWarning, Quality, Repair

_DUPLICATE_KEY = DocumentWarning("duplicate_key", "An object has a key more than once; the last one counts.")


def read(
    raw: bytes, limits: IntakeLimits, repair_max_bytes: int = 128 * 1024, *, open_envelope: bool = True
) -> ReadDocument:
    """The document in `raw`: strictly, else unwrapped, else repaired. Raises `IntakeRejection`.

    `repair_max_bytes`: the largest text that is repaired; 0: texts are only unwrapped. With `open_envelope`, the
    document of a provider's batch line is the answer in it. Only the main thread may repair, because a signal enforces
    the time limit.
    """
    receipts: tuple[Repair, ...] = ()
    if raw.startswith(binary.GZIP):
        raw = binary.gunzip(raw, limits.max_bytes)
        receipts = (Repair("decompress", "gzip"),)
    try:
        text, value = strict.read(raw, limits)
    except IntakeRejection as rejection:
        if rejection.code in (Code.TOO_LARGE, Code.EMPTY):
            raise
        document = replace(_read_loosely(raw, limits, repair_max_bytes, rejection), rejection=rejection)
    else:
        warnings = (_DUPLICATE_KEY,) if strict.has_duplicate_keys(text, value) else ()
        document = ReadDocument(text, value, Quality.VALID, warnings=warnings)
        if open_envelope and envelope.is_envelope(value):
            return _read_answer(value, limits, repair_max_bytes)
    if receipts:
        quality = Quality.REPAIRED if document.quality is Quality.VALID else document.quality
        document = replace(document, quality=quality, repairs=receipts + document.repairs)
    return document


def _read_answer(line: dict[str, Any], limits: IntakeLimits, repair_max_bytes: int) -> ReadDocument:
    """The document in a provider's batch line."""
    answers = envelope.answers_in(line)
    raw = answers.text.encode("utf-8", "surrogatepass")
    try:
        document = read(raw, limits, repair_max_bytes, open_envelope=False)
    except IntakeRejection as rejection:
        if answers.cut and rejection.code in (Code.INVALID_JSON, Code.EMPTY):
            message = f"The model was stopped at its limit of tokens. {rejection.message}"
            raise IntakeRejection(Code.TRUNCATED, message, rejection.position) from None
        raise
    quality = Quality.TRUNCATED if answers.cut else document.quality
    return replace(document, quality=quality, envelope=answers.envelope)


def _read_loosely(
    raw: bytes, limits: IntakeLimits, repair_max_bytes: int, strict_error: IntakeRejection
) -> ReadDocument:
    """The document in a text that is not strict JSON. `strict_error` is raised when no better reason is found."""
    draft = encodings.decode(raw)
    if not draft.text or strict_error.code is Code.TOO_DEEP:  # the text may be nothing but NUL bytes
        raise strict_error
    if draft.repairs:
        strict.check_depth(draft.text.encode(), draft.text.encode(), limits.max_depth)
        if (document := _as_document(draft)) is not None:
            return document
    try:
        draft = without_reasoning(draft)
        span = isolate(unescaped(draft) or draft)
        draft = unescaped(span.draft) or span.draft  # escapes outside of strings: then `span.value` is None
        if (document := _as_document(draft, span.value)) is not None:
            return document
        return _repaired(draft, repair_max_bytes)
    except IntakeRejection as error:
        if error.code is Code.INVALID_JSON and strict_error.code is Code.INVALID_JSON:
            message = strict_error.message  # where the text stops being JSON; then why it was not repaired
            message += "" if error.message in message else f" {error.message}"
            raise IntakeRejection(Code.INVALID_JSON, message, strict_error.position, cut=error.cut) from None
        raise


def _as_document(draft: Draft, value: Any = None) -> ReadDocument | None:
    """The document of a draft that is strict JSON by now; None if it is not. `value`: its value, if known already."""
    text = draft.text.strip().encode()
    try:
        value = strict.value_of(text) if value is None else value
    except ValueError:
        return None
    if not isinstance(value, dict | list):
        return None
    quality = Quality.TRUNCATED if draft.cut else Quality.REPAIRED
    warnings = (_DUPLICATE_KEY,) if strict.has_duplicate_keys(text, value) else ()
    # Without any receipt, `strip` removed white space that JSON does not know.
    repairs = draft.repairs or (draft.receipt("unwrap", "white_space", 0, "", ""),)
    return ReadDocument(text, value, quality, repairs, warnings)


def _repaired(draft: Draft, max_bytes: int) -> ReadDocument:
    from llm_scheduler.jobs.intake.repair import repair  # imported late: 60 ms and 12 MB of libraries

    size = len(draft.text.encode())
    if not max_bytes:
        raise invalid_json("It was not repaired.")
    if size > max_bytes:
        raise invalid_json(f"{size} bytes are too many to repair; intake.repair_max_bytes is {max_bytes}.")
    return repair(draft)
