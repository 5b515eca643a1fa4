"""Files that were read and routed, and wait in the watch folder until their level has room."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

MAX_HELD = 100_000  # a scan finds the others again

WatchPath = tuple[str, str]  # (watch folder, source)


class _TurnQueue:
    """The files of one level. Watch folders take turns, and within a folder its producers."""

    def __init__(self) -> None:
        self.folders: OrderedDict[str, OrderedDict[str, dict[WatchPath, None]]] = OrderedDict()

    def add(self, path: WatchPath, watch: str, producer: str) -> None:
        self.folders.setdefault(watch, OrderedDict()).setdefault(producer, {})[path] = None

    def pop(self) -> WatchPath:
        """The oldest file of the producer whose turn it is. Raises StopIteration when there is none."""
        watch, folder = next(iter(self.folders.items()))
        producer, paths = next(iter(folder.items()))
        path = next(iter(paths))
        self._remove(watch, producer, path)
        if producer in folder:
            folder.move_to_end(producer)
        if watch in self.folders:
            self.folders.move_to_end(watch)
        return path

    def pop_from_largest(self) -> WatchPath:
        """The newest file of the producer with the most files."""
        _, watch, producer = max(
            (len(paths), watch, producer)
            for watch, folder in self.folders.items()
            for producer, paths in folder.items()
        )
        path = next(reversed(self.folders[watch][producer]))
        self._remove(watch, producer, path)
        return path

    def _remove(self, watch: str, producer: str, path: WatchPath) -> None:
        folder = self.folders[watch]
        del folder[producer][path]
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
        return bool(self._levels[level].folders)

    def add(self, path: WatchPath, level: str, document: Any) -> None:
        """Hold a file with the value `document`. When there are too many, the largest producer's newest is dropped."""
        if path in self._level_of:
            return
        queue = self._levels[level]
        # "arrival": everything counts as of one producer in one folder.
        queue.add(path, *((path[0], _producer(document)) if self.fair else ("", "")))
        self._level_of[path] = level
        if len(self._level_of) > self._max_files:
            del self._level_of[queue.pop_from_largest()]

    def take(self, level: str, count: int) -> Iterator[WatchPath]:
        """Remove and yield up to `count` files of `level`."""
        queue = self._levels[level]
        while count > 0 and queue.folders:
            count -= 1
            path = queue.pop()
            del self._level_of[path]
            yield path


def _producer(document: Any) -> str:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name = metadata.get("source") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""
