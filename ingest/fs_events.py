"""Hints from the kernel that something was put into a watch folder. A periodic scan is the truth; this is for speed."""

import logging
import os
import queue
import sys
import time
from collections.abc import Sequence

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

_TAKEN_AT_ONCE = 10_000
_RETRY_SECONDS = 30.0  # after which a kernel that had no watches left is asked again
_MAX_HINTS = 200_000  # beyond these a scan is cheaper than listening


class Hints(FileSystemEventHandler):
    """Collects (watch folder, source) hints from watchdog's threads for the one thread that reads them."""

    def __init__(self, folders: Sequence[str], log: logging.Logger) -> None:
        self._folders = list(folders)
        self._log = log
        self._queue: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._early: list[tuple[str, str]] = []
        self._observer: BaseObserver | None = None
        self._watched: dict[str, int] = {}
        self._real: dict[str, str] = {}  # watched path: the folder as it is configured
        self._retry = float("-inf")
        self.overflowed = False

    def watch(self) -> None:
        """Watch the folders, or watch them anew when one has been replaced. Without inotify only scans are left."""
        inodes = {}
        for folder in self._folders:
            try:
                inodes[folder] = os.stat(folder).st_ino
            except OSError:
                continue
        if inodes == self._watched and (_is_alive(self._observer) or time.monotonic() < self._retry):
            return
        self.stop()
        self._watched = inodes
        self._real = {os.path.realpath(folder): folder for folder in inodes}
        try:
            self._observer = _observer()
            for real in self._real:
                self._observer.schedule(self, real, recursive=True)
            self._observer.start()
        except OSError as error:
            self._log.warning("No file events (%s); scanning instead. See fs.inotify.max_user_watches.", error)
            self.stop()
            self._retry = time.monotonic() + _RETRY_SECONDS

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            if self._observer.is_alive():
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
        if self._queue.qsize() > _MAX_HINTS:
            self.overflowed = True
            return
        path = os.fsdecode(event.dest_path or event.src_path)
        for real, folder in self._real.items():
            if path.startswith(real + os.sep):
                self._queue.put((folder, path[len(real) + 1 :]))
                return


def _is_alive(observer: BaseObserver | None) -> bool:
    """Whether all of its threads are: one ends when the folder it watches is removed, another may trip over an event.

    A folder's inode doesn't tell: one that is made anew often gets the number of the one that was removed.
    """
    if observer is None or not observer.is_alive():
        return False
    reader = getattr(observer, "_inotify_fd", None)
    return all(emitter.is_alive() for emitter in observer.emitters) and (reader is None or reader.is_alive())


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
