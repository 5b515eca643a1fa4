"""Which files in the watch folders are documents, and when each is complete (invariant 4).

A file that parses strictly as an object, an array or a string is complete: no writer can be in the middle of it.
Any other file is complete once it has stopped changing for `settle_seconds`, and is then taken for what it is.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from llm_scheduler.ingest.splitter import parts_of
from llm_scheduler.ingest.spool.claims import Found, Seen
from llm_scheduler.ingest.spool.drop import id_in_name
from llm_scheduler.ingest.spool.file_io import read_whole
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.config import Intake, Processing
from llm_scheduler.jobs.document import Ids

_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".filepart", ".swp", ".swx", "~")
# Errors that are this process's or the machine's; any other is that of the one file.
_NOT_THE_FILE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "lost+found", "$recycle.bin"})


def is_ignored(name: str) -> bool:
    """Whether a name is that of no document: hidden, unfinished, or what operating systems and editors leave about."""
    lowered = name.lower()
    return (
        name.startswith(".")
        or lowered.endswith(_UNFINISHED)
        or lowered in _LITTER
        or (name.startswith("#") and name.endswith("#"))
    )


def is_ignored_path(source: str) -> bool:
    """Whether any part of a source is ignored."""
    return any(is_ignored(part) for part in source.split("/"))


def files(folder: str, below: str = "") -> Iterator[str]:
    """The sources (paths below `folder`) of all that might be documents, depth first; links are not followed."""
    pending = [below]
    while pending:
        part = pending.pop()
        try:
            with os.scandir(os.path.join(folder, part) if part else folder) as entries:
                for entry in entries:
                    if is_ignored(entry.name):
                        continue
                    source = f"{part}/{entry.name}" if part else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(source)
                    else:
                        yield source
        except (FileNotFoundError, NotADirectoryError):
            continue  # moved away meanwhile
        except OSError as error:
            # A folder that may not be read, or whose path is too long, concerns nobody but who made it.
            if not part or error.errno in _NOT_THE_FILE:
                raise
            continue


class Ready(msgspec.Struct, frozen=True):
    """A complete file: what to claim, its bytes, and its value (None where it doesn't parse).

    `parts` are the documents in it, where it is to be taken apart.
    """

    found: Found
    raw: bytes
    value: Any
    parts: list[bytes] = []


class _Waiting(msgspec.Struct, frozen=True):
    seen: Seen
    since: float


class Finder:
    """Looks at files, and remembers since when each incomplete one has not changed."""

    def __init__(
        self,
        processing: Processing,
        clock: Clock,
        id_taken: Callable[[str], bool] = lambda _: False,
        settings: Intake | None = None,
    ) -> None:
        self._processing = processing
        self._settings = settings or Intake()
        self._clock = clock
        self._id_taken = id_taken
        self._limits = intake.Limits(processing.max_document_bytes, processing.max_depth)
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        self._ids = Ids()

    @property
    def waiting(self) -> int:
        """How many files are incomplete as yet."""
        return len(self._waiting)

    def due(self) -> list[tuple[str, str]]:
        """(watch folder, source) of incomplete files whose time has come to be looked at again."""
        now = self._clock.monotonic()
        return [key for key, waiting in self._waiting.items() if now - waiting.since >= self._processing.settle_seconds]

    def next_due(self) -> float | None:
        """Seconds until `due` will have something; None while nothing is waiting."""
        if not self._waiting:
            return None
        first = min(waiting.since for waiting in self._waiting.values())
        return max(0.0, first + self._processing.settle_seconds - self._clock.monotonic())

    def look(self, watch: str, source: str) -> Ready | None:
        """The file if it is complete; None if it is not, or has gone, or is a link to a folder."""
        key = (watch, source)
        path = os.path.join(watch, source)
        try:
            status = os.lstat(path)
        except OSError as error:  # gone, in a folder that may not be entered, or under too long a path
            self._pass_over(key, error)
            return None
        if stat.S_ISDIR(status.st_mode):
            self._waiting.pop(key, None)
            return None
        seen = Seen.of(status)
        settled = self._settled(key, seen)
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISLNK(status.st_mode) and os.path.isdir(path):
                self._waiting.pop(key, None)
                return None
            return self._refused(key, seen, Code.NOT_A_FILE, _kind(path, status)) if settled else None
        most, key_of_most = self._most(source)
        if seen.size > most:
            message = f"{seen.size} bytes; {key_of_most} is {most}."
            return self._refused(key, seen, Code.TOO_LARGE, message) if settled else None
        if seen.size == 0 and not settled:
            return None
        return self._read(key, path, settled)

    def _most(self, source: str) -> tuple[int, str]:
        """The bytes that a file of this name may have, and the key that says so."""
        if intake.is_by_line(source):
            return self._settings.max_lines_bytes, "intake.max_lines_bytes"
        return self._limits.max_bytes, "processing.max_document_bytes"

    def _read(self, key: tuple[str, str], path: str, settled: bool) -> Ready | None:
        try:
            seen, raw = _content(path, self._most(key[1])[0])
        except OSError as error:
            return self._unreadable(key, path, settled, error)
        if len(raw) != seen.size:  # being written at this very moment
            self._settled(key, Seen(seen.inode, -1, 0))
            return None
        complete, value = intake.glance(raw, key[1], self._limits)
        if not complete:
            if not self._settled(key, seen):
                return None
            value = intake.guess(raw, self._limits)
        try:
            parts = [] if complete and b'"custom_id"' not in raw else self._parts(raw, key[1])
        except intake.Refused as refusal:
            return self._refused(key, seen, refusal.code, refusal.message)
        return Ready(self._found(key, seen, hashlib.sha256(raw).hexdigest()), raw, value, parts)

    def _parts(self, raw: bytes, source: str) -> list[bytes]:
        return parts_of(raw, source, self._limits, self._settings.max_lines)

    def _unreadable(self, key: tuple[str, str], path: str, settled: bool, error: OSError) -> Ready | None:
        if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno in _NOT_THE_FILE:
            self._pass_over(key, error)
            return None
        try:
            seen = Seen.of(os.lstat(path))
        except OSError as gone:
            self._pass_over(key, gone)
            return None
        return self._refused(key, seen, Code.UNREADABLE, error.strerror or str(error)) if settled else None

    def _pass_over(self, key: tuple[str, str], error: OSError) -> None:
        """Nothing to take at this path, now; a later scan looks again."""
        if error.errno in _NOT_THE_FILE:
            raise error
        self._waiting.pop(key, None)

    def _settled(self, key: tuple[str, str], seen: Seen) -> bool:
        """Whether the file has been as it is now for `settle_seconds`."""
        now = self._clock.monotonic()
        waiting = self._waiting.get(key)
        if waiting is None or waiting.seen != seen:
            self._waiting[key] = _Waiting(seen, now)
            return self._processing.settle_seconds <= 0
        return now - waiting.since >= self._processing.settle_seconds

    def _refused(self, key: tuple[str, str], seen: Seen, code: Code, message: str) -> Ready:
        return Ready(self._found(key, seen, None, code, message), b"", None)

    def _found(
        self, key: tuple[str, str], seen: Seen, sha256: str | None, code: Code | None = None, message: str | None = None
    ) -> Found:
        self._waiting.pop(key, None)
        watch, source = key
        now = self._clock.now()
        named = id_in_name(source)
        document_id = named if named and not self._id_taken(named) else self._ids.make(now)
        return Found(watch, source, document_id, seen, now, sha256, code, message)


def _content(path: str, most: int) -> tuple[Seen, bytes]:
    """What `stat` says of the open file, and its bytes; one byte beyond `most` tells that there are too many."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        seen = Seen.of(os.fstat(descriptor))
        return seen, read_whole(descriptor, seen.size, most)
    finally:
        os.close(descriptor)


def _kind(path: str, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        target = os.fsencode(os.readlink(path)).decode("utf-8", "backslashreplace")
        return f"A symbolic link (to {target}) is not followed."
    kinds = {
        stat.S_IFIFO: "A FIFO",
        stat.S_IFSOCK: "A socket",
        stat.S_IFBLK: "A block device",
        stat.S_IFCHR: "A device",
    }
    return f"{kinds.get(stat.S_IFMT(status.st_mode), 'A special file')} can't be read as a document."
