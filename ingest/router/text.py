"""The text of a document, as the signals of the router see it: one string, and where each part of it stands."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# A signal later than this in a long document does not count (any value counts as one character). It bounds the time
# that one document can take.
SCANNED_CHARACTERS = 100_000
SEPARATOR = "\n"  # between two parts: no word and no name goes across it
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff]")
_END = object()


@dataclass(frozen=True, slots=True)
class Part:
    """One string of a document. `path` are the keys and indexes that lead to it."""

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
    """The strings of a document. `whole` is all of them in order, with SEPARATOR between them; `folded` is `whole`
    in lower case, character for character."""

    parts: list[Part]
    starts: list[int]
    whole: str
    folded: str

    @classmethod
    def of(cls, document: Any) -> "Text":
        """The text of a parsed JSON value: the strings in it, keys left out and its `metadata` too."""
        parts = list(_parts(document))
        starts = []
        length = 0
        for part in parts:
            starts.append(length)
            length += len(part.text) + len(SEPARATOR)
        whole = SEPARATOR.join(part.text for part in parts)
        return cls(parts, starts, whole, lower(whole))

    def at(self, offset: int) -> tuple[Part, int]:
        """The part in which `offset` of `whole` lies, and how many characters into it."""
        index = bisect_right(self.starts, offset) - 1
        return self.parts[index], offset - self.starts[index]


def plain(text: str) -> str:
    """`text` in the form in which signals look at it: compatibility forms (full-width letters, ligatures) as ordinary
    ones, and without characters that nobody sees."""
    if text.isascii():
        return text
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))


def lower(text: str) -> str:
    """`text` in lower case, as many characters as before."""
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
                yield Part(path, plain(value[:left]))
                left -= len(value)
        elif isinstance(value, dict):
            own: Iterator[tuple[str | int, Any]] = iter(value.items())
            pending.append(((pair for pair in own if pair[0] != "metadata") if at_top else own, path))
        elif isinstance(value, list):
            pending.append((enumerate(value), path))
