"""Finding the one JSON value that a model wrapped in a fence, an assignment, a call or a sentence.

`isolate` returns the part of the text that is, or was meant to be, that value. What it leaves out goes into the
receipt, and may hold no brackets: where there is more than one value, or source code, nothing is chosen.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import brackets, fences, surroundings
from llm_scheduler.jobs.intake.draft import Draft
from llm_scheduler.jobs.intake.rejection import Refused
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
# Functions that are called with a value in a program, not around an answer.
_NO_CALLBACK = re.compile(
    r"(?:^|\.)(?:log|print|printf|println|echo|dumps?|loads?|parse|stringify|fetch|require|assert\w*|expect|push|append"
    r"|post|put|get|send|render|set\w*|update\w*|new|if|for|while|switch|catch|return|dict|list|set|tuple|frozenset"
    r"|deque|Counter|OrderedDict|defaultdict|map|Map|Object|json|ajax|use|extend|assign|create\w*|mount|init|config\w*"
    r"|emit|dispatch|define|register\w*|insert\w*|find\w*|query|execute|run|open|apply)$"
)
_COMMENTS = re.compile(r"(?:\s*+(?://[^\n]*+\n|/\*.*?\*/))+\s*+", re.DOTALL)
# What may stand on its line before a value that is broken, and how such a value has to begin.
_BEFORE_BROKEN = re.compile(r"(?:\A|[\n:：=(>`'\"“]|\bis|\bJSON|\bjson)[ \t]*\Z")
_MEMBER = re.compile(
    r"[{\[]\s*+(?:[\"'“”‘’„«「『\[{\d\-]|[\w$-]+\s*[\"'”]?\s*[:：]|//|/\*|#|,\s*[\"']|true\b|false\b|null\b|None\b"
    r"|True\b|False\b|\\\")"
)
_CLOSERS = re.compile(r"[\s\]},]*")
_STANDS_ALONE = re.compile(r"(?:\A|\n|[:：]|[>(=`'\"])[ \t]*\Z")
_ENDS_ALONE = re.compile(r"[ \t]*[.)`'\"]?(?:\n|\Z|<|\s*;)")
_LINE = 500  # characters before a value that can be on its line


@dataclass(frozen=True)
class Found:
    """The part that was meant, and whether it may be mended: not in a block of another language."""

    draft: Draft
    mendable: bool = True
    value: dict[str, Any] | list[Any] | None = None  # where it has been read already


def isolate(draft: Draft) -> Found:
    """The one value that `draft` was written for. Raises `Refused` where there is none, or no telling which."""
    if not _FIRST.search(draft.text):
        if re.search(r"[｛［]", draft.text):
            return Found(draft)
        raise Refused(Code.INVALID_JSON, "Not JSON: there is no object and no array in the text.")
    return _fenced(draft) or _assigned(draft) or Found(_embedded(draft))


# Fences


def _fenced(draft: Draft) -> Found | None:
    draft = fences.without_programs(draft)
    text = draft.text
    blocks = fences.blocks(text)
    if not blocks:
        inline = fences.inline(draft)
        return Found(inline) if inline else None
    if not surroundings.is_talk(text[: blocks[0].start], ""):
        return None  # the fence stands inside the value, or beside one
    holding = [block for block in blocks if _FIRST.search(text, block.inner, block.inner_end)]
    if not holding:
        return None
    values = [document_of(text[block.inner : block.inner_end]) for block in holding]
    if len(holding) > 1 and (values[0] is None or any(value != values[0] for value in values)):
        raise Refused(Code.INVALID_JSON, f"{len(holding)} fenced blocks hold brackets; which is meant is unclear.")
    block = holding[0]
    if values[0] is None and block.closed:
        block = fences.longest(text, block)
        blocks = [block]
    rest = "\n".join(text[start:end] for start, end in fences.gaps(blocks, len(text)))
    if not surroundings.is_talk(rest, "") or any(other.kind not in fences.DATA for other in blocks if other != block):
        raise Refused(Code.INVALID_JSON, "Beside the fenced block there is something else than talk.")
    part = fences.content(draft, block)
    return _in_block(part, block.kind, values[0] if values[0] is not None else document_of(part.text))


def _in_block(part: Draft, kind: str, value: dict[str, Any] | list[Any] | None) -> Found:
    """The value in the content of a block, which is `value` where that is strict."""
    if value is not None:
        return Found(part, value=value)
    if kind not in fences.DATA | fences.LITERALS:
        raise Refused(Code.INVALID_JSON, f"The fenced block is {kind}, not JSON.")
    if (assigned := _assigned(part)) is not None:
        return assigned
    if part.text.startswith(("{", "[", "\\", "“", "｛", "［")):
        return Found(part)
    if kind in fences.LITERALS or not _FIRST.search(part.text):
        raise Refused(Code.INVALID_JSON, "The fenced block is no JSON.")
    return Found(_embedded(part))


# Programs of one statement


def _assigned(draft: Draft) -> Found | None:
    """`const x = {...};`, `callback({...});`: a program of one statement whose only content is the value."""
    text = draft.text
    first = _FIRST.search(text)
    if first is None or first.start() > _LINE:
        return None
    start = first.start()
    called = _CALLED.fullmatch(text, 0, start)
    if called and _NO_CALLBACK.search(called["name"]):
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
        return Found(draft.part(start, len(text), "unwrap", code).trimmed())  # broken off, or broken
    for place in (end, max(text.rfind("}"), text.rfind("]")) + 1):
        if place is not None and place > start and ending.fullmatch(text, place):
            return Found(draft.part(start, place, "unwrap", code).trimmed())
    return None


# Sentences


def _embedded(draft: Draft) -> Draft:
    """The value in a text of sentences."""
    text = draft.text
    start = _first_bracket(text)
    if start is None:
        raise Refused(Code.INVALID_JSON, "Not JSON: there is no object and no array in the text.")
    if _COMMENTS.fullmatch(text, 0, start):
        return draft
    if not surroundings.is_talk(text[:start], ""):
        raise Refused(Code.INVALID_JSON, "Not JSON: what stands before the first bracket is no talk.")
    end = brackets.closing(text, start)
    value = document_of(text[start:end]) if end is not None else None
    if value is not None and end is not None:
        alone = surroundings.is_talk(text[:start], text[end:]) and not _goes_on(text, end)
        if alone and _is_meant(text, start, end, value):
            return draft.part(start, end, "unwrap", "talk").trimmed()
        if _CLOSERS.fullmatch(text, end):
            value = None  # one bracket too many
    lead = text[max(0, start - _LINE) : start]
    if value is not None or not _BEFORE_BROKEN.search(lead) or not _MEMBER.match(text, start):
        raise Refused(Code.INVALID_JSON, "Not JSON: no object or array in the text stands for itself.")
    last = max(text.rfind("}"), text.rfind("]")) + 1
    whole = last <= start or _goes_on(text, last) or not surroundings.is_talk("", text[last:])
    return draft.part(start, len(text) if whole else last, "unwrap", "talk").trimmed()


def _goes_on(text: str, last: int) -> bool:
    """Whether what follows the last bracket belongs to the value, which has been broken off."""
    rest = text[last : last + 200].lstrip()
    return rest.startswith((",", ":", '"', "'")) and rest.strip(", \t\r\n") != ""


def _first_bracket(text: str) -> int | None:
    """The first bracket that is not a placeholder's."""
    begun = len(text) - len(text.lstrip())
    place = 0
    while found := _FIRST.search(text, place):
        placeholder = surroundings.IN_TALK.match(text, found.start()) or surroundings.PLACEHOLDER.match(
            text, found.start()
        )
        if not placeholder or found.start() <= begun:
            return found.start()
        place = placeholder.end()
    return None


