"""Signs that a repair would be a guess. Each function raises `IntakeRejection` when it finds one."""

import re
from typing import Any

from llm_scheduler.jobs.intake import agreement, words
from llm_scheduler.jobs.intake.draft import Draft
from llm_scheduler.jobs.intake.rejection import invalid_json
from llm_scheduler.jobs.intake.values import walk

# Strings and comments, closed or not, so that each text is scanned only once.
_PIECE = r""""(?:[^"\\]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'|“[^”]*+”?|//[^\n]*+|/\*.*?(?:\*/|\Z)
    |(?:(?<=[\s,{}\[\]"'\d])|^)\#[^\n]*+"""
# Stands where a value should be, and only the author knows that value. A repair must not invent it.
_UNKNOWN_VALUE = re.compile(
    _PIECE
    + r"""|(?P<number>[-+]?\b(?:NaN|Infinity|nan|inf)\b)
    |(?P<elision>\.\.\.|…)
    |(?P<undefined>\bundefined\b)
    |(?P<program>`|\bnew\s+[A-Z]\w*|=>|\bfunction\b|(?<![\w$.])[A-Za-z_$][\w$.]{0,80}+\(|\$\{|;\s*(?=\n|\Z)|\blambda\b|\bfor\s+\w+\s+in\b)
    |(?P<placeholder><[A-Za-z_][\w -]*>(?=\s*[,}\]\n]))
    |(?P<sum>\d\s*[*+/]\s*\d|(?<=["'])\s*\+\s*[\w"'$(])""",
    re.DOTALL | re.VERBOSE,
)
_LEFT_OUT = re.compile(
    r"\.\.\.|…|\b(?:omitted|left out|and so on|etc|truncated|same as)\b|省略|以此类推|以此類推", re.IGNORECASE
)
# A comment in place of the last element.
_BEFORE_THE_END = re.compile(r"(?:\A|\n)[^\n\S]*\Z")
REASONS = {
    "number": "NaN and Infinity are not JSON numbers",
    "elision": "something was left out (…)",
    "undefined": "undefined is not a value",
    "program": "this is source code, not data",
    "placeholder": "a placeholder stands where a value should",
    "sum": "a sum stands where a number should",
}


def reject_unknown_values(draft: Draft) -> None:
    """Rejects a text in which a repair would have to invent a value."""
    for match in _UNKNOWN_VALUE.finditer(draft.text):
        kind = match.lastgroup
        found = match[0]
        if kind is None:
            if found.startswith(("//", "/*", "#")) and _leaves_out(draft.text, match):
                kind = "elision"
            else:
                continue
        place = draft.receipt("", kind, match.start(), found, "")
        where = f"line {place.line}, column {place.column}"
        raise invalid_json(f"Not valid JSON, and it cannot be repaired: {REASONS[kind]} ({where}).")


def _leaves_out(text: str, comment: re.Match[str]) -> bool:
    """Whether a comment stands for omitted elements: by its words, or by its place before a closing bracket."""
    if _LEFT_OUT.search(comment[0]):
        return True
    before, after = text[max(0, comment.start() - 200) : comment.start()], text[comment.end() :].lstrip()
    return after.startswith(("]", "}")) and _BEFORE_THE_END.search(before) is not None and before.rstrip()[-1:] != "{"


# Names of repairs by parse-broken-json that drop something.
_LOSSES = (
    "key_without_value_dropped",
    "trailing_text_ignored",
    "leading_text_skipped",
    "unexpected_text",
    "duplicate_key",
    "unquoted_value",
)
_LITERAL_IN_QUOTES = re.compile(r"\s+(?:true|false|null|-?[\d.]+)\s*,?")
_STRINGS = re.compile(r"\"(?:[^\"\\]|\\.)*+\"?|'(?:[^'\\\n]|\\.)*+'", re.DOTALL)


def reject_losses(text: str, repair: agreement.AgreedRepair) -> None:
    """Rejects a repair that dropped a part of `text`, or invented brackets."""
    lost = [name for _, name in repair.changes if name.startswith(_LOSSES)]
    if lost:
        raise invalid_json(f"Not valid JSON, and a repair would lose a part ({lost[0].replace('_', ' ')}).")
    outside = _STRINGS.sub("", text)
    containers = sum(isinstance(part, dict | list) for part in walk(repair.value))
    is_list = isinstance(repair.value, list)
    if is_list is not text.lstrip().startswith("[") or containers > outside.count("{") + outside.count("["):
        raise invalid_json("Not valid JSON: it is unclear where its parts begin.")


_OPENERS = "\"'“”‘’„«「『‹"
_AFTER_QUOTE = re.compile(rf"[{_OPENERS}]+\s*")
_FIRST_LETTERS = 6


def reject_unquoted_strings(text: str, value: Any) -> None:
    """Rejects a repair in which a string of `value` had no quote before it in `text`: it may be a name or a type."""
    plain = words.unescape(text)
    quoted = {
        plain[found.end() : found.end() + length]
        for found in _AFTER_QUOTE.finditer(plain)
        for length in range(1, _FIRST_LETTERS + 1)
    }
    for part in walk(value):
        if isinstance(part, str):
            start = words.unescape(part).lstrip()[:_FIRST_LETTERS]
            if start and start not in quoted and start.strip(_OPENERS)[:1]:
                raise invalid_json("Not valid JSON: a value is text without quotes.")


# Text between two strings, or between a string and the next member.
_MERGED = re.compile(
    r"[\"']\s*:\s*[\"'\[{\d-]"
    r"|\"\s*[,;]\s*\"|\"\s+(?:or|and|if|else)\b[^\"]*\"|[\"']\s*,\s*[\"'][^\"']*[\"']\s*:|, \"\w+\Z"
)
_NO_KEY = re.compile(r"[\"“”\n]")


def reject_odd_keys(value: Any) -> None:
    """Rejects a key that holds a quote or a line end."""
    if any(_NO_KEY.search(key) for part in walk(value) if isinstance(part, dict) for key in part):
        raise invalid_json("Not valid JSON: it is unclear where a key ends.")


def reject_merged_strings(value: Any) -> None:
    """Rejects a string that holds members of the text, or several of its strings."""
    strings = (part for part in walk(value) if isinstance(part, str))
    if any(_MERGED.search(part) or _LITERAL_IN_QUOTES.fullmatch(part) for part in strings):
        raise invalid_json("Not valid JSON: it is unclear where a string ends.")
