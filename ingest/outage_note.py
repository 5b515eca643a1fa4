"""A note on disk that Redis is away, for whoever is asked for the status while it is."""

import contextlib
import os

import msgspec


class OutageNote:
    """`<temp>/redis-outage.json`, written by ingest when Redis goes away and removed when it is back."""

    def __init__(self, temp: str) -> None:
        self._path = os.path.join(temp, "redis-outage.json")
        self._written = True  # one may be left over from a process that was killed

    def write(self, since: float) -> None:
        """Note that Redis has been away since epoch seconds `since`."""
        try:
            with open(self._path, "xb") as file:
                file.write(msgspec.json.encode({"since": since}))
        except OSError:
            pass  # it is there already, or the disk is in trouble too
        self._written = True

    def remove(self) -> None:
        if self._written:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._written = False
