"""The lexicon: words of business prose in seven languages, and the section of ISIC that each speaks for.

The words are in `lexicon.toml` and `lexicon_european.toml`; what stands there of the form is all there is to it.
"""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ahocorasick_rs import AhoCorasick, MatchKind

from llm_scheduler.ingest.router.industry.script import has_cjk, one_form
from llm_scheduler.ingest.router.industry.taxonomy import SECTIONS, section_of
from llm_scheduler.ingest.router.text import lower

PATHS = tuple(Path(__file__).with_name(name) for name in ("lexicon.toml", "lexicon_european.toml"))
LANGUAGES = ("en", "de", "fr", "es", "zh-Hant", "zh-Hans", "ja")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")  # beside these a term is a part of a longer word
WEIGHTS = {"strong": 3.0, "medium": 1.5, "weak": 0.5}


class LexiconError(ValueError):
    """A lexicon that says something it can't."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term, in lower case. `weight`: how much it speaks for its section, and the division if there is one."""

    text: str
    section: str
    division: str | None
    weight: float


class Found(NamedTuple):
    """A term where it first stands in a text."""

    term: Term
    start: int
    end: int


class Lexicon:
    """Finds terms in texts."""

    def __init__(self, terms: list[Term]) -> None:
        # The same word may stand in more than one language: the heavier one holds.
        kept: dict[str, Term] = {}
        for term in sorted(terms, key=lambda term: (-term.weight, term.section)):
            kept.setdefault(one_form(term.text), term)
        self._patterns = list(kept)
        self._terms = list(kept.values())
        self._spaced = [not has_cjk(pattern) for pattern in self._patterns]
        self._matcher = AhoCorasick(self._patterns, matchkind=MatchKind.LeftmostLongest)

    def __len__(self) -> int:
        return len(self._patterns)

    @classmethod
    def load(cls, paths: Sequence[Path] = PATHS) -> "Lexicon":
        """The lexicon in some files. Raises LexiconError."""
        return cls([term for path in paths for _, term in read(path)])

    def find(self, folded: str) -> list[Found]:
        """The terms in a text in lower case, each once; of terms over one another the longest."""
        if not folded.isascii():
            folded = one_form(folded)
        found: dict[int, Found] = {}
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
            found[pattern] = Found(self._terms[pattern], start, end)
        return list(found.values())


def read(path: Path) -> Iterator[tuple[str, Term]]:
    """The terms in a file, each with its language. Raises LexiconError."""
    for section, languages in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if section not in SECTIONS:
            raise LexiconError(f"{path.name}: no section {section}")
        for language, strengths in languages.items():
            for strength, terms in strengths.items():
                if language not in LANGUAGES or strength not in WEIGHTS:
                    raise LexiconError(f"{path.name}: [{section}.{language}] {strength}: no such language or strength")
                for written in terms.split(","):
                    yield language, _term(written.strip(), section, WEIGHTS[strength], path)


def _term(written: str, section: str, weight: float, path: Path) -> Term:
    text, _, division = written.partition("@")
    if not text or (division and section_of(division) != section):
        raise LexiconError(f"{path.name}: [{section}] {written!r}: no term, or a division of another section")
    return Term(lower(text), section, division or None, weight)
