"""Where a finished document's files are: looked up by its source, and believed only with its id in them."""

import os
from typing import Any, NamedTuple

import msgspec

from llm_scheduler.ingest.spool.commit import SIDECAR
from llm_scheduler.ingest.spool.folders import Folders
from llm_scheduler.ingest.spool.renames import among_lines, names_for, within
from llm_scheduler.jobs.crash import Evidence
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.receipt import Repair, Warned
from llm_scheduler.jobs.sealing import masked
from llm_scheduler.jobs.store.ledger import Entry


class Place(NamedTuple):
    """A finished document on disk. `report` is its result, or the report of what was wrong with it."""

    report: str
    original: str | None


class _Known(msgspec.Struct):
    id: str


class Told(msgspec.Struct):
    """What a result or an error report says beside what the ledger knows. The place is null where there is none."""

    line: int | None = None
    column: int | None = None
    offset: int | None = None
    repairs: list[Repair] = []
    warnings: list[Warned] = []
    evidence: list[Evidence] = []


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


def find(folders: Folders, entry: Entry) -> Place | None:
    """The files of a document that is final; None where they are not (any more), or on another host."""
    if entry.status == Status.DONE:
        reports, originals, ending = folders.output, folders.archive, ""
    elif entry.status in (Status.REJECTED, Status.CANCELLED):
        reports, originals, ending = folders.error, folders.error, SIDECAR
    else:
        return None
    for name in names_for(within(entry.source), entry.id, ending):
        report = os.path.join(reports, name + ending)
        if _id_in(report) == entry.id:
            homes = (os.path.join(originals, name), os.path.join(originals, among_lines(name)))
            return Place(report, next((home for home in homes if os.path.lexists(home)), None))
    return None


def told(report: str) -> Told | None:
    """What a report says; None when it can't be read (any more)."""
    try:
        with open(report, "rb") as file:
            return msgspec.json.decode(file.read(), type=Told)
    except (OSError, msgspec.DecodeError):
        return None


def _id_in(report: str) -> str | None:
    try:
        with open(report, "rb") as file:
            return msgspec.json.decode(file.read(), type=_Known).id
    except (OSError, ValueError):
        return None
