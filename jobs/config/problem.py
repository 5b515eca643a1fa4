"""One fault of a configuration."""

import difflib
from collections.abc import Iterable
from typing import NamedTuple


class ConfigProblem(NamedTuple):
    """`key`: a dotted path. `value`: what the file has there, secrets masked. `nearest`: the likely intended name."""

    key: str
    value: str
    allowed: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f" Did you mean {self.nearest!r}?" if self.nearest else ""
        return f"{self.key}: {self.value} is not allowed here. Allowed: {self.allowed}.{hint}"


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name in `known` that is most similar to `word`; None if none is similar enough (`cutoff`, 0 to 1)."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None
