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
# What a block may be called that holds a document, and what else may hold nothing but one.
DATA = frozenset({"", "json", "json5", "jsonc", "jsonl", "ndjson", "text", "txt", "plaintext", "output", "response"})
LITERALS = frozenset({"javascript", "js", "python", "py", "typescript", "ts", "jsonp", "http", "yaml", "yml"})
_MOST = 200  # blocks; nobody answers in more


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, where it starts and ends, and where that which it holds does."""

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
        return found  # a plain search is forty times as fast as the pattern
    place = 0
    while len(found) < _MOST and (opening := _OPENING.search(text, place)):
        mark = opening["mark"]
        sign = re.escape(mark[0])
        # Behind the last line, or, as models do, at its end.
        closing = re.compile(
            rf"(?:^|(?<=\n))[ \t]*{sign}{{{len(mark)},}}[ \t]*(?:\n|\Z)|{sign}{{{len(mark)}}}[ \t]*(?:\n|\Z)"
        ).search(text, opening.end())
        inner_end, end = (closing.start(), closing.end()) if closing else (len(text), len(text))
        found.append(Block(opening["kind"].lower(), opening.start(), opening.end(), inner_end, end, bool(closing)))
        place = max(end, opening.end())
    return found


def gaps(found: list[Block], length: int) -> list[tuple[int, int]]:
    """What is between the blocks of a text of so many characters, before the first and after the last."""
    edges = [0, *(edge for block in found for edge in (block.start, block.end)), length]
    return list(zip(edges[::2], edges[1::2], strict=True))


def content(draft: Draft, block: Block) -> Draft:
    """What a block holds."""
    return draft.part(block.inner, block.inner_end, "unwrap", "fence").trimmed()


def inline(draft: Draft) -> Draft | None:
    """What stands between one to three backticks on a line itself: `{"a": 1}`."""
    opening = _INLINE.match(draft.text)
    if not opening:
        return None
    mark = opening["mark"]
    end = draft.text.rfind(mark)
    closed = end > opening.end() and not draft.text[end + len(mark) :].strip()
    return draft.part(opening.end(), end if closed else len(draft.text), "unwrap", "fence").trimmed()


def only(draft: Draft) -> Draft | None:
    """What the one fenced block of a text holds, when nothing but talk stands around it."""
    found = blocks(draft.text)
    if len(found) != 1 or found[0].kind not in DATA:
        return None
    if not surroundings.is_talk(draft.text[: found[0].start], draft.text[found[0].end :]):
        return None
    return content(draft, found[0])


def without_programs(draft: Draft) -> Draft:
    """Without the blocks of other languages, where exactly one block says that it is JSON and is: they show its use."""
    found = blocks(draft.text)
    named = [block for block in found if block.kind.startswith("json")]
    others = [block for block in found if block.kind not in DATA and block.closed]
    if len(named) != 1 or not others or len(others) + 1 < len(found):
        return draft
    if document_of(draft.text[named[0].inner : named[0].inner_end]) is None:
        return draft
    return draft.edited([Edit(block.start, block.end, "", "program") for block in others], "unwrap")


def longest(text: str, block: Block) -> Block:
    """`block` up to a later fence, when the one that closes it first stands inside of a string of what it holds."""
    later = (found for found in _CLOSING.finditer(text, block.inner) if found.start() > block.inner_end)
    for ending in reversed(list(islice(later, 20))):
        if document_of(text[block.inner : ending.start()]) is not None:
            return replace(block, inner_end=ending.start(), end=ending.end())
    return block
