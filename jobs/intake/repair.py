"""Mending the one value that a text was meant to be, step by step, the surest step first."""

import json
import re
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import jiter
import msgspec

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import agreement, brackets, doubts, rewrite, syntax_fix, words
from llm_scheduler.jobs.intake.draft import RECEIPTS, Draft
from llm_scheduler.jobs.intake.rejection import Refused
from llm_scheduler.jobs.intake.strict import value_of
from llm_scheduler.jobs.intake.unwrap import Found
from llm_scheduler.jobs.receipt import Quality

KEPT = 0.88  # of the words that came
KEPT_OF_CUT = 0.80
KNOWN = 0.97  # of the words that went out

_TRAILING_NUMBER = re.compile(r"[-+.\deE]+\Z")


@dataclass(frozen=True)
class Mended:
    """A value with the text it is published as, and how it came about. `tools` are the libraries that agreed."""

    text: bytes
    value: Any
    draft: Draft
    quality: Quality
    coverage: float
    tools: tuple[tuple[str, str], ...] = ()


def mend(found: Found, seconds: float) -> Mended:
    """The value that `found` was meant to be. Raises `Refused` when that is not beyond doubt."""
    draft = found.draft
    cut = draft.cut or brackets.is_open(draft.text)
    if cut and (whole := _up_to_the_cut(draft)):
        return whole
    doubts.refuse_inventions(draft)
    amended = draft
    for step in (_slips, rewrite.punctuation, _slips, rewrite.controls, rewrite.escapes, _slips):
        amended = step(amended)
        if (value := _strict(amended.text)) is not None:
            text = amended.text.strip().encode()
            return _checked(Mended(text, value, amended, Quality.REPAIRED, 1.0))
    by_grammar = rewrite.by_grammar(amended.text)
    if not by_grammar:
        amended = rewrite.escapes(rewrite.controls(draft))  # other quotes did not help, so they are left as they are
        by_grammar = rewrite.by_grammar(amended.text)
    if brackets.is_open(amended.text) and (whole := _up_to_the_cut(amended)):
        return whole
    agreed = agreement.agree(amended.text, seconds)
    if by_grammar:
        return _checked(_by_grammar(amended, *by_grammar, agreed))
    if agreed is None:
        raise Refused(Code.INVALID_JSON, "Not valid JSON, and what was meant is not beyond doubt.", cut=cut)
    return _checked(_by_agreement(amended, agreed))


def _slips(draft: Draft) -> Draft:
    return syntax_fix.mend(draft) or draft


def _strict(text: str) -> Any:
    """The value of strict `text`, None when it is not strict."""
    try:
        return value_of(text.strip())
    except ValueError:
        return None


def _up_to_the_cut(draft: Draft) -> Mended | None:
    """What is there of a text that is strict JSON as far as it goes: a number or a word at the very end may be a part
    of a longer one, so it is left out; a string is kept as far as it goes."""
    text = draft.text
    if not _is_beginning(text):
        return None
    if not _in_string(text):
        text = _TRAILING_NUMBER.sub("", text)
    try:
        value = jiter.from_json(
            text.encode(),
            allow_inf_nan=False,
            partial_mode="trailing-strings",
            float_mode="lossless-float",
            cache_mode="none",
        )
        published = _lossless.encode(value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict | list) or not words.has_any(value_of(published)):
        raise Refused(Code.INVALID_JSON, "The text ends before hardly anything is there.", cut=True)
    receipt = draft.receipt("close", "cut_off", len(draft.text), draft.text[-20:], "")
    kept, _ = words.coverage(draft.text, published.decode())
    if kept < KEPT_OF_CUT:
        raise Refused(Code.INVALID_JSON, f"The text ends too early, and only {kept:.0%} of it would be kept.", cut=True)
    mended = replace(draft, repairs=(*draft.repairs, receipt), cut=True)
    return Mended(published, value_of(published), mended, Quality.TRUNCATED, round(kept, 4))


