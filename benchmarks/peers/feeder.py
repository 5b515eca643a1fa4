"""Feeds a peer's queue as its user would: watchdog for new files, one scan for files that exist.

`feeder.py SPOOL [once]`, run in the peer's folder and environment. `tasks.send(sources)` is the peer's own.
`once` only scans; otherwise the file `feeding` appears in the spool when the watch has begun.
"""

import os
import queue
import signal
import sys
from pathlib import Path

import tasks
from watchdog.events import FileClosedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

_BATCH = 100


class Arrivals(FileSystemEventHandler):
    """Files that were closed after writing and are not hidden."""

    def __init__(self, raw: str) -> None:
        self._raw = raw
        self.sources: queue.SimpleQueue[str] = queue.SimpleQueue()

    def on_closed(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.src_path)
        if path.startswith(self._raw + os.sep) and not os.path.basename(path).startswith("."):
            self.sources.put(os.path.relpath(path, self._raw))


def scan(raw: str) -> None:
    """Send every file that exists."""
    for folder, _, names in os.walk(raw):
        below = os.path.relpath(folder, raw)
        sources = [os.path.normpath(os.path.join(below, name)) for name in names if not name.startswith(".")]
        for start in range(0, len(sources), _BATCH):
            tasks.send(sources[start : start + _BATCH])


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    spool = os.path.realpath(sys.argv[1])
    raw = os.path.join(spool, "raw")
    if sys.argv[2:] == ["once"]:
        scan(raw)
        return
    arrivals = Arrivals(raw)
    observer = Observer()
    # With this filter watchdog asks the kernel for nothing else. With move events it would delay all events for 0.5 s
    # behind each file that a worker moves out of the folder.
    observer.schedule(arrivals, raw, recursive=True, event_filter=[FileClosedEvent])
    observer.start()
    Path(spool, "feeding").touch()
    scan(raw)
    while True:
        tasks.send([arrivals.sources.get()])


if __name__ == "__main__":
    main()
