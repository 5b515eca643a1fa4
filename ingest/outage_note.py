"""A file that says since when Redis is away, for processes that want to know it while they can't ask Redis."""

import contextlib
import os

import msgspec


class _Note(msgspec.Struct):
    since: float


class OutageNote:
    """`<temp>/redis-outage.json`: ingest writes it when Redis goes away, and removes it when Redis is back."""

    def __init__(self, temp: str) -> None:
        self._path = os.path.join(temp, "redis-outage.json")

    def write(self, since: float) -> None:
        """Note that Redis has been away since epoch seconds `since`."""
        with contextlib.suppress(OSError), open(self._path, "xb") as file:  # it may exist, or the disk has a fault too
            file.write(msgspec.json.encode(_Note(since)))

    def read(self) -> float | None:
        """Since when Redis has been away (epoch seconds); None when there is no note."""
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(1000), type=_Note).since
        except (OSError, msgspec.DecodeError):
            return None

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)
