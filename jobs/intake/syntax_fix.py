"""Fixes a missing, needless or wrong comma, quote or bracket, where the position of the error explains it.

`fix` goes from error to error and applies the one rule that fits. If the text is not strict JSON in the end, all
changes are dropped. (The step is called "slip" in receipts, which are part of the result format.)
"""

import json
import re

from llm_scheduler.jobs.intake.brackets import TOKENS
from llm_scheduler.jobs.intake.draft import Draft, Edit
from llm_scheduler.jobs.intake.strict import is_json

_MAX_ERRORS = 60  # in one text
_STARTS = re.compile(r'["\[{\d-]|true\b|false\b|null\b')
_ENDS = re.compile(r'(?:["\]}\d]|true|false|null)\Z')
_KEY_WITHOUT_OPENING = re.compile(r"[A-Za-z_\u00c0-\uffff][\w -]*\"\s*:")
_KEY_WITHOUT_CLOSING = re.compile(r'"([A-Za-z_\u00c0-\uffff][\w-]*)\s*:\s*(?=["\d\[{tfn-])')
_LINE_END = re.compile(r'([^\n]*)"\s*,?[ \t]*[}\]]*[ \t]*,?[ \t]*(?=\n|\Z)')
# This may also be the end of one string and the beginning of another.
_UNSURE = re.compile(r'"\s*(?:[,;+*?|]|or\b|and\b|if\b|else\b)|[,;+*|?]\s*"\s*\S|(?:\bor|\band|\bif|\belse)\s*"\S')
_OTHER_STRING = re.compile(r'"\s*:|"\s*,\s*"')
_KEY_AT_ITS_END = re.compile(r'(?<=\n)[ \t]*"[^"\\\n]+"\s*\Z')
_CLOSERS = {"{": "}", "[": "]"}


def fix(draft: Draft) -> Draft:
    """`draft` as strict JSON; unchanged when the rules below do not suffice."""
    fixed = draft
    for _ in range(_MAX_ERRORS):
        place = _error(fixed.text)
        if place is None:
            return fixed if is_json(fixed.text) else draft
        edits = next(filter(None, (rule(fixed.text, place) for rule in (_comma, _array, _key, _quote))), None)
        if edits is None:
            break
        fixed = fixed.edited(edits, "slip")
    return _bracket(fixed) or draft


def _error(text: str) -> int | None:
    """The index at which `text` stops being JSON; None if it is JSON."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos
    except (ValueError, RecursionError):
        return len(text)
    return None


def _comma(text: str, place: int) -> list[Edit]:
    """A comma is missing at the end of a line, or needless."""
    before = text[:place].rstrip()
    if text.startswith(",", place):
        ahead = text[place + 1 :].lstrip()[:1]
        if before[-1:] in ("{", "[", ",") or ahead in ("}", "]"):
            return [Edit(place, place + 1, "", "needless_comma")]
        return []
    if text[place : place + 1] in ("}", "]") and before.endswith(","):
        return [Edit(len(before) - 1, len(before), "", "trailing_comma")]
    if _STARTS.match(text, place) and _ENDS.search(before) and "\n" in text[len(before) : place]:
        return [Edit(len(before), len(before), ",", "missing_comma")]
    return []


def _array(text: str, place: int) -> list[Edit]:
    """An array was not closed before the next key of the object around it."""
    key = _KEY_AT_ITS_END.search(text[max(0, place - 300) : place])
    if text[place : place + 1] != ":" or not key:
        return []
    end = len(text[: place - len(key[0])].rstrip())
    last = text[end - 1 : end]
    if last == ",":
        return [Edit(end - 1, end - 1, "]", "missing_bracket")]
    return [Edit(end, end, "],", "missing_bracket")] if last in ('"', "]", "}") else []


def _key(text: str, place: int) -> list[Edit]:
    """One of the two quotes of a key is missing."""
    if text[:place].rstrip()[-1:] in ("{", ",") and _KEY_WITHOUT_OPENING.match(text, place):
        return [Edit(place, place, '"', "missing_quote")]
    opening = text.rfind('"', 0, place)
    while opening > 0 and text[:opening].rstrip()[-1:] not in ("{", ","):
        opening = text.rfind('"', 0, opening)
        if place - opening > 200:
            return []
    found = _KEY_WITHOUT_CLOSING.match(text, opening) if opening > 0 else None
    return [Edit(found.end(1), found.end(1), '"', "missing_quote")] if found and found.end() <= place else []


def _quote(text: str, place: int) -> list[Edit]:
    """The last string of a line holds unescaped quotes: only the last quote ends it."""
    closing = len(text[:place].rstrip()) - 1
    if closing < 1 or text[closing] != '"' or "\n" in text[closing:place] or text[place : place + 1] in ('"', "{", "["):
        return []
    line = _LINE_END.match(text, closing + 1)
    if not line or _OTHER_STRING.search(text, closing, line.end(1) + 1):
        return []
    if _UNSURE.search(text, closing + 1, line.end(1)):
        return []
    inner = (closing + 1 + found.start() for found in re.finditer(r'(?<!\\)"', line[1]))
    return [Edit(at, at + 1, r"\"", "inner_quote") for at in (closing, *inner)]


def _bracket(draft: Draft) -> Draft | None:
    """One bracket is missing, needless or wrong, and exactly one change makes the text strict."""
    text = draft.text
    stack: list[str] = []
    for found in TOKENS.finditer(text):
        char, at = found[0], found.start()
        if char in _CLOSERS:
            stack.append(char)
        elif char in ("}", "]"):
            if stack and _CLOSERS[stack[-1]] == char:
                stack.pop()
                continue
            expected = _CLOSERS[stack[-1]] if stack else ""
            end = len(text[:at].rstrip())
            edits = [Edit(at, at + 1, "", "needless_bracket")] if text[at + 1 :].lstrip()[:1] in ",]}" else []
            if expected:
                edits += Edit(at, at + 1, expected, "wrong_bracket"), Edit(end, end, expected, "missing_bracket")
            good = [fixed for edit in edits if is_json((fixed := draft.edited([edit], "slip")).text)]
            return good[0] if len(good) == 1 else None
    return None
