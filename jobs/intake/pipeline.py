"""From bytes to a document: the steps in their order."""

from dataclasses import dataclass, replace
from typing import Any

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import binary, encodings, envelope, split, strict
from llm_scheduler.jobs.intake.draft import Draft
from llm_scheduler.jobs.intake.reasoning import without_thoughts
from llm_scheduler.jobs.intake.rejection import Refused
from llm_scheduler.jobs.intake.strict import Limits
from llm_scheduler.jobs.intake.unwrap import Found, isolate, unescaped
from llm_scheduler.jobs.receipt import Envelope, Quality, Repair, Warned


@dataclass(frozen=True)
class Reading:
    """A document: its JSON text, the value in it, and how far the two are from what arrived.

    `coverage` is the share of the words of the text that are in the document (None where nothing was mended);
    `tools` the libraries that agreed on a repair, and their releases; `text` is the original's
    own while `quality` is valid.
    """

    text: bytes
    value: Any
    quality: Quality
    repairs: tuple[Repair, ...] = ()
    warnings: tuple[Warned, ...] = ()
    coverage: float | None = None
    tools: tuple[tuple[str, str], ...] = ()
    envelope: Envelope | None = None
    refusal: Refused | None = None  # why, and where, it is not valid


@dataclass(frozen=True)
class Mending:
    """How much is spent on a text that is not strict. `max_bytes` 0: it is not mended, only unwrapped."""

    max_bytes: int = 128 * 1024
    seconds: float = 0.6


_DEFAULT = Mending()


def read(raw: bytes, limits: Limits, mending: Mending | None = None, *, opens: bool = True) -> Reading:
    """`raw` as a document: strictly, else unwrapped, else mended. Raises `Refused`.

    With `opens`, the line of a batch is opened, and the answer in it read.
    In the main thread, unless `mending.max_bytes` is 0: the time that repair may take is kept by a signal.
    """
    mending = mending or _DEFAULT
    receipts: tuple[Repair, ...] = ()
    if raw.startswith(binary.GZIP):
        raw = binary.gunzip(raw, limits.max_bytes)
        receipts = (Repair("decompress", "gzip"),)
    try:
        text, value = strict.read(raw, limits)
    except Refused as refusal:
        if refusal.code in (Code.TOO_LARGE, Code.EMPTY):
            raise
        reading = replace(_read_loosely(raw, limits, mending, refusal), refusal=refusal)
    else:
        twins = (_TWINS,) if strict.has_twins(text, value) else ()
        reading = Reading(text, value, Quality.VALID, warnings=twins)
        if opens and envelope.is_envelope(value):
            return _answer(value, limits, mending)
    if receipts:
        quality = Quality.REPAIRED if reading.quality is Quality.VALID else reading.quality
        reading = replace(reading, quality=quality, repairs=receipts + reading.repairs)
    return reading


_GUESSED_BYTES = 1024 * 1024


def glance(raw: bytes, name: str, limits: Limits) -> tuple[bool, Any]:
    """(whether a file called `name` with these bytes is complete beyond doubt, the value in it or None): the strict
    step alone. A file of lines never is: another line may follow."""
    try:
        _, value = strict.read(raw, limits)
    except Refused:
        return False, None
    if envelope.is_envelope(value):
        value = guess(raw, limits)
    return isinstance(value, dict | list | str) and not split.is_by_line(name), value


def guess(raw: bytes, limits: Limits) -> Any:
    """The value in `raw` as far as it can be had without mending, to be routed by; None where it can't."""
    if len(raw) > _GUESSED_BYTES:
        return None
    try:
        return read(raw, limits, Mending(max_bytes=0)).value
    except Refused:
        return None
    except Exception:  # a fault of ours: the worker comes upon it too, where it holds nobody else up
        return None


_TWINS = Warned("duplicate_key", "An object has a key more than once; the last one counts.")


def _answer(line: dict[str, Any], limits: Limits, mending: Mending) -> Reading:
    """The document inside the line of a batch."""
    answers = envelope.opened(line)
    text = answers.texts[0] if len(answers.texts) == 1 else "".join(answers.texts)
    try:
        reading = read(text.encode("utf-8", "surrogatepass"), limits, mending, opens=False)
    except Refused as refusal:
        if answers.cut and refusal.code in (Code.INVALID_JSON, Code.EMPTY):
            raise Refused(
                Code.TRUNCATED, f"The model was stopped at its limit of tokens. {refusal.message}", refusal.position
            ) from None
        raise
    quality = Quality.TRUNCATED if answers.cut else reading.quality
    return replace(reading, quality=quality, envelope=answers.envelope)


def _read_loosely(raw: bytes, limits: Limits, mending: Mending, refusal: Refused) -> Reading:
    """What is not strict. `refusal` says why it isn't, and where: the best that can be said if all else fails."""
    draft = encodings.decode(raw)
    if not draft.text:
        raise refusal  # nothing but NULs, say
    if refusal.code is Code.TOO_DEEP:
        raise refusal
    if draft.repairs:
        strict.check_depth(draft.text.encode(), draft.text.encode(), limits.max_depth)
        if (reading := _as_it_is(draft)) is not None:
            return reading
    try:
        draft = without_thoughts(draft)
        if (plain := unescaped(draft)) is not None:
            draft = plain
        found = isolate(draft)
        if (plain := unescaped(found.draft)) is not None:
            found = replace(found, draft=plain, value=None)
        if (reading := _as_it_is(found.draft, found.value)) is not None:
            return reading
        return _mended(found, mending)
    except Refused as error:
        if error.code is Code.INVALID_JSON and refusal.code is Code.INVALID_JSON:
            raise Refused(Code.INVALID_JSON, _both(refusal, error), refusal.position, cut=error.cut) from None
        raise


def _as_it_is(draft: Draft, value: Any = None) -> Reading | None:
    """The reading of a draft that has become strict; of `value`, where that is known to be what it says."""
    text = draft.text.strip().encode()
    try:
        value = strict.value_of(text) if value is None else value
    except ValueError:
        return None
    if not isinstance(value, dict | list):
        return None
    quality = Quality.TRUNCATED if draft.cut else Quality.REPAIRED
    warnings = (_TWINS,) if strict.has_twins(text, value) else ()
    # Python takes more characters for white space than JSON does.
    repairs = draft.repairs or (draft.receipt("unwrap", "white_space", 0, "", ""),)
    return Reading(text, value, quality, repairs, warnings)


def _mended(found: Found, mending: Mending) -> Reading:
    from llm_scheduler.jobs.intake.repair import mend  # 60 ms and 12 MB of libraries, which only those pay who mend

    size = len(found.draft.text.encode())
    if not found.mendable or not mending.max_bytes:
        raise Refused(Code.INVALID_JSON, "It was not mended.")
    if size > mending.max_bytes:
        raise Refused(
            Code.INVALID_JSON, f"{size} bytes are too many to mend; intake.repair_max_bytes is {mending.max_bytes}."
        )
    mended = mend(found, mending.seconds)
    return Reading(
        mended.text,
        strict.value_of(mended.text),
        mended.quality,
        mended.draft.repairs,
        (),
        mended.coverage,
        mended.tools,
    )


def _both(refusal: Refused, error: Refused) -> str:
    """Where the text is not strict, and why it was not mended."""
    return refusal.message if error.message in refusal.message else f"{refusal.message} {error.message}"
