"""Fenced blocks of Markdown (https://spec.commonmark.org/0.31.2/#fenced-code-blocks)."""

import re
from dataclasses import dataclass, replace
from itertools import islice

from llm_scheduler.jobs.intake import surroundings
from llm_scheduler.jobs.intake.draft import Draft, Edit
from llm_scheduler.jobs.intake.strict import document_of

_OPENING = re.compile(r"(?:^|(?<=\n))[ \t]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<kind>[\w+.#-]*)[^\n`]*(?:\n|\Z)")
_CLOSING = re.compile(r"(?:^|(?<=\n))[ \t]*`{3,}[ \t]*(?:\n|\Z)")
_INLINE = re.compile(r"\A(?P<mark>`{1,3})(?:json\b)?\s*(?=[\[{])")
# Languages of blocks that hold a document, and of blocks that may hold nothing but one literal.
DATA = frozenset({"", "json", "json5", "jsonc", "jsonl", "ndjson", "text", "txt", "plaintext", "output", "response"})
LITERALS = frozenset({"javascript", "js", "python", "py", "typescript", "ts", "jsonp", "http", "yaml", "yml"})
_MAX_BLOCKS = 200


@dataclass(frozen=True)
class Block:
    """A fenced block: its language (`kind`), its place, and the place of its content (`inner` to `inner_end`)."""

    kind: str
    start: int
    inner: int
    inner_end: int
    end: int
    closed: bool


def blocks(text: str) -> list[Block]:
    """The fenced blocks of `text`, in order."""
    found: list[Block] = []
    if "```" not in text and "~~~" not in text:
        return found  # this search is forty times as fast as the pattern
    place = 0
    while len(found) < _MAX_BLOCKS and (opening := _OPENING.search(text, place)):
        mark = opening["mark"]
        sign = re.escape(mark[0])
        # On a line of its own, or, as models write it, at the end of the last line.
        closing = re.compile(
            rf"(?:^|(?<=\n))[ \t]*{sign}{{{len(mark)},}}[ \t]*(?:\n|\Z)|{sign}{{{len(mark)}}}[ \t]*(?:\n|\Z)"
        ).search(text, opening.end())
        inner_end, end = (closing.start(), closing.end()) if closing else (len(text), len(text))
        found.append(Block(opening["kind"].lower(), opening.start(), opening.end(), inner_end, end, bool(closing)))
        place = max(end, opening.end())
    return found


def gaps(found: list[Block], length: int) -> list[tuple[int, int]]:
    """The (start, end) of the text before, between and after the blocks of a text of `length` characters."""
    edges = [0, *(edge for block in found for edge in (block.start, block.end)), length]
    return list(zip(edges[::2], edges[1::2], strict=True))


def content(draft: Draft, block: Block) -> Draft:
    """The content of `block`."""
    return draft.part(block.inner, block.inner_end, "fence").trimmed()


def inline(draft: Draft) -> Draft | None:
    """The content of one to three backticks without a line of their own, as in `{"a": 1}`."""
    opening = _INLINE.match(draft.text)
    if not opening:
        return None
    mark = opening["mark"]
    end = draft.text.rfind(mark)
    closed = end > opening.end() and not draft.text[end + len(mark) :].strip()
    return draft.part(opening.end(), end if closed else len(draft.text), "fence").trimmed()


def only_block(draft: Draft) -> Draft | None:
    """The content of the only fenced block, when the text around it is only prose."""
    found = blocks(draft.text)
    if len(found) != 1 or found[0].kind not in DATA:
        return None
    is_alone = surroundings.is_prose(draft.text[: found[0].start], draft.text[found[0].end :])
    return content(draft, found[0]) if is_alone else None


def without_programs(draft: Draft) -> Draft:
    """Without the blocks of source code, when exactly one block is marked as JSON and is JSON: they show its use."""
    found = blocks(draft.text)
    named = [block for block in found if block.kind.startswith("json")]
    others = [block for block in found if block.kind not in DATA and block.closed]
    if len(named) != 1 or not others or len(others) + 1 < len(found):
        return draft
    if document_of(draft.text[named[0].inner : named[0].inner_end]) is None:
        return draft
    return draft.edited([Edit(block.start, block.end, "", "program") for block in others], "unwrap")


def extended(text: str, block: Block) -> Block:
    """`block` up to a later closing fence that makes it JSON: the first one may be inside a string of the document."""
    later = (found for found in _CLOSING.finditer(text, block.inner) if found.start() > block.inner_end)
    for ending in reversed(list(islice(later, 20))):
        if document_of(text[block.inner : ending.start()]) is not None:
            return replace(block, inner_end=ending.start(), end=ending.end())
    return block
