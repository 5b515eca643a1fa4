"""The guide's priority rules: what the document says of itself, else what its text says, else medium."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from llm_scheduler.ingest.router.text import Text, plain

# What producers write for a level, beside its own name.
_WORDS = {
    "urgent": "high",
    "critical": "high",
    "normal": "medium",
    "default": "medium",
    "test": "low",
}
# Letters of scripts that separate words; beside any other character (CJK has no spaces) a keyword stands by itself.
_WORD_CHARACTER = r"[A-Za-z0-9_\u00c0-\u024f\u0300-\u03ff\u0400-\u052f\u1e00-\u1fff]"


class PriorityRules:
    """Decides the priority of a document."""

    def __init__(self, levels: Sequence[str], urgent: Sequence[str], low: Sequence[str]) -> None:
        self._levels = list(levels)
        self._urgent = _Keywords(urgent)
        self._low = _Keywords(low)

    def decide(self, document: Any, text: Text | None = None) -> tuple[str, str]:
        """(priority level, the reason in words) of `document`, a parsed JSON value; None stands for a broken one.

        `text` is its text, where that is at hand.
        """
        said = document.get("metadata") if isinstance(document, dict) else None
        said = said.get("priority") if isinstance(said, dict) else None
        if isinstance(said, str):
            level = self._level(said.strip().lower())
            if level:
                return level, f"metadata.priority is {said.strip()[:40]!r}"
        if document is not None and (self._urgent or self._low):
            whole = (text or Text.of(document)).whole
            folded = _folded(whole)
            if (found := self._urgent.found(whole, folded)) is not None:
                return self._named("high"), f"urgent keyword {found!r} in the text"
            if (found := self._low.found(whole, folded)) is not None:
                return self._named("low"), f"low-priority keyword {found!r} in the text"
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


class _Keywords:
    """Keywords to be found as whole words, in upper or lower case."""

    def __init__(self, keywords: Sequence[str]) -> None:
        keywords = [plain(keyword) for keyword in keywords]
        self._pattern = _whole_words(keywords)
        self._folded = [_folded(keyword.strip()) for keyword in keywords if keyword.strip()]

    def __bool__(self) -> bool:
        return self._pattern is not None

    def found(self, text: str, folded: str) -> str | None:
        """The first keyword in `text`, as it stands there. `folded` is the same text without its case."""
        # Few texts hold a keyword, and the pattern takes ten to thirty times as long to say so.
        if self._pattern is None or not any(keyword in folded for keyword in self._folded):
            return None
        match = self._pattern.search(text)
        return match[0] if match else None


def _folded(text: str) -> str:
    """`text` without its case: what `re.IGNORECASE` holds equal becomes equal (and a little more does)."""
    folded = text.casefold()
    # `casefold` keeps the dotted and the dotless i of Turkish apart from the other one, `re` doesn't.
    return folded if folded.isascii() else folded.replace("\u0307", "").replace("ı", "i")


def _whole_words(keywords: Iterable[str]) -> re.Pattern[str] | None:
    parts = []
    for keyword in sorted({keyword.strip() for keyword in keywords if keyword.strip()}, key=len, reverse=True):
        before = rf"(?<!{_WORD_CHARACTER})" if re.match(_WORD_CHARACTER, keyword) else ""
        after = rf"(?!{_WORD_CHARACTER})" if re.match(_WORD_CHARACTER, keyword[-1]) else ""
        parts.append(before + re.escape(keyword) + after)
    return re.compile("|".join(parts), re.IGNORECASE) if parts else None
