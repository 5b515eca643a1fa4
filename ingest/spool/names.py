"""File names in the spool: what a document's files are called, and paths that the file system accepts."""

import os
from collections.abc import Iterator

NAME_BYTES = 255  # NAME_MAX of every file system in common use
PATH_BYTES = 4095  # PATH_MAX without its NUL
REPORT_SUFFIX = ".error.json"  # an error report is called like its original, with this behind it
LINES = ".lines"  # in the archive: the originals from `a.jsonl` are in the folder `a.jsonl.lines`
_SUFFIX_BYTES = 100  # a longer "suffix" is a name with a dot in it


def unfinished_path(folder: str, document_id: str) -> str:
    """Where a document's file is written before it gets its name in `folder`."""
    return os.path.join(folder, f".{document_id}.tmp")


def sealed_copy_path(home: str, document_id: str) -> str:
    """Where the encrypted copy of an original is written before it gets the name `home`."""
    return os.path.join(os.path.dirname(home), f".{document_id}.sealed.tmp")


def with_id(source: str, document_id: str, room: int = 0) -> str:
    """`source` with the id between stem and suffix, for a name that is taken: `a/b.json` becomes `a/b.<id>.json`.

    The stem is cut so that the name is legal with `room` more bytes. It never becomes empty: a name that starts with
    the dot before the id would be hidden, and ingest would never take it from a watch folder.
    """
    folder, name = os.path.split(source)
    stem, suffix = os.path.splitext(name)
    if len(os.fsencode(suffix)) > _SUFFIX_BYTES:
        stem, suffix = name, ""
    suffix = f".{document_id}{suffix}"
    return os.path.join(folder, _cut(stem, max(0, NAME_BYTES - room - len(os.fsencode(suffix)))) + suffix)


def path_options(source: str, document_id: str, ending: str = "") -> Iterator[str]:
    """The relative paths that a document from `source` may get, the best first. `ending`: what a report's name adds."""
    fits = len(os.fsencode(os.path.basename(source))) + len(ending) <= NAME_BYTES
    if fits:
        yield source
    longer = with_id(source, document_id, room=len(ending))
    yield longer
    yield os.path.join(f"{document_id}.conflict", os.path.basename(source if fits else longer))


def line_path(source: str) -> str:
    """Where below the archive the original of a document from a split file goes: not to the path of that file."""
    folder, name = os.path.split(source)
    return os.path.join(f"{folder}{LINES}", name)


def result_paths(home: str) -> Iterator[str]:
    """Where below the output folder a result may be. `home` is its original's path below the archive."""
    yield home
    folder, name = os.path.split(home)
    if folder.endswith(LINES):
        yield os.path.join(folder.removesuffix(LINES), name)


def safe_path(source: str) -> str:
    """`source` as a path that stays below the folder it is joined to, whatever a manifest contains."""
    parts = [part for part in source.replace("\0", "").split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "unnamed"


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of `text`, cut between characters. Bytes that are not UTF-8 stay as they are."""
    raw = os.fsencode(text)
    if len(raw) <= limit:
        return text
    end = limit
    while end > limit - 4 and raw[end] & 0xC0 == 0x80:
        end -= 1
    return os.fsdecode(raw[: end if raw[end] & 0xC0 != 0x80 else limit])
