"""Slips that the place of the error explains: a comma, a quote or a bracket too many, too few, or the wrong one.

`mend` goes from error to error. At each, one rule fits or none does; what it changes has to make the text strict in the
end, or nothing is changed at all.
"""

import json
import re

from llm_scheduler.jobs.intake.draft import Draft, Edit
from llm_scheduler.jobs.intake.strict import value_of

_MOST = 60  # errors in one text
_STARTS = re.compile(r'["\[{\d-]|true\b|false\b|null\b')
_ENDS = re.compile(r'(?:["\]}\d]|true|false|null)\Z')
_KEY_WITHOUT_OPENING = re.compile(r"[A-Za-z_\u00c0-\uffff][\w -]*\"\s*:")
_KEY_WITHOUT_CLOSING = re.compile(r'"([A-Za-z_\u00c0-\uffff][\w-]*)\s*:\s*(?=["\d\[{tfn-])')
_LAST_ON_ITS_LINE = re.compile(r'([^\n]*)"\s*,?[ \t]*[}\]]*[ \t]*,?[ \t]*(?=\n|\Z)')
# What may as well be the end of one string and the beginning of another.
_UNSURE = re.compile(r'"\s*(?:[,;+*?|]|or\b|and\b|if\b|else\b)|[,;+*|?]\s*"\s*\S|(?:\bor|\band|\bif|\belse)\s*"\S')
_OTHER_STRING = re.compile(r'"\s*:|"\s*,\s*"')
_KEY_AT_ITS_END = re.compile(r'(?<=\n)[ \t]*"[^"\\\n]+"\s*\Z')
_CLOSERS = {"{": "}", "[": "]"}
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def mend(draft: Draft) -> Draft | None:
    """`draft` made strict by the rules below; None when they don't get so far."""
    for _ in range(_MOST):
        place = _error(draft.text)
        if place is None:
            return draft if _is_strict(draft.text) else None
        edits = (
            _comma(draft.text, place)
            or _array(draft.text, place)
            or _key(draft.text, place)
            or _quote(draft.text, place)
        )
        if not edits:
            break
        draft = draft.edited(edits, "slip")
    return _bracket(draft)


def _error(text: str) -> int | None:
    """Where `text` stops being JSON; None when it is."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos
    except (ValueError, RecursionError):
        return len(text)
    return None


def _comma(text: str, place: int) -> list[Edit]:
    """A comma that misses at the end of a line, or one too many."""
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
    """An array that was not closed before the next key of the object around it."""
    key = _KEY_AT_ITS_END.search(text[max(0, place - 300) : place])
    if text[place : place + 1] != ":" or not key:
        return []
    start = place - len(key[0])
    behind = len(text[:start].rstrip())
    if text[behind - 1 : behind] == ",":
        return [Edit(behind - 1, behind - 1, "]", "missing_bracket")]
    return [Edit(behind, behind, "],", "missing_bracket")] if text[behind - 1 : behind] in ('"', "]", "}") else []


def _key(text: str, place: int) -> list[Edit]:
    """One of the quotes of a key."""
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
    """Quotes inside the last string of a line: only the last of them ends it."""
    closing = len(text[:place].rstrip()) - 1
    if closing < 1 or text[closing] != '"' or "\n" in text[closing:place] or text[place : place + 1] in ('"', "{", "["):
        return []
    line = _LAST_ON_ITS_LINE.match(text, closing + 1)
    if not line or _OTHER_STRING.search(text, closing, line.end(1) + 1):
        return []
    if _UNSURE.search(text, closing + 1, line.end(1)):
        return []
    inner = [closing, *(found.start() for found in re.finditer(r'(?<!\\)"', line[1]))]
    return [
        Edit(at, at + 1, r"\"", "inner_quote") for at in (inner[0], *(closing + 1 + offset for offset in inner[1:]))
    ]


def _bracket(draft: Draft) -> Draft | None:
    """The one bracket that is missing, needless or of the wrong kind, if one change and no other makes it right."""
    text = draft.text
    stack: list[str] = []
    for found in _BRACKET.finditer(text):
        char, at = found[0], found.start()
        if char in _CLOSERS:
            stack.append(char)
        elif char in ("}", "]"):
            if stack and _CLOSERS[stack[-1]] == char:
                stack.pop()
                continue
            expected = _CLOSERS[stack[-1]] if stack else ""
            behind = len(text[:at].rstrip())
            edits = [Edit(at, at + 1, "", "needless_bracket")] if text[at + 1 :].lstrip()[:1] in ",]}" else []
            if expected:
                edits += [
                    Edit(at, at + 1, expected, "wrong_bracket"),
                    Edit(behind, behind, expected, "missing_bracket"),
                ]
            good = [mended for edit in edits if _is_strict((mended := draft.edited([edit], "slip")).text)]
            return good[0] if len(good) == 1 else None
    return None


def _is_strict(text: str) -> bool:
    try:
        value_of(text)
    except ValueError:
        return False
    return True
