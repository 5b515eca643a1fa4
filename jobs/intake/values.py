"""Walks over parsed JSON values. None of them recurses, so no document is too deep for them."""

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any


def walk(value: Any) -> Iterator[Any]:
    """`value` and every value in it, in no particular order, without keys."""
    pending = [value]
    while pending:
        part = pending.pop()
        yield part
        pending.extend(part.values() if isinstance(part, dict) else part if isinstance(part, list) else ())


def count_members(value: Any) -> int:
    """The number of members of all objects in `value`. Scalars are not queued, to save memory."""
    count = 0
    pending = [value]
    while pending:
        part = pending.pop()
        count += len(part) if isinstance(part, dict) else 0
        inner = part.values() if isinstance(part, dict) else part
        pending += (each for each in inner if isinstance(each, dict | list))
    return count


def is_finite(value: Any) -> bool:
    """Whether no number in `value` is NaN or infinite: JSON has no such numbers."""
    return all(math.isfinite(part) for part in walk(value) if isinstance(part, float | Decimal))


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: 1.0 equals 1.00, but true is not 1."""
    pending = [(one, other)]
    while pending:
        left, right = pending.pop()
        if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
            pending += [(value, right[key]) for key, value in left.items()]
        elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
            pending += zip(left, right, strict=True)
        elif isinstance(left, dict | list):
            return False
        elif _is_number(left) and _is_number(right):
            if left != right and float(left) != float(right):
                return False
        elif type(left) is not type(right) or left != right:
            return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)
