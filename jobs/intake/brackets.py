"""Brackets, counted without recursion: how deep they nest, and which bracket closes which."""

import re

STRING = r'"(?:[^"\\]|\\.)*+"?'  # the closing quote is optional, so an unclosed string is scanned only once
STRINGS = re.compile(STRING, re.DOTALL)
_FLAT = rf'(?:{STRING}|[^"\[\]{{}}]++)*+'
# A run of brackets of one direction, with the strings and other text before it.
_RUNS = re.compile(rf"{_FLAT}(?:([\[{{]++)|([\]}}]++)|\Z)".encode(), re.DOTALL)
# The same, but innermost arrays and objects are skipped. Most are innermost, so this is ten times as fast.
_OUTER_RUNS = re.compile(
    rf'(?:{STRING}|[^"\[\]{{}}]++|[\[{{]{_FLAT}[\]}}])*+(?:([\[{{]++)|([\]}}]++)|\Z)'.encode(), re.DOTALL
)
_RUNS_OF_TEXT = re.compile(_RUNS.pattern.decode(), re.DOTALL)
# A string or a bracket. Group 1 is the closing quote of a string, empty if the string is not closed.
TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+("?)|[\[\]{}]', re.DOTALL)


def overstep(text: bytes, limit: int) -> int | None:
    """The offset of the first bracket that nests deeper than `limit`; None if there is none."""
    if text.count(b"[") + text.count(b"{") <= limit or _overstep(_OUTER_RUNS, text, limit - 1) is None:
        return None
    return _overstep(_RUNS, text, limit)


def _overstep(runs: re.Pattern[bytes], text: bytes, limit: int) -> int | None:
    depth = 0
    for match in runs.finditer(text):
        opened, closed = match.span(1), match.span(2)
        depth += opened[1] - opened[0]
        if depth > limit:
            return opened[1] - (depth - limit)
        depth -= closed[1] - closed[0]
    return None


def closing(text: str, start: int) -> int | None:
    """The place after the bracket that closes the one at `start`, brackets in strings ignored; None if none does."""
    depth = 0
    for match in _RUNS_OF_TEXT.finditer(text, start):
        depth += match.end(1) - match.start(1)
        run = match.end(2) - match.start(2)
        if run and depth <= run:
            return match.start(2) + depth
        depth -= run
    return None


def is_open(text: str) -> bool:
    """Whether `text` ends inside a string, an array or an object."""
    depth = 0
    for match in TOKENS.finditer(text):
        if match[0] in "[{":
            depth += 1
        elif match[0] in "]}":
            depth -= 1
        elif not match[1]:
            return True
    return depth > 0
