"""How many of what stands in a row go together."""

from collections.abc import Iterable, Iterator


def bounded(sizes: Iterable[int], most: int) -> Iterator[int]:
    """How many of `sizes`, in their order, go into each group, so that no group comes to more than `most`.

    One that is larger by itself goes alone.
    """
    count = total = 0
    for size in sizes:
        if count and total + size > most:
            yield count
            count = total = 0
        count += 1
        total += size
    if count:
        yield count
