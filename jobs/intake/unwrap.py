"""Finds the one JSON value that a model wrapped in a fence, an assignment, a call or a sentence.

The text left out goes into the receipts. It must hold no brackets: a text with several values, or with source code, is
rejected, because any choice would be a guess.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from llm_scheduler.jobs.intake import brackets, fences, surroundings
from llm_scheduler.jobs.intake.draft import Draft
from llm_scheduler.jobs.intake.rejection import invalid_json
from llm_scheduler.jobs.intake.strict import document_of

_FIRST = re.compile(r"[\[{]")
# `const x: T = `, `module.exports = `, `x = `, `return `
_ASSIGNED = re.compile(
    r"(?:(?:export\s+)?(?:const|let|var)\s+)?[A-Za-z_$][\w$.]*(?:\s*:\s*[\w.<>, |]+)?\s*=\s*"
    r"|export\s+default\s+|return\s+"
)
_ANNOTATED = re.compile(r"[A-Za-z_]\w*\s*:\s*\w+\[[\w, \[\]]*\]\s*=\s*(?=[\[{])")
_CALLED = re.compile(r"(?:/\*\*/\s*)?(?:typeof\s+\w+\s*===?\s*'function'\s*&&\s*)?(?P<name>[A-Za-z_$][\w$.]*)\s*\(\s*")
_AFTER_ASSIGNED = re.compile(r"\s*;?\s*(?:as const;?)?\s*")
_AFTER_CALLED = re.compile(r"\s*\)?\s*;?\s*")
# Functions that a program calls with a value; models do not wrap an answer in them.
_NOT_A_CALLBACK = re.compile(
    r"(?:^|\.)(?:log|print|printf|println|echo|dumps?|loads?|parse|stringify|fetch|require|assert\w*|expect|push|append"
    r"|post|put|get|send|render|set\w*|update\w*|new|if|for|while|switch|catch|return|dict|list|set|tuple|frozenset"
    r"|deque|Counter|OrderedDict|defaultdict|map|Map|Object|json|ajax|use|extend|assign|create\w*|mount|init|config\w*"
    r"|emit|dispatch|define|register\w*|insert\w*|find\w*|query|execute|run|open|apply)$"
)
_COMMENTS = re.compile(r"(?:\s*+(?://[^\n]*+\n|/\*.*?\*/))+\s*+", re.DOTALL)
# What may come before a broken value on its line, and how such a value must begin.
_BEFORE_BROKEN = re.compile(r"(?:\A|[\n:：=(>`'\"“]|\bis|\bJSON|\bjson)[ \t]*\Z")
_MEMBER = re.compile(
    r"[{\[]\s*+(?:[\"'“”‘’„«「『\[{\d\-]|[\w$-]+\s*[\"'”]?\s*[:：]|//|/\*|#|,\s*[\"']|true\b|false\b|null\b|None\b"
    r"|True\b|False\b|\\\")"
)
_CLOSERS = re.compile(r"[\s\]},]*")
_STANDS_ALONE = re.compile(r"(?:\A|\n|[:：]|[>(=`'\"])[ \t]*\Z")
_ENDS_ALONE = re.compile(r"[ \t]*[.)`'\"]?(?:\n|\Z|<|\s*;)")
_MAX_LEAD = 500  # characters on the line before a value
_NO_VALUE = "Not JSON: there is no object and no array in the text."


@dataclass(frozen=True)
class JsonSpan:
    """The part of a text that is, or was meant to be, its JSON value. `value` is set if it has been parsed already."""

    draft: Draft
    value: dict[str, Any] | list[Any] | None = None


def isolate(draft: Draft) -> JsonSpan:
    """The one JSON value in `draft`. Raises `IntakeRejection` when there is none, or when it is unclear which it is."""
    if not _FIRST.search(draft.text):
        if re.search(r"[｛［]", draft.text):
            return JsonSpan(draft)
        raise invalid_json(_NO_VALUE)
    return _fenced(draft) or _assigned(draft) or JsonSpan(_embedded(draft))


def _fenced(draft: Draft) -> JsonSpan | None:
    draft = fences.without_programs(draft)
    text = draft.text
    blocks = fences.blocks(text)
    if not blocks:
        inline = fences.inline(draft)
        return JsonSpan(inline) if inline else None
    if not surroundings.is_prose(text[: blocks[0].start], ""):
        return None  # the fence is inside a value, or beside one
    holding = [block for block in blocks if _FIRST.search(text, block.inner, block.inner_end)]
    if not holding:
        return None
    values = [document_of(text[block.inner : block.inner_end]) for block in holding]
    if len(holding) > 1 and (values[0] is None or any(value != values[0] for value in values)):
        raise invalid_json(f"{len(holding)} fenced blocks hold brackets; it is unclear which is meant.")
    block = holding[0]
    if values[0] is None and block.closed:
        block = fences.extended(text, block)
        blocks = [block]
    rest = "\n".join(text[start:end] for start, end in fences.gaps(blocks, len(text)))
    if not surroundings.is_prose(rest, "") or any(other.kind not in fences.DATA for other in blocks if other != block):
        raise invalid_json("The text around the fenced block is more than an explanation.")
    part = fences.content(draft, block)
    return _in_block(part, block.kind, values[0] if values[0] is not None else document_of(part.text))


def _in_block(part: Draft, kind: str, value: dict[str, Any] | list[Any] | None) -> JsonSpan:
    """The value in the content of a block of language `kind`; `value` if the content is strict JSON."""
    if value is not None:
        return JsonSpan(part, value=value)
    if kind not in fences.DATA | fences.LITERALS:
        raise invalid_json(f"The fenced block is {kind}, not JSON.")
    if (assigned := _assigned(part)) is not None:
        return assigned
    if part.text.startswith(("{", "[", "\\", "“", "｛", "［")):
        return JsonSpan(part)
    if kind in fences.LITERALS or not _FIRST.search(part.text):
        raise invalid_json("The fenced block is not JSON.")
    return JsonSpan(_embedded(part))


def _assigned(draft: Draft) -> JsonSpan | None:
    """The value in a program of one statement: `const x = {...};`, `callback({...});`."""
    text = draft.text
    first = _FIRST.search(text)
    if first is None or first.start() > _MAX_LEAD:
        return None
    start = first.start()
    called = _CALLED.fullmatch(text, 0, start)
    if called and _NOT_A_CALLBACK.search(called["name"]):
        return None
    if not called and not _ASSIGNED.fullmatch(text, 0, start):
        annotated = _ANNOTATED.match(text)
        if not annotated:
            return None
        start = annotated.end()
    ending = _AFTER_CALLED if called else _AFTER_ASSIGNED
    code = "call" if called else "assignment"
    end = brackets.closing(text, start)
    if end is None and not text.rstrip().endswith((";", ")")):
        return JsonSpan(draft.part(start, len(text), code).trimmed())  # cut off or broken
    for place in (end, max(text.rfind("}"), text.rfind("]")) + 1):
        if place is not None and place > start and ending.fullmatch(text, place):
            return JsonSpan(draft.part(start, place, code).trimmed())
    return None


def _embedded(draft: Draft) -> Draft:
    """The value in a text of sentences, or the draft itself if only comments come before the value."""
    text = draft.text
    start = _first_bracket(text)
    if start is None:
        raise invalid_json(_NO_VALUE)
    if _COMMENTS.fullmatch(text, 0, start):
        return draft
    if not surroundings.is_prose(text[:start], ""):
        raise invalid_json("Not JSON: the text before the first bracket is not an explanation.")
    end = brackets.closing(text, start)
    value = document_of(text[start:end]) if end is not None else None
    if value is not None and end is not None:
        alone = surroundings.is_prose(text[:start], text[end:]) and not _continues(text, end)
        if alone and _is_meant(text, start, end, value):
            return draft.part(start, end, "talk").trimmed()
        if _CLOSERS.fullmatch(text, end):
            value = None  # there is one bracket too many
    lead = text[max(0, start - _MAX_LEAD) : start]
    if value is not None or not _BEFORE_BROKEN.search(lead) or not _MEMBER.match(text, start):
        raise invalid_json("Not JSON: no object or array in the text is a document by itself.")
    last = max(text.rfind("}"), text.rfind("]")) + 1
    whole = last <= start or _continues(text, last) or not surroundings.is_prose("", text[last:])
    return draft.part(start, len(text) if whole else last, "talk").trimmed()


def _continues(text: str, last: int) -> bool:
    """Whether the text after the last bracket belongs to the value, which was cut off."""
    rest = text[last : last + 200].lstrip()
    return rest.startswith((",", ":", '"', "'")) and rest.strip(", \t\r\n") != ""


def _first_bracket(text: str) -> int | None:
    """The place of the first bracket that does not belong to a placeholder or to prose."""
    begin = len(text) - len(text.lstrip())
    place = 0
    while found := _FIRST.search(text, place):
        start = found.start()
        placeholder = surroundings.IN_PROSE.match(text, start) or surroundings.PLACEHOLDER.match(text, start)
        if not placeholder or start <= begin:
            return start
        place = placeholder.end()
    return None


def _is_meant(text: str, start: int, end: int, value: dict[str, Any] | list[Any]) -> bool:
    """Whether a strict value in a text of sentences is its answer, and not a mere `{}`, `[1]` or interval."""
    if not text[:start].strip() and not text[end:].strip():
        return True
    if isinstance(value, dict) or not value:
        return bool(value)
    alone = _STANDS_ALONE.search(text[max(0, start - _MAX_LEAD) : start]) and _ENDS_ALONE.match(text, end)
    return bool(alone) and (len(value) > 1 or isinstance(value[0], dict | list | str))


_ESCAPED = re.compile(r'\s*+[\[{](?:\\[nt]|\s)*+[\[{]?(?:\\[nt]|\s)*+\\"')
_BARE_QUOTE = re.compile(r'(?<!\\)"')


def unescaped(draft: Draft) -> Draft | None:
    r"""The text without one layer of escapes, as in `{\"a\": 1}`; None if it has none."""
    text = draft.text
    if not _ESCAPED.match(text) or _BARE_QUOTE.search(text):
        return None
    try:
        inner = json.loads(f'"{text}"', strict=False)
    except ValueError:
        return None
    receipt = draft.receipt("unescape", "escaped_once", 0, text, inner)
    return replace(draft, text=inner.strip(), repairs=(*draft.repairs, receipt))
