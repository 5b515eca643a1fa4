"""The text of a document as the router's signals see it: one string, and the position of each of its parts."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Bounds the time for one document: signals after this many characters are ignored. Each value counts as one more.
SCANNED_CHARACTERS = 100_000
SEPARATOR = "\n"  # between two parts: no word and no name continues across it
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff]")
_END = object()


@dataclass(frozen=True, slots=True)
class Part:
    """One string of a document. `path` holds the keys and indexes that lead to it."""

    path: tuple[str | int, ...]
    text: str

    @property
    def key(self) -> str:
        """The nearest key above it, in lower case; empty at the top."""
        return next((step.lower() for step in reversed(self.path) if isinstance(step, str)), "")

    @property
    def pointer(self) -> str:
        """Its JSON pointer (RFC 6901)."""
        return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in self.path)


@dataclass(frozen=True, slots=True)
class Text:
    """The strings of a document. `whole` joins them in order with SEPARATOR. `folded` is `whole` in lower case, with
    the same length. `starts` are the offsets of the parts in both."""

    parts: list[Part]
    starts: list[int]
    whole: str
    folded: str

    @classmethod
    def from_document(cls, document: Any) -> "Text":
        """The text of a parsed JSON value: its strings, without keys and without its top-level `metadata`."""
        parts = list(_parts(document))
        starts = []
        length = 0
        for part in parts:
            starts.append(length)
            length += len(part.text) + len(SEPARATOR)
        whole = SEPARATOR.join(part.text for part in parts)
        return cls(parts, starts, whole, lower(whole))

    def locate(self, offset: int) -> tuple[Part, int]:
        """The part that holds `offset` of `whole`, and the offset in that part."""
        index = bisect_right(self.starts, offset) - 1
        return self.parts[index], offset - self.starts[index]


def normalized(text: str) -> str:
    """`text` in Unicode's NFKC form (full-width letters and ligatures become ordinary ones), without invisible
    characters."""
    if text.isascii():
        return text
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))


def lower(text: str) -> str:
    """`text` in lower case, with the same length."""
    folded = text.lower()
    if len(folded) == len(text):
        return folded
    return "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)


def _parts(document: Any) -> Iterator[Part]:
    left = SCANNED_CHARACTERS
    pending: list[tuple[Iterator[tuple[str | int, Any]], tuple[str | int, ...]]] = [(iter([("", document)]), ())]
    while pending and left > 0:
        members, above = pending[-1]
        key, value = next(members, ("", _END))
        if value is _END:
            pending.pop()
            continue
        left -= 1
        at_top = len(pending) == 1
        path = () if at_top else (*above, key)
        if isinstance(value, str):
            if value:
                yield Part(path, normalized(value[:left]))
                left -= len(value)
        elif isinstance(value, dict):
            own: Iterator[tuple[str | int, Any]] = iter(value.items())
            pending.append(((pair for pair in own if pair[0] != "metadata") if at_top else own, path))
        elif isinstance(value, list):
            pending.append((enumerate(value), path))
