"""Files that were read and routed, and wait in the watch folder until their level has room."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

MAX_HELD = 100_000  # a scan finds the others again

WatchPath = tuple[str, str]  # (watch folder, source)


class _TurnQueue:
    """The files of one level. Watch folders take turns, and within a folder its producers."""

    def __init__(self) -> None:
        self.folders: OrderedDict[str, OrderedDict[str, dict[str, None]]] = OrderedDict()

    def add(self, path: WatchPath, producer: str) -> None:
        folder = self.folders.setdefault(path[0], OrderedDict())
        folder.setdefault(producer, {})[path[1]] = None

    def pop(self) -> WatchPath:
        """The oldest file of the producer whose turn it is. Raises StopIteration when there is none."""
        watch, folder = next(iter(self.folders.items()))
        producer, sources = next(iter(folder.items()))
        source = next(iter(sources))
        self._remove(watch, producer, source)
        if producer in folder:
            folder.move_to_end(producer)
        if watch in self.folders:
            self.folders.move_to_end(watch)
        return watch, source

    def pop_from_largest(self) -> WatchPath:
        """The newest file of the producer with the most files."""
        _, watch, producer = max(
            (len(sources), watch, producer)
            for watch, folder in self.folders.items()
            for producer, sources in folder.items()
        )
        source = next(reversed(self.folders[watch][producer]))
        self._remove(watch, producer, source)
        return watch, source

    def _remove(self, watch: str, producer: str, source: str) -> None:
        folder = self.folders[watch]
        del folder[producer][source]
        if not folder[producer]:
            del folder[producer]
        if not folder:
            del self.folders[watch]


class HeldFiles:
    """The files that wait at each level, in the order in which they will be taken.

    `fairness` "arrival": first come, first served. "source": the watch folders take turns, and within a folder the
    producers that documents name in `metadata.source`. A producer that sends too much then delays only itself.
    """

    def __init__(
        self, levels: Sequence[str], fairness: Literal["arrival", "source"], max_files: int = MAX_HELD
    ) -> None:
        self.fair = fairness == "source"
        self._max_files = max_files
        self._levels = {level: _TurnQueue() for level in levels}
        self._level_of: dict[WatchPath, str] = {}

    def __len__(self) -> int:
        return len(self._level_of)

    def __contains__(self, path: WatchPath) -> bool:
        return path in self._level_of

    def has_any(self, level: str) -> bool:
        """Whether a file is held at `level`."""
        return bool(self._levels[level].folders)

    def add(self, path: WatchPath, level: str, document: Any) -> None:
        """Hold a file. When there are too many, the newest of the largest producer is dropped; a scan finds it again.

        `document` is its parsed value.
        """
        if path in self._level_of:
            return
        # "arrival": everything is of one producer in one folder, and the watch folder is a part of the source.
        queue = self._levels[level]
        queue.add(path if self.fair else ("", "\0".join(path)), _producer(document) if self.fair else "")
        self._level_of[path] = level
        if len(self._level_of) > self._max_files:
            del self._level_of[self._path(queue.pop_from_largest())]

    def take(self, level: str, count: int) -> Iterator[WatchPath]:
        """Remove and yield up to `count` files of `level`."""
        queue = self._levels[level]
        while count > 0 and queue.folders:
            count -= 1
            path = self._path(queue.pop())
            del self._level_of[path]
            yield path

    def _path(self, path: WatchPath) -> WatchPath:
        if self.fair:
            return path
        watch, _, source = path[1].partition("\0")
        return watch, source


def _producer(document: Any) -> str:
    """The producer that a document names."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name = metadata.get("source") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""
