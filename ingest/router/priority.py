"""The guide's priority rules: what the document says of itself, else what its text says, else medium."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# What producers write for a level, beside its own name.
_WORDS = {
    "urgent": "high",
    "critical": "high",
    "normal": "medium",
    "default": "medium",
    "test": "low",
}
_SCANNED_CHARACTERS = 100_000  # a keyword later than this in a long document does not count (any value counts as one)
# Letters of scripts that separate words; beside any other character (CJK has no spaces) a keyword stands by itself.
_WORD_CHARACTER = r"[A-Za-z0-9_\u00c0-\u024f\u0300-\u03ff\u0400-\u052f\u1e00-\u1fff]"

_END = object()


class PriorityRules:
    """Decides the priority of a document."""

    def __init__(self, levels: Sequence[str], urgent: Sequence[str], low: Sequence[str]) -> None:
        self._levels = list(levels)
        self._urgent = _whole_words(urgent)
        self._low = _whole_words(low)

    def decide(self, document: Any) -> tuple[str, str]:
        """(priority level, the reason in words) of `document`, a parsed JSON value; None stands for a broken one."""
        said = document.get("metadata") if isinstance(document, dict) else None
        said = said.get("priority") if isinstance(said, dict) else None
        if isinstance(said, str):
            level = self._level(said.strip().lower())
            if level:
                return level, f"metadata.priority is {said.strip()[:40]!r}"
        if document is not None and (self._urgent or self._low):
            text = " ".join(_texts(document))
            if self._urgent and (found := self._urgent.search(text)):
                return self._named("high"), f"urgent keyword {found[0]!r} in the text"
            if self._low and (found := self._low.search(text)):
                return self._named("low"), f"low-priority keyword {found[0]!r} in the text"
        return self._named("medium"), "no rule applied: the default"

    def _level(self, word: str) -> str | None:
        if word in self._levels:
            return word
        return self._named(_WORDS.get(word, word)) if word in _WORDS or word in ("high", "medium", "low") else None

    def _named(self, level: str) -> str:
        """`level` among the configured ones: high is the first, low the last, medium the middle."""
        if level in self._levels:
            return level
        place = {"high": 0, "medium": (len(self._levels) - 1) // 2, "low": len(self._levels) - 1}
        return self._levels[place[level]]


def _whole_words(keywords: Iterable[str]) -> re.Pattern[str] | None:
    parts = []
    for keyword in sorted({keyword.strip() for keyword in keywords if keyword.strip()}, key=len, reverse=True):
        before = rf"(?<!{_WORD_CHARACTER})" if re.match(_WORD_CHARACTER, keyword) else ""
        after = rf"(?!{_WORD_CHARACTER})" if re.match(_WORD_CHARACTER, keyword[-1]) else ""
        parts.append(before + re.escape(keyword) + after)
    return re.compile("|".join(parts), re.IGNORECASE) if parts else None


def _texts(document: Any) -> Iterator[str]:
    """The strings of a document in order, keys left out and its `metadata` too: they are not its text."""
    left = _SCANNED_CHARACTERS
    pending: list[Iterator[Any]] = [iter((document,))]
    while pending and left > 0:
        value = next(pending[-1], _END)
        if value is _END:
            pending.pop()
            continue
        left -= 1
        if isinstance(value, str):
            yield value[:left]
            left -= len(value)
        elif isinstance(value, dict):
            top = len(pending) == 1
            own = (inner for key, inner in value.items() if key != "metadata")
            pending.append(own if top else iter(value.values()))
        elif isinstance(value, list):
            pending.append(iter(value))
