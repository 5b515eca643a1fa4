"""Dropping a document into the watch folder so that it is durable before anyone is told so (invariant 3)."""

import os
import re

from ingest.files import write_file
from jobs.document import ID_PATTERN

# Where the API's documents arrive, inside the first watch folder.
FOLDER = "api"
_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".txt", ".md", ".log", ".gz"})
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_NAMED_ID = re.compile(rf"(?:^|\.)({ID_PATTERN.pattern})(?:\.|$)")


def drop(watch: str, document_id: str, raw: bytes, name: str | None = None) -> str:
    """Write `raw` under `<watch>/api/` and sync it. Returns its source (the path below the watch folder).

    `name` is what the sender calls the file; only its harmless characters survive. Raises OSError.
    """
    folder = os.path.join(watch, FOLDER)
    if not os.path.isdir(folder):
        os.makedirs(folder, exist_ok=True)
        sync_folder(watch)
    file_name = _file_name(document_id, name)
    unfinished = os.path.join(folder, f".{document_id}.tmp")
    try:
        write_file(unfinished, raw, 0o640, fresh=True, sync=True)
        os.rename(unfinished, os.path.join(folder, file_name))
    except OSError:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise
    sync_folder(folder)
    return f"{FOLDER}/{file_name}"


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