def _is_meant(text: str, start: int, end: int, value: object) -> bool:
    """Whether a strict value inside sentences is what they are about: not `{}`, `[1]`, or an interval."""
    if not text[:start].strip() and not text[end:].strip():
        return True
    if isinstance(value, dict):
        return bool(value)
    if not isinstance(value, list) or not value:
        return False
    alone = _STANDS_ALONE.search(text[max(0, start - _LINE) : start]) and _ENDS_ALONE.match(text, end)
    return bool(alone) and (len(value) > 1 or isinstance(value[0], dict | list | str))


# Escapes

_ESCAPED = re.compile(r'\s*+[\[{](?:\\[nt]|\s)*+[\[{]?(?:\\[nt]|\s)*+\\"')
_BARE_QUOTE = re.compile(r'(?<!\\)"')


def unescaped(draft: Draft) -> Draft | None:
    r"""The text under one layer of escapes, `{\"a\": 1}`, if that is what it is; None otherwise."""
    text = draft.text
    if not _ESCAPED.match(text) or _BARE_QUOTE.search(text):
        return None
    try:
        inner = json.loads(f'"{text}"', strict=False)
    except ValueError:
        return None
    receipt = draft.receipt("unescape", "escaped_once", 0, text, inner)
    return replace(draft, text=inner.strip(), repairs=(*draft.repairs, receipt))
