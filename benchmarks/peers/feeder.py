"""Feeds a peer's queue, as its user would write it: watchdog for what arrives, one scan for what is there.

`feeder.py SPOOL [once]`, run in the peer's folder and environment. `tasks.send(sources)` is the peer's own.
`once` only scans; otherwise a file called `feeding` appears in the spool once the folder is watched.
"""

import os
import queue
import signal
import sys
from pathlib import Path

import tasks
from watchdog.events import FileClosedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

_AT_ONCE = 100


class Arrivals(FileSystemEventHandler):
    """Files that were closed after writing, and are not hidden."""

    def __init__(self, raw: str) -> None:
        self._raw = raw
        self.sources: queue.SimpleQueue[str] = queue.SimpleQueue()

    def on_closed(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.src_path)
        if path.startswith(self._raw + os.sep) and not os.path.basename(path).startswith("."):
            self.sources.put(os.path.relpath(path, self._raw))


def scan(raw: str) -> None:
    """Send all that is there."""
    for folder, _, names in os.walk(raw):
        below = os.path.relpath(folder, raw)
        sources = [os.path.normpath(os.path.join(below, name)) for name in names if not name.startswith(".")]
        for start in range(0, len(sources), _AT_ONCE):
            tasks.send(sources[start : start + _AT_ONCE])


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    spool = os.path.realpath(sys.argv[1])
    raw = os.path.join(spool, "raw")
    if sys.argv[2:] == ["once"]:
        scan(raw)
        return
    arrivals = Arrivals(raw)
    observer = Observer()
    # Told what it needs to hear, watchdog asks the kernel for no more. Were it to hear of moves too, it would hold back
    # everything for 0.5 s behind each file that a worker moves out of the folder.
    observer.schedule(arrivals, raw, recursive=True, event_filter=[FileClosedEvent])
    observer.start()
    Path(spool, "feeding").touch()
    scan(raw)
    while True:
        tasks.send([arrivals.sources.get()])


if __name__ == "__main__":
    main()
