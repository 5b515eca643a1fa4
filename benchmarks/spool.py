"""A contender's folders: filled before a run, counted cheaply during it, and asked afterwards when it ended."""

import os
import shutil
from pathlib import Path

from benchmarks import corpus


class Spool:
    """`raw`, `processed`, `archive`, `errors` and `temp` below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.raw, self.processed, self.archive, self.errors, self.temp = (
            folder / name for name in ("raw", "processed", "archive", "errors", "temp")
        )
        for each in (self.raw, self.processed, self.archive):
            each.mkdir(parents=True)
        self._full: set[str] = set()
        self._names: list[str] = []
        self._count = 0

    def fill(self, count: int) -> None:
        """Put a backlog into `raw`, and have it on disk, so that nobody is charged for writing it."""
        self._names = corpus.write(str(self.raw), count)
        self._count = count
        self._full.clear()
        os.sync()

    def archived(self) -> int:
        """How many originals are in the archive. A folder that has all of its thousand is not listed again."""
        total = 1000 * len(self._full)
        for name in self._names:
            if name not in self._full:
                found = len(_names(self.archive / name))
                total += found
                if found == 1000:
                    self._full.add(name)
        return total

    def ended(self) -> float:
        """Epoch seconds of the last rename into `processed` or `archive`: the folders' own times tell."""
        places = [folder / name for folder in (self.processed, self.archive) for name in self._names]
        return max(os.stat(place).st_mtime_ns for place in places) / 1e9

    def check(self) -> None:
        """Raise unless every document has its result and its original, and nothing is left over."""
        for folder in (self.processed, self.archive):
            found = sum(len(_names(folder / name)) for name in self._names)
            if found != self._count:
                raise RuntimeError(f"{folder} holds {found} of {self._count} documents")
        left = [name for place in self._names for name in _names(self.raw / place)]
        hidden = [name for place in self._names for name in _names(self.processed / place) if name.startswith(".")]
        if left or hidden:
            raise RuntimeError(f"left over: {(left + hidden)[:5]}")

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
