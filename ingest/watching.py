"""Hints from the kernel that something was put into a watch folder. A periodic scan is the truth; this is for speed."""

import logging
import os
import queue
import sys
from collections.abc import Sequence

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

_TAKEN_AT_ONCE = 10_000
_MOST_HINTS = 200_000  # beyond these a scan is cheaper than listening


class Hints(FileSystemEventHandler):
    """Collects (watch folder, source) hints from watchdog's threads for the one thread that reads them."""

    def __init__(self, folders: Sequence[str], log: logging.Logger) -> None:
        self._folders = list(folders)
        self._log = log
        self._queue: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._early: list[tuple[str, str]] = []
        self._observer: BaseObserver | None = None
        self._watched: dict[str, int] = {}
        self.overflowed = False

    def watch(self) -> None:
        """Watch the folders, or watch them anew when one has been replaced. Without inotify only scans are left."""
        inodes = {}
        for folder in self._folders:
            try:
                inodes[folder] = os.stat(folder).st_ino
            except OSError:
                continue
        if inodes == self._watched and self._observer is not None and self._observer.is_alive():
            return
        self.stop()
        self._watched = inodes
        observer = _observer()
        try:
            for folder in inodes:
                observer.schedule(self, folder, recursive=True)
            observer.start()
        except OSError as error:
            self._log.warning("No file events (%s); scanning instead. See fs.inotify.max_user_watches.", error)
            return
        self._observer = observer

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(timeout=5)
            self._observer = None

    def wait(self, seconds: float) -> None:
        """Wait up to `seconds` for a hint to come."""
        try:
            self._early.append(self._queue.get(timeout=seconds))
        except queue.Empty:
            pass

    def take(self) -> list[tuple[str, str]]:
        """The hints that have come since the last time, oldest first, each once."""
        taken = dict.fromkeys(self._early)
        self._early = []
        try:
            while len(taken) < _TAKEN_AT_ONCE:
                taken[self._queue.get_nowait()] = None
        except queue.Empty:
            pass
        return list(taken)

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called on watchdog's thread."""
        if event.event_type not in ("created", "closed", "moved"):
            return
        if self._queue.qsize() > _MOST_HINTS:
            self.overflowed = True
            return
        path = os.fsdecode(event.dest_path or event.src_path)
        for folder in self._folders:
            if path.startswith(folder + os.sep):
                self._queue.put((folder, path[len(folder) + 1 :]))
                return


def _observer() -> BaseObserver:
    """watchdog's observer; on Linux one that isn't told of files leaving a folder.

    Those events are our own claims, and watchdog holds each back for half a second to pair it with an arrival,
    and all that comes behind it.
    """
    if sys.platform != "linux":
        return Observer()
    from watchdog.observers.inotify import InotifyEmitter, InotifyObserver
    from watchdog.observers.inotify_c import InotifyConstants, Mask

    class ArrivalEmitter(InotifyEmitter):
        def get_event_mask_from_filter(self) -> Mask:
            return Mask(
                InotifyConstants.IN_CREATE
                | InotifyConstants.IN_CLOSE_WRITE
                | InotifyConstants.IN_MOVED_TO
                | InotifyConstants.IN_DELETE_SELF
            )

    observer = InotifyObserver()
    observer._emitter_class = ArrivalEmitter
    return observer
