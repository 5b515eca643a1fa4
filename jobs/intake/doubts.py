"""What would make a repair a guess: each function raises `Refused` when it finds it."""

import re
from typing import Any

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import agreement, words
from llm_scheduler.jobs.intake.draft import Draft
from llm_scheduler.jobs.intake.rejection import Refused
from llm_scheduler.jobs.intake.values import parts

# Strings and comments, closed or not, so that no text is looked at twice.
_PIECE = r""""(?:[^"\\]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'|“[^”]*+”?|//[^\n]*+|/\*.*?(?:\*/|\Z)
    |(?:(?<=[\s,{}\[\]"'\d])|^)\#[^\n]*+"""
# What no repair may make up: each stands where a value should, and means that somebody else knows it.
_UNMENDABLE = re.compile(
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
# A comment that stands where the next element would.
_BEFORE_THE_END = re.compile(r"(?:\A|\n)[^\n\S]*\Z")
REASONS = {
    "number": "NaN and Infinity are not JSON numbers",
    "elision": "something was left out (…)",
    "undefined": "undefined is no value",
    "program": "this is source code, not data",
    "placeholder": "a placeholder stands where a value should",
    "sum": "a sum stands where a number should",
}


def refuse_inventions(draft: Draft) -> None:
    """Something stands in `draft` for which a repair would have to make up a value."""
    for match in _UNMENDABLE.finditer(draft.text):
        kind = match.lastgroup
        found = match[0]
        if kind is None:
            if found.startswith(("//", "/*", "#")) and _leaves_out(draft.text, match):
                kind = "elision"
            else:
                continue
        receipt = draft.receipt("mend", kind, match.start(), found, "")
        raise Refused(
            Code.INVALID_JSON,
            f"Not valid JSON, and not to be mended: {REASONS[kind]} (line {receipt.line}, column {receipt.column}).",
        )


def _leaves_out(text: str, comment: re.Match[str]) -> bool:
    """Whether a comment says that there is more than what is there: by its words, or by standing in its place."""
    if _LEFT_OUT.search(comment[0]):
        return True
    before, after = text[max(0, comment.start() - 200) : comment.start()], text[comment.end() :].lstrip()
    return after.startswith(("]", "}")) and _BEFORE_THE_END.search(before) is not None and before.rstrip()[-1:] != "{"


# Slips by whose mending something is left out.
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


def refuse_losses(text: str, agreed: agreement.Agreed) -> None:
    """Something of `text` was left out, or brackets were made up."""
    lost = [slip for _, slip in agreed.slips if slip.startswith(_LOSSES)]
    if lost:
        raise Refused(
            Code.INVALID_JSON, f"Not valid JSON, and mending it would lose a part ({lost[0].replace('_', ' ')})."
        )
    outside = _STRINGS.sub("", text)
    made = sum(isinstance(part, dict | list) for part in parts(agreed.value))
    is_list = isinstance(agreed.value, list)
    if is_list is not text.lstrip().startswith("[") or made > outside.count("{") + outside.count("["):
        raise Refused(Code.INVALID_JSON, "Not valid JSON, and where its parts begin is not beyond doubt.")


_OPENERS = "\"'“”‘’„«「『‹"
_AFTER_QUOTE = re.compile(rf"[{_OPENERS}]+\s*")
_FIRST_LETTERS = 6


def refuse_loose_words(text: str, value: Any) -> None:
    """A string of `value` stood in `text` without a quote before it: a name, a type, a slip."""
    plain = words.unescape(text)
    begun = {
        plain[found.end() : found.end() + length]
        for found in _AFTER_QUOTE.finditer(plain)
        for length in range(1, _FIRST_LETTERS + 1)
    }
    for part in parts(value):
        if isinstance(part, str):
            start = words.unescape(part).lstrip()[:_FIRST_LETTERS]
            if start and start not in begun and start.strip(_OPENERS)[:1]:
                raise Refused(Code.INVALID_JSON, "Not valid JSON: a text without quotes stands as a value.")


# What stands between two strings, or between a string and the next member; and a word that had no quotes.
_SWALLOWED = re.compile(
    r"[\"']\s*:\s*[\"'\[{\d-]"
    r"|\"\s*[,;]\s*\"|\"\s+(?:or|and|if|else)\b[^\"]*\"|[\"']\s*,\s*[\"'][^\"']*[\"']\s*:|, \"\w+\Z"
)
_NO_KEY = re.compile(r"[\"“”\n]")


def refuse_odd_keys(value: Any) -> None:
    """A key of `value` holds what ends one."""
    if any(_NO_KEY.search(key) for part in parts(value) if isinstance(part, dict) for key in part):
        raise Refused(Code.INVALID_JSON, "Not valid JSON: where a key ends is not beyond doubt.")


def refuse_swallowed(value: Any) -> None:
    """A string of `value` holds what were members, or several strings, in the text."""
    strings = (part for part in parts(value) if isinstance(part, str))
    if any(_SWALLOWED.search(part) or _LITERAL_IN_QUOTES.fullmatch(part) for part in strings):
        raise Refused(Code.INVALID_JSON, "Not valid JSON: where a string ends is not beyond doubt.")
