"""The lexicon: terms of business prose in seven languages, each with the section of ISIC that it indicates.

The terms, and a description of the format, are in `lexicon.toml` and `lexicon_european.toml`.
"""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ahocorasick_rs import AhoCorasick, MatchKind

from llm_scheduler.ingest.router.industry.script import has_cjk, simplified
from llm_scheduler.ingest.router.industry.taxonomy import SECTIONS, section_of
from llm_scheduler.ingest.router.text import lower

PATHS = tuple(Path(__file__).with_name(name) for name in ("lexicon.toml", "lexicon_european.toml"))
LANGUAGES = ("en", "de", "fr", "es", "zh-Hant", "zh-Hans", "ja")
WEIGHTS = {"strong": 3.0, "medium": 1.5, "weak": 0.5}
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")  # a term beside one of these is part of a longer word


class LexiconError(ValueError):
    """A lexicon file that is not valid."""


@dataclass(frozen=True, slots=True)
class Term:
    """A term in lower case, the section and the division (if any) that it indicates, and how much it counts."""

    text: str
    section: str
    division: str | None
    weight: float


class TermMatch(NamedTuple):
    """A term, and its first position in a text."""

    term: Term
    start: int
    end: int


class Lexicon:
    """Finds terms in texts."""

    def __init__(self, terms: list[Term]) -> None:
        # If several languages have the same word, the heaviest term wins.
        kept: dict[str, Term] = {}
        for term in sorted(terms, key=lambda term: (-term.weight, term.section)):
            kept.setdefault(simplified(term.text), term)
        self._patterns = list(kept)
        self._terms = list(kept.values())
        self._spaced = [not has_cjk(pattern) for pattern in self._patterns]
        self._matcher = AhoCorasick(self._patterns, matchkind=MatchKind.LeftmostLongest)

    @classmethod
    def load(cls, paths: Sequence[Path] = PATHS) -> "Lexicon":
        """The lexicon in some files. Raises LexiconError."""
        return cls([term for path in paths for _, term in read(path)])

    def find(self, folded: str) -> list[TermMatch]:
        """The terms in a text in lower case, each once. Of terms that overlap, only the longest counts."""
        if not folded.isascii():
            folded = simplified(folded)
        found: dict[int, TermMatch] = {}
        for pattern, start, end in self._matcher.find_matches_as_indexes(folded):
            if pattern in found:
                continue
            if self._spaced[pattern]:
                if start and folded[start - 1] in _LETTERS:
                    continue
                after = folded[end : end + 1]
                if after in _LETTERS:
                    if after != "s" or folded[end + 1 : end + 2] in _LETTERS:
                        continue
                    end += 1
            found[pattern] = TermMatch(self._terms[pattern], start, end)
        return list(found.values())


def read(path: Path) -> Iterator[tuple[str, Term]]:
    """(language, term) for each term in a file. Raises LexiconError."""
    for section, languages in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if section not in SECTIONS:
            raise LexiconError(f"{path.name}: no section {section}")
        for language, strengths in languages.items():
            for strength, terms in strengths.items():
                if language not in LANGUAGES or strength not in WEIGHTS:
                    raise LexiconError(f"{path.name}: [{section}.{language}] {strength}: no such language or strength")
                for entry in terms.split(","):
                    yield language, _term(entry.strip(), section, WEIGHTS[strength], path)


def _term(entry: str, section: str, weight: float, path: Path) -> Term:
    text, _, division = entry.partition("@")
    if not text or (division and section_of(division) != section):
        raise LexiconError(f"{path.name}: [{section}] {entry!r}: no term, or a division of another section")
    return Term(lower(text), section, division or None, weight)
