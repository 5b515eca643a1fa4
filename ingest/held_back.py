"""Files that were read and routed, and wait in the watch folder until their level has room."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

MOST = 100_000  # beyond these a scan finds files again

Place = tuple[str, str]  # (watch folder, source)


class _Turns:
    """The places of one level. Each watch folder has its turn, and within a folder each source its own."""

    def __init__(self) -> None:
        self.folders: OrderedDict[str, OrderedDict[str, dict[str, None]]] = OrderedDict()

    def add(self, place: Place, producer: str) -> None:
        folder = self.folders.setdefault(place[0], OrderedDict())
        folder.setdefault(producer, {})[place[1]] = None

    def pop(self) -> Place:
        """The oldest of whoever's turn it is. Raises StopIteration when there is none."""
        watch, folder = next(iter(self.folders.items()))
        producer, sources = next(iter(folder.items()))
        source = next(iter(sources))
        self._drop(watch, producer, source)
        if producer in folder:
            folder.move_to_end(producer)
        if watch in self.folders:
            self.folders.move_to_end(watch)
        return watch, source

    def pop_last_of_most(self) -> Place:
        """The newest of whoever holds most."""
        _, watch, producer = max(
            (len(sources), watch, producer)
            for watch, folder in self.folders.items()
            for producer, sources in folder.items()
        )
        source = next(reversed(self.folders[watch][producer]))
        self._drop(watch, producer, source)
        return watch, source

    def _drop(self, watch: str, producer: str, source: str) -> None:
        folder = self.folders[watch]
        del folder[producer][source]
        if not folder[producer]:
            del folder[producer]
        if not folder:
            del self.folders[watch]


class Held:
    """What is held back at each level, in the order in which it will be taken.

    `fairness` "arrival": first come, first served. "source": the watch folders take turns, and within a folder the
    producers that documents name in `metadata.source`, so that one that floods holds up nobody but itself.
    """

    def __init__(self, levels: Sequence[str], fairness: Literal["arrival", "source"], most: int = MOST) -> None:
        self.fair = fairness == "source"
        self._most = most
        self._levels = {level: _Turns() for level in levels}
        self._where: dict[Place, str] = {}

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, place: Place) -> bool:
        return place in self._where

    def waits(self, level: str) -> bool:
        """Whether anything is held at `level`."""
        return bool(self._levels[level].folders)

    def add(self, place: Place, level: str, document: Any) -> None:
        """Hold a file back. When there are too many, the newest of whoever has most is left for a scan to find."""
        if place in self._where:
            return
        # By order of arrival everybody is one producer in one folder; the folder comes back with the source.
        turns = self._levels[level]
        turns.add(place if self.fair else ("", "\0".join(place)), _producer(document) if self.fair else "")
        self._where[place] = level
        if len(self._where) > self._most:
            del self._where[self._place(turns.pop_last_of_most())]

    def take(self, level: str, count: int) -> Iterator[Place]:
        """Up to `count` places of `level`, no longer held."""
        turns = self._levels[level]
        while count > 0 and turns.folders:
            count -= 1
            place = self._place(turns.pop())
            del self._where[place]
            yield place

    def _place(self, place: Place) -> Place:
        if self.fair:
            return place
        watch, _, source = place[1].partition("\0")
        return watch, source


def _producer(document: Any) -> str:
    """Who wrote a document, as it says itself."""
    said = document.get("metadata") if isinstance(document, dict) else None
    name = said.get("source") if isinstance(said, dict) else None
    return name if isinstance(name, str) else ""
