"""Which files ingest reads next: new files first, then those that were held back, then those that a scan finds."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum
from itertools import islice, repeat, takewhile

from llm_scheduler.ingest.finder import Finder
from llm_scheduler.ingest.fs_events import Hints
from llm_scheduler.ingest.held_back import MAX_HELD, HeldFiles, WatchPath
from llm_scheduler.ingest.splitter import Splitter
from llm_scheduler.ingest.spool import Folders
from llm_scheduler.ingest.spool.watch_files import files, is_ignored_path
from llm_scheduler.jobs.process.runtime import Runtime

GROUP = 256  # documents claimed together: one manifest, one sync, one round trip
_NEWEST = 16  # new files that may be read early in one step
_SCAN_STEP_SECONDS = 0.05  # between two steps of a scan


class FileOrigin(Enum):
    """Where a file to read comes from."""

    NEW = 1
    NEWEST = 2
    HELD = 3
    SCAN = 4


class FileQueue:
    """The files to read, in their order. `hints` come from the kernel; `held` are the files that were held back."""

    def __init__(self, runtime: Runtime, folders: Folders, finder: Finder, splitter: Splitter) -> None:
        config = runtime.config
        self.hints = Hints(folders.watch, runtime.log)
        self.held = HeldFiles(config.queue.priority_levels, config.processing.fairness)
        self._config = config
        self._clock = runtime.clock
        self._folders = folders
        self._finder = finder
        self._splitter = splitter
        self._new: OrderedDict[WatchPath, bool] = OrderedDict()  # by arrival; whether it was read early
        self._urgent_only = False  # this step reads only the newest files
        self._was_urgent_only = False
        self._scan: Iterator[WatchPath] | None = None
        self._next_scan = float("-inf")

    def collect(self) -> bool:
        """Add the files of new hints and incomplete files that are due. Returns whether there is anything to read."""
        for watch, source in self.hints.take():
            if is_ignored_path(source):
                continue
            path = os.path.join(watch, source)
            if os.path.isdir(path) and not os.path.islink(path):
                self.add(watch, source)
            else:
                self._new[watch, source] = False
        self._new.update((path, False) for path in self._finder.due())
        return bool(self._new or len(self.held) or self._scan is not None or self._is_scan_due())

    def add(self, watch: str, below: str = "") -> None:
        """Add the files of a watch folder, or of its subfolder `below`."""
        self._new.update(((watch, source), False) for source in islice(files(watch, below), MAX_HELD))

    def take(self, room: dict[str, int]) -> Iterator[tuple[WatchPath, FileOrigin]]:
        """The files to read in one step. Each is removed, except a `NEWEST`, which `take_urgent` removes.

        `room` limits how many held files of each level are taken. While no level has room, nothing is scanned.
        """
        self._was_urgent_only, self._urgent_only = self._urgent_only, False
        for path in self._newest():
            yield path, FileOrigin.NEWEST
        if self._urgent_only:
            return
        while self._new:
            path, _ = self._new.popitem(last=False)
            if path not in self.held:
                yield path, FileOrigin.NEW
        for level in self._config.queue.priority_levels:
            for path in self.held.take(level, room[level]):
                yield path, FileOrigin.HELD
        if max(room.values()) <= 0:
            return
        if self._scan is None and self._is_scan_due():
            self.hints.overflowed = False
            self._scan = self._all_files()
        while self._scan is not None:
            found = next(self._scan, None)
            if found is None:
                self._scan = None
                self._next_scan = self._clock.monotonic() + self._config.processing.scan_interval
            elif found not in self.held:
                yield found, FileOrigin.SCAN

    def take_urgent(self, path: WatchPath) -> None:
        """Remove a `NEWEST` file that is urgent. Every second step then reads only such files."""
        self._new.pop(path, None)
        self._urgent_only = not self._was_urgent_only

    def seconds_until_next(self) -> float:
        """Seconds until there is something to read, if no hint comes."""
        scan = _SCAN_STEP_SECONDS if self._scan else max(0.0, self._next_scan - self._clock.monotonic())
        due = self._finder.next_due()
        return scan if due is None else min(scan, due)

    def _is_scan_due(self) -> bool:
        return self.hints.overflowed or self._clock.monotonic() >= self._next_scan

    def _newest(self) -> list[WatchPath]:
        """The newest of many new files, each once: one that is dropped after ten thousand others may be urgent."""
        if len(self._new) <= GROUP:
            return []  # one step can take all of them
        newest = list(islice(takewhile(lambda path: not self._new[path], reversed(self._new)), _NEWEST))
        self._new.update(dict.fromkeys(newest, True))
        return newest

    def _all_files(self) -> Iterator[WatchPath]:
        """The files of all watch folders, which take turns, so that a large folder does not hide the others."""
        folders = [*self._folders.watch, *self._splitter.roots()]
        walks = [zip(repeat(folder), files(folder), strict=False) for folder in folders]
        while walks:
            for walk in list(walks):
                found = next(walk, None)
                if found is None:
                    walks.remove(walk)
                else:
                    yield found
