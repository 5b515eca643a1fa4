"""A contender's folders: filled before a run, counted during it, checked after it."""

import os
import shutil
import time
from pathlib import Path

from benchmarks import corpus

SWEPT = "swept"
SLOW_SECONDS = 300.0  # EXT4_RECENTCY_DIRTY of fs/ext4/ialloc.c


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

    @property
    def directories(self) -> dict[str, str]:
        """The configuration's `directories`."""
        return {
            "watch_directory": str(self.raw),
            "output_directory": str(self.processed),
            "archive_directory": str(self.archive),
            "error_directory": str(self.errors),
            "temp_directory": str(self.temp),
        }

    def fill(self, count: int) -> None:
        """Write a backlog into `raw` and sync it, so that a run does not pay for that."""
        self._names = corpus.write(str(self.raw), count)
        self._count = count
        self._full.clear()
        os.sync()

    def archived(self) -> int:
        """How many originals are in the archive. A complete folder (1,000) is not listed again."""
        total = 1000 * len(self._full)
        for name in self._names:
            if name not in self._full:
                found = len(_names(self.archive / name))
                total += found
                if found == 1000:
                    self._full.add(name)
        return total

    def ended(self) -> float:
        """Epoch seconds of the last rename into `processed` or `archive`, from the folders' modification times."""
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


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def sweep(folder: Path) -> None:
    """Remove what runs left in `folder`, after the last run.

    Not between runs: ext4 skips inodes freed in the last minutes one by one. After 40,000 deleted files, creating a
    file took three times the CPU time, and the plain loop ran at a fifth of its rate.
    """
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
    (folder / SWEPT).touch()


def seconds_since_sweep(folder: Path) -> float:
    """How long ago files were deleted here; infinity if unknown."""
    try:
        return time.time() - (folder / SWEPT).stat().st_mtime
    except FileNotFoundError:
        return float("inf")
