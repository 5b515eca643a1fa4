"""The priority of a document: its own `metadata.priority`, else by keywords in its text, else medium."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llm_scheduler.ingest.router.text import Text, normalized

# Other names for the levels that producers write.
_SYNONYMS = {"urgent": "high", "critical": "high", "normal": "medium", "default": "medium", "test": "low"}
# The letters of scripts that put spaces between words. Beside any other character (Chinese, say) a keyword is whole.
_WORD_CHARACTER = r"[A-Za-z0-9_\u00c0-\u024f\u0300-\u03ff\u0400-\u052f\u1e00-\u1fff]"


class PriorityMatcher:
    """Finds the priority of a document."""

    def __init__(self, levels: Sequence[str], urgent: Sequence[str], low: Sequence[str]) -> None:
        self._levels = list(levels)
        self._urgent = _Keywords(urgent)
        self._low = _Keywords(low)

    def find(self, document: Any, text: Callable[[], Text] | None = None) -> tuple[str, str]:
        """(priority level, reason) of `document`, a parsed JSON value; None if it could not be parsed.

        `text` returns its text. It is called only if the text decides.
        """
        metadata = document.get("metadata") if isinstance(document, dict) else None
        given = metadata.get("priority") if isinstance(metadata, dict) else None
        if isinstance(given, str) and (level := self._level(given.strip().lower())):
            return level, f"metadata.priority is {given.strip()[:40]!r}"
        if document is not None and (self._urgent or self._low):
            whole = (text() if text else Text.from_document(document)).whole
            folded = _casefolded(whole)
            if (keyword := self._urgent.search(whole, folded)) is not None:
                return self._configured("high"), f"urgent keyword {keyword!r} in the text"
            if (keyword := self._low.search(whole, folded)) is not None:
                return self._configured("low"), f"low-priority keyword {keyword!r} in the text"
        return self._configured("medium"), "no rule applied: the default"

    def _level(self, word: str) -> str | None:
        if word in self._levels:
            return word
        level = _SYNONYMS.get(word, word)
        return self._configured(level) if level in ("high", "medium", "low") else None

    def _configured(self, level: str) -> str:
        """The configured level for `level`: the first for high, the last for low, the middle one for medium."""
        if level in self._levels:
            return level
        place = {"high": 0, "medium": (len(self._levels) - 1) // 2, "low": len(self._levels) - 1}
        return self._levels[place[level]]


class _Keywords:
    """Keywords, found as whole words in upper or lower case."""

    def __init__(self, keywords: Sequence[str]) -> None:
        words = [word for keyword in keywords if (word := normalized(keyword).strip())]
        self._pattern = _whole_words(words)
        self._folded = [_casefolded(word) for word in words]

    def __bool__(self) -> bool:
        return self._pattern is not None

    def search(self, text: str, folded: str) -> str | None:
        """The first keyword in `text`, as written there. `folded` is `_casefolded(text)`."""
        # Few texts hold a keyword, and the pattern needs ten to thirty times as long to find none.
        if self._pattern is None or not any(keyword in folded for keyword in self._folded):
            return None
        match = self._pattern.search(text)
        return match[0] if match else None


def _casefolded(text: str) -> str:
    """`text` without its case: two texts that `re.IGNORECASE` treats as equal become equal (and a few others)."""
    folded = text.casefold()
    # `casefold` separates the dotted and the dotless i of Turkish, `re` does not.
    return folded if folded.isascii() else folded.replace("\u0307", "").replace("ı", "i")


def _whole_words(keywords: Iterable[str]) -> re.Pattern[str] | None:
    parts = []
    for keyword in sorted(set(keywords), key=len, reverse=True):
        before = rf"(?<!{_WORD_CHARACTER})" if re.match(_WORD_CHARACTER, keyword) else ""
        after = rf"(?!{_WORD_CHARACTER})" if re.match(_WORD_CHARACTER, keyword[-1]) else ""
        parts.append(before + re.escape(keyword) + after)
    return re.compile("|".join(parts), re.IGNORECASE) if parts else None