_WORDS = ("true", "false", "null")
_HALF_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")


def _is_beginning(text: str) -> bool:
    """Whether `text` is strict JSON as far as it goes."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        rest = text[error.pos :].rstrip()
        return (
            not rest
            or error.msg.startswith("Unterminated string")
            or any(word.startswith(rest) for word in _WORDS)
            or _TRAILING_NUMBER.fullmatch(rest) is not None
            or _HALF_ESCAPE.search(text) is not None
        )
    except (ValueError, RecursionError):
        pass
    return False


_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def _in_string(text: str) -> bool:
    strings = deque(_STRING.finditer(text), maxlen=1)
    last = strings[0] if strings else None
    return last is not None and last.end() == len(text) and (len(last[0]) < 2 or brackets.is_open(last[0]))


_lossless = msgspec.json.Encoder(enc_hook=lambda number: msgspec.Raw(str(number).encode()))


def _by_grammar(draft: Draft, code: str, value: Any, agreed: agreement.Agreed | None) -> Mended:
    try:
        text = agreement.encode(value)
    except (ValueError, TypeError) as error:
        raise Refused(Code.INVALID_JSON, f"Not valid JSON, and not to be mended: {error}.") from None
    slips: tuple[tuple[int, str], ...] = ()
    if agreed and agreement.same(agreed.value, value):
        text, value, slips = agreed.text, agreed.value, agreed.slips  # the same, with numbers as they were written
    return Mended(text, value, _receipted(draft, code, code, slips, text), Quality.REPAIRED, 1.0)


def _by_agreement(draft: Draft, agreed: agreement.Agreed) -> Mended:
    quality = Quality.REPAIRED if agreed.complete else Quality.TRUNCATED
    mended = _receipted(draft, "repair", "agreed", agreed.slips, agreed.text)
    doubts.refuse_losses(draft.text, agreed)
    doubts.refuse_loose_words(draft.text, agreed.value)
    doubts.refuse_swallowed(agreed.value)
    return Mended(agreed.text, agreed.value, mended, quality, 1.0, tuple(agreement.versions(agreed.tools).items()))


def _receipted(draft: Draft, step: str, code: str, slips: tuple[tuple[int, str], ...], text: bytes) -> Draft:
    """`draft` with a receipt for each of `slips`, or one of `code` for the whole where none is known."""
    receipts = [
        draft.receipt(step, slip, place, draft.text[place : place + 20], "") for place, slip in slips[:RECEIPTS]
    ]
    receipts = receipts or [draft.receipt(step, code, 0, draft.text, text.decode())]
    return replace(draft, repairs=(*draft.repairs, *receipts))


def _checked(mended: Mended) -> Mended:
    """`mended` with its coverage. Raises `Refused` where words were lost or made up, or what is left is no document."""
    value = mended.value
    if not isinstance(value, dict | list):
        raise Refused(Code.INVALID_JSON, "Not valid JSON: what could be made of it is no object and no array.")
    if not agreement.is_finite(value):
        raise Refused(Code.INVALID_JSON, f"Not valid JSON, and not to be mended: {doubts.REASONS['number']}.")
    doubts.refuse_odd_keys(value)
    kept, known = words.coverage(mended.draft.text, mended.text.decode())
    if not known:
        raise Refused(Code.INVALID_JSON, "Not valid JSON: hardly anything is there.", cut=True)
    least = KEPT_OF_CUT if mended.quality is Quality.TRUNCATED else KEPT
    if kept < least:
        raise Refused(Code.INVALID_JSON, f"Not valid JSON, and mending it would keep only {kept:.0%} of its words.")
    if known < KNOWN:
        raise Refused(Code.INVALID_JSON, f"Not valid JSON, and mending it would make up {1 - known:.0%} of its words.")
    return replace(mended, coverage=round(kept, 4))
