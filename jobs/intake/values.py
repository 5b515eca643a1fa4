"""Everything in a JSON value, without recursion."""

from collections.abc import Iterator
from typing import Any


def parts(value: Any) -> Iterator[Any]:
    """`value` and every value in it, in no particular order; keys are left out."""
    pending = [value]
    while pending:
        part = pending.pop()
        yield part
        if isinstance(part, dict):
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
