"""When a file in a watch folder is complete (invariant 4), and what is in it.

A file that parses strictly as an object, an array or a string is complete: no writer can be in the middle of it. Any
other file is complete once it has not changed for `settle_seconds`.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from typing import Any

import msgspec

from llm_scheduler.ingest.held_back import WatchPath
from llm_scheduler.ingest.spool import Candidate, FileStamp
from llm_scheduler.ingest.spool.drop import id_in_name
from llm_scheduler.ingest.spool.file_io import read_file
from llm_scheduler.ingest.spool.watch_files import SYSTEM_ERRORS
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.config import Intake, Processing
from llm_scheduler.jobs.document import Ids

_KINDS = {stat.S_IFIFO: "A FIFO", stat.S_IFSOCK: "A socket", stat.S_IFBLK: "A block device", stat.S_IFCHR: "A device"}


class CompleteFile(msgspec.Struct, frozen=True):
    """A complete file: what to claim, and what is in it."""

    candidate: Candidate
    raw: bytes
    value: Any  # None when it doesn't parse
    parts: list[bytes] = []  # the documents to split it into; empty when it is one document


class _IncompleteFile(msgspec.Struct, frozen=True):
    stamp: FileStamp
    since: float


class Finder:
    """Reads files, and remembers since when each incomplete one has not changed."""

    def __init__(
        self,
        processing: Processing,
        clock: Clock,
        id_taken: Callable[[str], bool] = lambda _: False,
        settings: Intake | None = None,
    ) -> None:
        """`id_taken`: whether an id in a file name belongs to another document already."""
        self._processing = processing
        self._settings = settings or Intake()
        self._clock = clock
        self._id_taken = id_taken
        self._limits = intake.IntakeLimits.from_config(processing)
        self._incomplete: dict[WatchPath, _IncompleteFile] = {}
        self._ids = Ids()

    @property
    def incomplete(self) -> int:
        return len(self._incomplete)

    def due(self) -> list[WatchPath]:
        """The incomplete files that have to be read again now."""
        now = self._clock.monotonic()
        settle = self._processing.settle_seconds
        return [key for key, file in self._incomplete.items() if now - file.since >= settle]

    def next_due(self) -> float | None:
        """Seconds until `due` returns something; None when no file is incomplete."""
        if not self._incomplete:
            return None
        first = min(file.since for file in self._incomplete.values())
        return max(0.0, first + self._processing.settle_seconds - self._clock.monotonic())

    def read(self, watch: str, source: str) -> CompleteFile | None:
        """The file if it is complete; None if it is not, or has gone, or is a folder or a link to one.

        Raises OSError for errors of the process or the machine only.
        """
        key = (watch, source)
        path = os.path.join(watch, source)
        try:
            status = os.lstat(path)
        except OSError as error:  # it has gone, its folder may not be entered, or its path is too long
            self._forget(key, error)
            return None
        if stat.S_ISDIR(status.st_mode) or (stat.S_ISLNK(status.st_mode) and os.path.isdir(path)):
            self._incomplete.pop(key, None)
            return None
        stamp = FileStamp.of(status)
        settled = self._is_settled(key, stamp)
        if not stat.S_ISREG(status.st_mode):
            return self._rejected(key, stamp, Code.NOT_A_FILE, _not_a_file(path, status)) if settled else None
        limit = intake.size_limit(self._processing, self._settings, by_line=intake.is_by_line(source))
        if stamp.size > limit.bytes:
            message = f"{stamp.size} bytes; {limit.key} is {limit.bytes}."
            return self._rejected(key, stamp, Code.TOO_LARGE, message) if settled else None
        if stamp.size == 0 and not settled:
            return None
        try:
            status, raw = read_file(path, limit.bytes)
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno in SYSTEM_ERRORS:
                self._forget(key, error)
                return None
            return self._rejected(key, stamp, Code.UNREADABLE, error.strerror or str(error)) if settled else None
        return self._parsed(key, FileStamp.of(status), raw)

    def _parsed(self, key: WatchPath, stamp: FileStamp, raw: bytes) -> CompleteFile | None:
        if len(raw) != stamp.size:  # it is being written now
            self._is_settled(key, FileStamp(stamp.inode, -1, 0))
            return None
        preview = intake.Preview(raw, key[1], self._limits)
        if not preview.is_complete and not self._is_settled(key, stamp):
            return None
        try:
            parts = preview.parts(self._settings.max_lines)
        except intake.IntakeRejection as rejection:
            return self._rejected(key, stamp, rejection.code, rejection.message)
        return CompleteFile(self._candidate(key, stamp, hashlib.sha256(raw).hexdigest()), raw, preview.value, parts)

    def _forget(self, key: WatchPath, error: OSError) -> None:
        """There is nothing at this path now; a later scan looks again. Raises errors of the process or the machine."""
        if error.errno in SYSTEM_ERRORS:
            raise error
        self._incomplete.pop(key, None)

    def _is_settled(self, key: WatchPath, stamp: FileStamp) -> bool:
        """Whether the file has not changed for `settle_seconds`. The first call, or a change, starts the time."""
        now = self._clock.monotonic()
        known = self._incomplete.get(key)
        if known is None or known.stamp != stamp:
            self._incomplete[key] = _IncompleteFile(stamp, now)
            return self._processing.settle_seconds <= 0
        return now - known.since >= self._processing.settle_seconds

    def _rejected(self, key: WatchPath, stamp: FileStamp, code: Code, message: str) -> CompleteFile:
        return CompleteFile(self._candidate(key, stamp, None, code, message), b"", None)

    def _candidate(
        self, key: WatchPath, stamp: FileStamp, sha256: str | None, code: Code | None = None, message: str | None = None
    ) -> Candidate:
        self._incomplete.pop(key, None)
        watch, source = key
        now = self._clock.now()
        named = id_in_name(source)
        document_id = named if named and not self._id_taken(named) else self._ids.make(now)
        return Candidate(watch, source, document_id, stamp, now, sha256, code, message)


def _not_a_file(path: str, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        target = os.fsencode(os.readlink(path)).decode("utf-8", "backslashreplace")
        return f"A symbolic link (to {target}) is not followed."
    return f"{_KINDS.get(stat.S_IFMT(status.st_mode), 'A special file')} can't be read as a document."
