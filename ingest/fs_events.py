"""Events of the kernel about new files in the watch folders. They are hints for speed: only the scan is complete."""

import contextlib
import logging
import os
import queue
import sys
import time
from collections.abc import Sequence

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

_MAX_TAKEN = 10_000
_RETRY_SECONDS = 30.0  # until the kernel, which had no watches left, is asked again
_MAX_HINTS = 200_000  # a scan is cheaper than more hints


class Hints(FileSystemEventHandler):
    """Hints, each (watch folder, source), from watchdog's threads. `overflowed`: some were lost, a scan is needed."""

    def __init__(self, folders: Sequence[str], log: logging.Logger) -> None:
        self._folders = folders
        self._log = log
        self._queue: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._early: list[tuple[str, str]] = []
        self._observer: BaseObserver | None = None
        self._watched: dict[str, int] = {}
        self._real: dict[str, str] = {}  # by watched path: the folder as configured
        self._retry = float("-inf")
        self.overflowed = False

    def watch(self) -> None:
        """Watch the folders; again when one was replaced. Without inotify, only scans find files."""
        inodes = {}
        for folder in self._folders:
            with contextlib.suppress(OSError):
                inodes[folder] = os.stat(folder).st_ino
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
            self._log.warning(
                "No file events (%s). Only scans find new files. Raise fs.inotify.max_user_watches.", error
            )
            self.stop()
            self._retry = time.monotonic() + _RETRY_SECONDS

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            if self._observer.is_alive():
                self._observer.join(timeout=5)
            self._observer = None

    def wait(self, seconds: float) -> None:
        """Wait up to `seconds` for a hint."""
        with contextlib.suppress(queue.Empty):
            self._early.append(self._queue.get(timeout=seconds))

    def take(self) -> list[tuple[str, str]]:
        """The hints since the last call, oldest first, each once."""
        taken = dict.fromkeys(self._early)
        self._early = []
        with contextlib.suppress(queue.Empty):
            while len(taken) < _MAX_TAKEN:
                taken[self._queue.get_nowait()] = None
        return list(taken)

    def on_any_event(self, event: FileSystemEvent) -> None:
        """watchdog calls this on its own thread."""
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
    """Whether all threads of an observer are alive. One ends when its folder is removed, or after an error.

    The folder's inode is not enough: a new folder often gets the inode number of the removed one.
    """
    if observer is None or not observer.is_alive():
        return False
    reader = getattr(observer, "_inotify_fd", None)
    return all(emitter.is_alive() for emitter in observer.emitters) and (reader is None or reader.is_alive())


def _observer() -> BaseObserver:
    """watchdog's observer; on Linux without events of files that leave a folder: these are our own claims.

    watchdog would delay each of them, and all later events, by half a second in order to pair it with an arrival.
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
