"""Dropping a document into the watch folder so that it is durable before anyone is told so (invariant 3)."""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from llm_scheduler.ingest.spool.file_io import write_file
from llm_scheduler.ingest.spool.renames import sync_all
from llm_scheduler.jobs.document import ID_PATTERN

# Where the API's documents arrive, inside the first watch folder.
FOLDER = "api"
_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".txt", ".md", ".log", ".gz"})
_SYNCED_ALONE = 2  # files; more are made durable by one sync of the file system
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_NAMED_ID = re.compile(rf"(?:^|\.)({ID_PATTERN.pattern})(?:\.|$)")


class Dropped(NamedTuple):
    """A document to be dropped. `name` is what the sender calls the file; only its harmless characters survive."""

    id: str
    raw: bytes
    name: str | None = None

    @property
    def source(self) -> str:
        """Its path below the watch folder."""
        return f"{FOLDER}/{_file_name(self.id, self.name)}"


def drop(watch: str, documents: Sequence[Dropped]) -> None:
    """Write documents under `<watch>/api/` and sync them together: all of them or none. Raises OSError.

    Their names are there only once their bytes are durable, and it returns only once their names are.
    """
    folder = os.path.join(watch, FOLDER)
    if not os.path.isdir(folder):
        os.makedirs(folder, exist_ok=True)
        sync_folder(watch)
    alone = len(documents) <= _SYNCED_ALONE
    unfinished = [os.path.join(folder, f".{each.id}.tmp") for each in documents]
    placed: list[str] = []
    try:
        for each, path in zip(documents, unfinished, strict=True):
            write_file(path, each.raw, 0o640, fresh=True, sync=alone)
        if not alone:
            sync_all(folder)
        for each, path in zip(documents, unfinished, strict=True):
            place = os.path.join(watch, each.source)
            os.rename(path, place)
            placed.append(place)
        sync_folder(folder)
    except OSError:
        # What has got its name may have been taken by ingest already: then it is accepted, whatever is answered.
        for path in (*unfinished, *placed):
            if os.path.lexists(path):
                os.unlink(path)
        raise


def sync_folder(folder: str) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def id_in_name(source: str) -> str | None:
    """The id that `drop` gave a document, read back from its source; None for any other file."""
    folder, _, name = source.rpartition("/")
    found = _NAMED_ID.findall(name) if folder == FOLDER else []
    return found[-1] if found else None  # the last: one before it is part of what the sender called the file


def _file_name(document_id: str, name: str | None) -> str:
    stem, suffix = os.path.splitext(_UNSAFE.sub("_", os.path.basename(name or "")).lstrip("."))
    if not stem:
        return f"{document_id}.json"
    # A suffix that says "unfinished" to ingest would keep the file from ever being taken.
    return f"{stem[:100]}.{document_id}{suffix[:16] if suffix.lower() in _SUFFIXES else '.json'}"
