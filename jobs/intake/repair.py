"""Repairs the JSON value that a text was meant to be, the safest step first."""

import json
import re
from dataclasses import replace
from typing import Any

import jiter
import msgspec

from llm_scheduler.jobs.intake import agreement, brackets, doubts, rewrite, words
from llm_scheduler.jobs.intake.draft import MAX_RECEIPTS, Draft, ReadDocument
from llm_scheduler.jobs.intake.rejection import invalid_json
from llm_scheduler.jobs.intake.strict import value_of
from llm_scheduler.jobs.intake.syntax_fix import fix
from llm_scheduler.jobs.intake.values import is_finite, is_same
from llm_scheduler.jobs.receipt import Quality

MIN_KEPT = 0.88  # share of the words of the text that must be in the document
MIN_KEPT_OF_CUT = 0.80  # the same, for a truncated document
MIN_KNOWN = 0.97  # share of the words of the document that must be in the text

_TRAILING_NUMBER = re.compile(r"[-+.\deE]+\Z")


def repair(draft: Draft) -> ReadDocument:
    """The document that `draft` was meant to be. Raises `IntakeRejection` when the meaning is not beyond doubt."""
    cut = draft.cut or brackets.is_open(draft.text)
    if cut and (closed := _close(draft)):
        return closed
    doubts.reject_unknown_values(draft)
    fixed = draft
    for step in (fix, rewrite.punctuation, fix, rewrite.controls, rewrite.escapes, fix):
        fixed = step(fixed)
        try:
            value = value_of(fixed.text.strip())
        except ValueError:
            continue
        if value is not None:
            return _checked(value, fixed.text.strip().encode(), fixed)
    by_grammar = rewrite.by_grammar(fixed.text)
    if not by_grammar:
        fixed = rewrite.escapes(rewrite.controls(draft))  # the other rewrites did not help, so they are dropped
        by_grammar = rewrite.by_grammar(fixed.text)
    if brackets.is_open(fixed.text) and (closed := _close(fixed)):
        return closed
    agreed = agreement.agree(fixed.text)
    if by_grammar:
        return _by_grammar(fixed, *by_grammar, agreed)
    if agreed is None:
        raise invalid_json("Not valid JSON, and what was meant is not beyond doubt.", cut=cut)
    return _by_agreement(fixed, agreed)


def _close(draft: Draft) -> ReadDocument | None:
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
    if not isinstance(value, dict | list) or not words.has_any(published.decode()):
        raise invalid_json("The text ends too early, and there is hardly anything in it.", cut=True)
    receipt = draft.receipt("close", "cut_off", len(draft.text), draft.text[-20:], "")
    kept, _ = words.coverage(draft.text, published.decode())
    if kept < MIN_KEPT_OF_CUT:
        raise invalid_json(f"The text ends too early, and only {kept:.0%} of it would be kept.", cut=True)
    repairs = (*draft.repairs, receipt)
    return ReadDocument(published, value_of(published), Quality.TRUNCATED, repairs, coverage=round(kept, 4))


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
    return any(token[1] == "" and token.end() == len(text) for token in brackets.TOKENS.finditer(text))


_lossless = msgspec.json.Encoder(enc_hook=lambda number: msgspec.Raw(str(number).encode()))


def _by_grammar(draft: Draft, code: str, value: Any, agreed: agreement.AgreedRepair | None) -> ReadDocument:
    try:
        text = agreement.encode(value)
    except (ValueError, TypeError) as error:
        raise invalid_json(f"Not valid JSON, and it cannot be repaired: {error}.") from None
    changes: tuple[tuple[int, str], ...] = ()
    if agreed and is_same(agreed.value, value):
        text, value, changes = agreed.text, agreed.value, agreed.changes  # with numbers as they were written
    return _checked(value, text, _with_receipts(draft, code, code, changes, text))


def _by_agreement(draft: Draft, agreed: agreement.AgreedRepair) -> ReadDocument:
    quality = Quality.REPAIRED if agreed.complete else Quality.TRUNCATED
    doubts.reject_losses(draft.text, agreed)
    doubts.reject_unquoted_strings(draft.text, agreed.value)
    doubts.reject_merged_strings(agreed.value)
    draft = _with_receipts(draft, "repair", "agreed", agreed.changes, agreed.text)
    return _checked(agreed.value, agreed.text, draft, quality, agreed.tools)


def _with_receipts(draft: Draft, step: str, code: str, changes: tuple[tuple[int, str], ...], text: bytes) -> Draft:
    """`draft` with a receipt for each of `changes`; without any, one receipt of `code` for the whole text."""
    receipts = [
        draft.receipt(step, name, place, draft.text[place : place + 20], "") for place, name in changes[:MAX_RECEIPTS]
    ]
    receipts = receipts or [draft.receipt(step, code, 0, draft.text, text.decode())]
    return replace(draft, repairs=(*draft.repairs, *receipts))


def _checked(
    value: Any,
    text: bytes,
    draft: Draft,
    quality: Quality = Quality.REPAIRED,
    tools: tuple[tuple[str, str], ...] = (),
) -> ReadDocument:
    """The document of a repaired text. Raises `IntakeRejection` if words were lost or invented, or little is left."""
    if not isinstance(value, dict | list):
        raise invalid_json("Not valid JSON: the repaired value is not an object or an array.")
    if not is_finite(value):
        raise invalid_json(f"Not valid JSON, and it cannot be repaired: {doubts.REASONS['number']}.")
    doubts.reject_odd_keys(value)
    kept, known = words.coverage(draft.text, text.decode())
    if not known:
        raise invalid_json("Not valid JSON: there is hardly anything in it.", cut=True)
    if kept < (MIN_KEPT_OF_CUT if quality is Quality.TRUNCATED else MIN_KEPT):
        raise invalid_json(f"Not valid JSON, and a repair would keep only {kept:.0%} of its words.")
    if known < MIN_KNOWN:
        raise invalid_json(f"Not valid JSON, and a repair would invent {1 - known:.0%} of its words.")
    return ReadDocument(text, value_of(text), quality, draft.repairs, coverage=round(kept, 4), tools=tools)
