"""One thing that is wrong with a configuration."""

from typing import NamedTuple


class Problem(NamedTuple):
    """`key` is a dotted path, `value` what stands there (secrets masked), `allowed` what may."""

    key: str
    value: str
    allowed: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f" Did you mean {self.nearest!r}?" if self.nearest else ""
        return f"{self.key}: {self.value} is not allowed here. Allowed: {self.allowed}.{hint}"
