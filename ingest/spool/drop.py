"""Dropping documents into the watch folder: they are durable before the caller may acknowledge them (invariant 3)."""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from llm_scheduler.ingest.spool.file_io import sync_all, sync_folder, write_file
from llm_scheduler.ingest.spool.names import unfinished_path
from llm_scheduler.jobs.document import ID_PATTERN

FOLDER = "api"  # in the first watch folder
_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".txt", ".md", ".log", ".gz"})
_SYNCED_SINGLY = 2  # files; for more, one sync of the file system is cheaper
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_ID_IN_NAME = re.compile(rf"(?:^|\.)({ID_PATTERN.pattern})(?:\.|$)")


class NewDocument(NamedTuple):
    """A document to drop."""

    id: str
    raw: bytes
    name: str | None = None  # the sender's file name; unsafe characters in it are replaced

    @property
    def source(self) -> str:
        """Its path below the watch folder."""
        stem, suffix = os.path.splitext(_UNSAFE.sub("_", os.path.basename(self.name or "")).lstrip("."))
        if not stem:
            return f"{FOLDER}/{self.id}.json"
        # Other suffixes are replaced: ingest would never take a file called `.part`, say.
        return f"{FOLDER}/{stem[:100]}.{self.id}{suffix[:16] if suffix.lower() in _SUFFIXES else '.json'}"


def drop(watch: str, documents: Sequence[NewDocument]) -> None:
    """Write documents under `<watch>/api/` and sync them together: all of them or none. Raises OSError.

    The bytes are durable before the names appear. The names are durable when this returns.
    """
    folder = os.path.join(watch, FOLDER)
    if not os.path.isdir(folder):
        os.makedirs(folder, exist_ok=True)
        sync_folder(watch)
    singly = len(documents) <= _SYNCED_SINGLY
    unfinished = [unfinished_path(folder, each.id) for each in documents]
    placed: list[str] = []
    try:
        for each, path in zip(documents, unfinished, strict=True):
            write_file(path, each.raw, 0o640, fresh=True, sync=singly)
        if not singly:
            sync_all(folder)
        for each, path in zip(documents, unfinished, strict=True):
            place = os.path.join(watch, each.source)
            os.rename(path, place)
            placed.append(place)
        sync_folder(folder)
    except OSError:
        # Ingest may have claimed a document that got its name. That one is accepted, although the caller gets an error.
        for path in (*unfinished, *placed):
            if os.path.lexists(path):
                os.unlink(path)
        raise


def id_in_name(source: str) -> str | None:
    """The id that `drop` put into the name of a document; None for any other source."""
    folder, _, name = source.rpartition("/")
    found = _ID_IN_NAME.findall(name) if folder == FOLDER else []
    return found[-1] if found else None  # an earlier one is part of the sender's name
