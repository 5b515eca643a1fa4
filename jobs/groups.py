"""Cutting a sequence into groups of bounded size."""

from collections.abc import Iterable, Iterator


def bounded(sizes: Iterable[int], max_size: int) -> Iterator[int]:
    """How many of `sizes`, in their order, go into each group of at most `max_size`. A larger one is a group alone."""
    count = total = 0
    for size in sizes:
        if count and total + size > max_size:
            yield count
            count = total = 0
        count += 1
        total += size
    if count:
        yield count
