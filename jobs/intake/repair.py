"""Repairs the JSON value that a text was meant to be, the safest step first."""

import json
import re
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import jiter
import msgspec

from llm_scheduler.jobs.intake import agreement, brackets, doubts, rewrite, syntax_fix, words
from llm_scheduler.jobs.intake.draft import MAX_RECEIPTS, Draft
from llm_scheduler.jobs.intake.rejection import invalid_json
from llm_scheduler.jobs.intake.strict import value_of
from llm_scheduler.jobs.intake.unwrap import JsonSpan
from llm_scheduler.jobs.intake.values import is_finite, is_same
from llm_scheduler.jobs.receipt import Quality

MIN_KEPT = 0.88  # share of the words of the text that must be in the document
MIN_KEPT_OF_CUT = 0.80  # the same, for a truncated document
MIN_KNOWN = 0.97  # share of the words of the document that must be in the text

_TRAILING_NUMBER = re.compile(r"[-+.\deE]+\Z")


@dataclass(frozen=True)
class RepairedText:
    """A repaired value and the JSON text that is published. `tools`: (name, release) of the libraries that agreed."""

    text: bytes
    value: Any
    draft: Draft
    quality: Quality
    coverage: float
    tools: tuple[tuple[str, str], ...] = ()


def repair(span: JsonSpan, seconds: float) -> RepairedText:
    """The value that `span` was meant to be; each repair library may take `seconds`.

    Raises `IntakeRejection` when the meaning is not beyond doubt.
    """
    draft = span.draft
    cut = draft.cut or brackets.is_open(draft.text)
    if cut and (closed := _close(draft)):
        return closed
    doubts.reject_unknown_values(draft)
    fixed = draft
    for step in (_fix, rewrite.punctuation, _fix, rewrite.controls, rewrite.escapes, _fix):
        fixed = step(fixed)
        try:
            value = value_of(fixed.text.strip())
        except ValueError:
            continue
        if value is not None:
            text = fixed.text.strip().encode()
            return _checked(RepairedText(text, value, fixed, Quality.REPAIRED, 1.0))
    by_grammar = rewrite.by_grammar(fixed.text)
    if not by_grammar:
        fixed = rewrite.escapes(rewrite.controls(draft))  # the other rewrites did not help, so they are dropped
        by_grammar = rewrite.by_grammar(fixed.text)
    if brackets.is_open(fixed.text) and (closed := _close(fixed)):
        return closed
    agreed = agreement.agree(fixed.text, seconds)
    if by_grammar:
        return _checked(_by_grammar(fixed, *by_grammar, agreed))
    if agreed is None:
        raise invalid_json("Not valid JSON, and what was meant is not beyond doubt.", cut=cut)
    return _checked(_by_agreement(fixed, agreed))


def _fix(draft: Draft) -> Draft:
    return syntax_fix.fix(draft) or draft


def _close(draft: Draft) -> RepairedText | None:
    """The document of a text that is strict JSON up to where it was cut off; None for any other text.

    A number or a literal at the end is left out, since it may be incomplete. A string at the end is kept as it is.
    """
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
        raise invalid_json("The text ends too early, and there is hardly anything in it.", cut=True)
    receipt = draft.receipt("close", "cut_off", len(draft.text), draft.text[-20:], "")
    kept, _ = words.coverage(draft.text, published.decode())
    if kept < MIN_KEPT_OF_CUT:
        raise invalid_json(f"The text ends too early, and only {kept:.0%} of it would be kept.", cut=True)
    closed = replace(draft, repairs=(*draft.repairs, receipt), cut=True)
    return RepairedText(published, value_of(published), closed, Quality.TRUNCATED, round(kept, 4))


_LITERALS = ("true", "false", "null")
_HALF_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")


def _is_beginning(text: str) -> bool:
    """Whether `text` is the beginning of strict JSON."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        rest = text[error.pos :].rstrip()
        return (
            not rest
            or error.msg.startswith("Unterminated string")
            or any(word.startswith(rest) for word in _LITERALS)
            or _TRAILING_NUMBER.fullmatch(rest) is not None
            or _HALF_ESCAPE.search(text) is not None
        )
    except (ValueError, RecursionError):
        pass
    return False


def _in_string(text: str) -> bool:
    """Whether `text` ends inside a string."""
    strings = deque(brackets.STRINGS.finditer(text), maxlen=1)
    last = strings[0] if strings else None
    return last is not None and last.end() == len(text) and (len(last[0]) < 2 or brackets.is_open(last[0]))


_lossless = msgspec.json.Encoder(enc_hook=lambda number: msgspec.Raw(str(number).encode()))


def _by_grammar(draft: Draft, code: str, value: Any, agreed: agreement.AgreedRepair | None) -> RepairedText:
    try:
        text = agreement.encode(value)
    except (ValueError, TypeError) as error:
        raise invalid_json(f"Not valid JSON, and it cannot be repaired: {error}.") from None
    changes: tuple[tuple[int, str], ...] = ()
    if agreed and is_same(agreed.value, value):
        text, value, changes = agreed.text, agreed.value, agreed.changes  # with numbers as they were written
    return RepairedText(text, value, _with_receipts(draft, code, code, changes, text), Quality.REPAIRED, 1.0)


def _by_agreement(draft: Draft, agreed: agreement.AgreedRepair) -> RepairedText:
    quality = Quality.REPAIRED if agreed.complete else Quality.TRUNCATED
    doubts.reject_losses(draft.text, agreed)
    doubts.reject_unquoted_strings(draft.text, agreed.value)
    doubts.reject_merged_strings(agreed.value)
    draft = _with_receipts(draft, "repair", "agreed", agreed.changes, agreed.text)
    return RepairedText(agreed.text, agreed.value, draft, quality, 1.0, agreed.tools)


def _with_receipts(draft: Draft, step: str, code: str, changes: tuple[tuple[int, str], ...], text: bytes) -> Draft:
    """`draft` with a receipt for each of `changes`; without any, one receipt of `code` for the whole text."""
    receipts = [
        draft.receipt(step, name, place, draft.text[place : place + 20], "") for place, name in changes[:MAX_RECEIPTS]
    ]
    receipts = receipts or [draft.receipt(step, code, 0, draft.text, text.decode())]
    return replace(draft, repairs=(*draft.repairs, *receipts))


def _checked(done: RepairedText) -> RepairedText:
    """`done` with its coverage. Raises `IntakeRejection` when words were lost or invented, or little is left."""
    value = done.value
    if not isinstance(value, dict | list):
        raise invalid_json("Not valid JSON: the repaired value is not an object or an array.")
    if not is_finite(value):
        raise invalid_json(f"Not valid JSON, and it cannot be repaired: {doubts.REASONS['number']}.")
    doubts.reject_odd_keys(value)
    kept, known = words.coverage(done.draft.text, done.text.decode())
    if not known:
        raise invalid_json("Not valid JSON: there is hardly anything in it.", cut=True)
    if kept < (MIN_KEPT_OF_CUT if done.quality is Quality.TRUNCATED else MIN_KEPT):
        raise invalid_json(f"Not valid JSON, and a repair would keep only {kept:.0%} of its words.")
    if known < MIN_KNOWN:
        raise invalid_json(f"Not valid JSON, and a repair would invent {1 - known:.0%} of its words.")
    return replace(done, coverage=round(kept, 4))
