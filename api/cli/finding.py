"""Where a document's files are: looked up by its source, and believed only with its id in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ingest.spool import Folders
from ingest.spool.committing import SIDECAR
from ingest.spool.renaming import names_for, within
from jobs.document import Status
from jobs.sealing import masked

if TYPE_CHECKING:
    from jobs.config import Config
    from jobs.ledger import Entry


class Place(NamedTuple):
    """A finished document on disk. `report` is its result, or the report of what was wrong with it."""

    report: str
    original: str | None


class _Known(msgspec.Struct):
    id: str


class Position(msgspec.Struct):
    """Where in the text an error is, as its report says."""

    line: int | None = None
    column: int | None = None
    offset: int | None = None


class Published(msgspec.Struct):
    """What a result says of the document in it."""

    quality: str
    repairs: list[dict[str, Any]]
    document: msgspec.Raw
    envelope: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The document, laid out, with `***` for what is sealed in it."""
        return msgspec.json.format(masked(bytes(self.document)), indent=2).decode("utf-8", "backslashreplace")


def published(report: str) -> Published:
    """The document in a file of the output folder. Raises OSError and msgspec.DecodeError."""
    with open(report, "rb") as file:
        return msgspec.json.decode(file.read(), type=Published)


def find(config: Config, entry: Entry) -> Place | None:
    """The files of a document that is done or rejected; None where they are not (any more), or on another host."""
    folders = Folders.of(config.directories)
    if entry.status == Status.DONE:
        reports, originals, ending = folders.output, folders.archive, ""
    elif entry.status == Status.REJECTED:
        reports, originals, ending = folders.error, folders.error, SIDECAR
    else:
        return None
    for name in names_for(within(entry.source), entry.id, ending):
        report = os.path.join(reports, name + ending)
        if _id_in(report) == entry.id:
            folder, base = os.path.split(name)
            homes = (os.path.join(originals, name), os.path.join(originals, f"{folder}.lines", base))
            return Place(report, next((home for home in homes if os.path.lexists(home)), None))
    return None


def position(report: str) -> dict[str, Any]:
    """line, column and offset from an error report; empty where it has none."""
    try:
        with open(report, "rb") as file:
            found = msgspec.json.decode(file.read(), type=Position)
    except (OSError, msgspec.DecodeError):
        return {}
    return {} if found.line is None else dict(msgspec.structs.asdict(found))


def _id_in(report: str) -> str | None:
    try:
        with open(report, "rb") as file:
            return msgspec.json.decode(file.read(), type=_Known).id
    except (OSError, ValueError):
        return None
