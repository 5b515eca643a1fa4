"""Making a backup: the spool as it was at one instant, in one file, while documents come and go.

1. Files in flight are hard-linked into `temp/.backup` while ingest moves nothing (ingest/spool/locks.py). Only the
   collector moves files then, from claims to the archive or the error folder. Such a file keeps its inode.
2. Everything is written to the file. Until its end, no document is retried, so finished originals stay where they are.

A document that finished after the instant is in the backup as a claim: after a restore it is worked on again, and
committed once. A document that arrived after the instant is not in it, nor are the documents of a file split since.
"""

import contextlib
import gzip
import io
import os
import platform
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import IO

import msgspec

from llm_scheduler.ingest.spool import backup_file
from llm_scheduler.ingest.spool.backup_file import Backup, BackupCount, BackupError, BackupHeader, Progress
from llm_scheduler.ingest.spool.claims import MANIFEST
from llm_scheduler.ingest.spool.file_io import sync_all
from llm_scheduler.ingest.spool.finished_files import original_paths, report_paths
from llm_scheduler.ingest.spool.folders import Folders, explain, files_below
from llm_scheduler.ingest.spool.locks import FreezeLock, FreezeTimeout
from llm_scheduler.ingest.spool.names import REPORT_SUFFIX
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.document import is_id

FREEZE_SECONDS = 30.0
_LINKED = ".backup"  # below the temp folder
_COMPRESSION = 4  # higher levels take a third more time to save a few per cent
_IN_MEMORY = 32 * 1024 * 1024


def make(
    folders: Folders,
    target: str,
    keep: int = 0,  # the newest backups; the others are removed. 0: none is removed
    extras: Mapping[str, str] = MappingProxyType({}),  # see `extra_files`; added if they exist
    progress: Progress = lambda _: None,
) -> Backup:
    """Back the spool up into a new file in the folder `target`. Raises `BackupError`."""
    where = os.path.abspath(target)
    for key, path in folders.named():
        if os.path.commonpath([path, where]) == path:
            raise BackupError(f"{where} lies in {path} (directories.{key}). Choose a folder outside of the spool.")
    now = datetime.now(UTC)
    header = BackupHeader(
        backup_file.FORMAT, f"{now:%Y-%m-%dT%H:%M:%SZ}", platform.node(), __version__, list(folders.watch)
    )
    name = f"{backup_file.PREFIX}{header.host}-{now:%Y%m%dT%H%M%SZ}{backup_file.SUFFIX}"
    unfinished, finished = os.path.join(where, f".{name}.tmp"), os.path.join(where, name)
    try:
        os.makedirs(where, exist_ok=True)
        with backup_file.open_new(unfinished) as file:
            with (
                gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_COMPRESSION, filename="") as packed,
                tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
            ):
                writer = _BackupWriter(folders, tar, progress)
                stood = writer.write(header, extras)
            file.flush()
            os.fsync(file.fileno())
        os.rename(unfinished, finished)
        sync_all(where)
        removed = list(_prune(where, f"{backup_file.PREFIX}{header.host}-", keep))
    except OSError as error:
        raise BackupError(explain(error, None if error.filename else where)) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
    size, sha256 = os.path.getsize(finished), backup_file.digest(finished)
    return Backup(finished, header, writer.count, size, sha256, stood, removed, sorted(writer.unreadable))


@dataclass
class _BackupWriter:
    """Finds and writes the files that belong to one instant."""

    folders: Folders
    tar: tarfile.TarFile
    progress: Progress
    count: BackupCount = field(default_factory=BackupCount)
    unreadable: set[str] = field(default_factory=set)  # the files and folders that this user may not read
    in_flight: set[int] = field(default_factory=set)  # inodes
    touched: set[str] = field(default_factory=set)  # finished before the instant, and changed (chmod, say) since
    instant: int = 0  # nanoseconds by the file system's clock

    def write(self, header: BackupHeader, extras: Mapping[str, str]) -> float:
        """Write a whole backup. Returns for how many seconds ingest could not move files. Raises OSError."""
        temp = self.folders.temp
        linked = os.path.join(temp, _LINKED)
        retries, moves = FreezeLock(temp, "retries"), FreezeLock(temp, "moves")
        try:
            with retries.hold(FREEZE_SECONDS):
                shutil.rmtree(linked, ignore_errors=True)  # of a backup that was killed
                with moves.hold(FREEZE_SECONDS):
                    began = time.monotonic()
                    self._link_all(linked)
                    self.instant = _file_system_time(linked)
                    stood = time.monotonic() - began
                self._add_all(linked, header, extras)
            return stood
        except FreezeTimeout:
            raise BackupError(
                f"Another backup is being made, or llm-ingest did not stop moving files within {FREEZE_SECONDS:g} s. "
                "Try again."
            ) from None
        finally:
            shutil.rmtree(linked, ignore_errors=True)
            retries.close()
            moves.close()

    def _link_all(self, linked: str) -> None:
        """Link the files in flight into the folder `linked`, and note their inodes.

        Claims come first: a claim that the collector moves back to a watch folder meanwhile is found there.
        """
        os.mkdir(linked, 0o700)
        with os.scandir(self.folders.temp) as entries:
            groups = sorted(entry.name for entry in entries if is_id(entry.name))
        for group in groups:
            self._link(os.path.join(self.folders.temp, group), os.path.join(linked, "temp", group))
        self._link(self.folders.lines, os.path.join(linked, "temp", "lines"))
        for number, watch in enumerate(self.folders.watch):
            self._link(watch, os.path.join(linked, "watch", str(number)))

    def _link(self, folder: str, target: str) -> None:
        for path in self._files_below(folder):
            place = os.path.join(target, os.path.relpath(path, folder))
            with contextlib.suppress(FileNotFoundError):  # it was moved just now
                inode = os.lstat(path).st_ino
                if inode in self.in_flight and os.path.basename(path) != MANIFEST:
                    continue
                os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
                try:
                    os.link(path, place, follow_symlinks=False)
                except PermissionError:  # another user's file: see protected_hardlinks in proc(5)
                    try:
                        shutil.copy2(path, place, follow_symlinks=False)
                    except PermissionError:
                        self.unreadable.add(path)
                        continue
                self.in_flight.add(inode)

    def _files_below(self, folder: str) -> Iterator[str]:
        """The files below a folder. Folders that can't be listed or entered are noted and left out."""
        known, may_enter = "", True
        for path in files_below(folder, self._note_folder):
            parent = os.path.dirname(path)
            if parent != known:
                known, may_enter = parent, os.access(parent, os.X_OK, effective_ids=True)
                if not may_enter and os.path.isdir(parent):
                    self.unreadable.add(parent)
            if may_enter:
                yield path

    def _note_folder(self, error: OSError) -> None:
        """Note a folder that can't be listed. Raises errors other than of permission."""
        if isinstance(error, FileNotFoundError):
            return  # it was removed just now
        if not isinstance(error, PermissionError):
            raise error
        self.unreadable.add(error.filename)

    def _add_all(self, linked: str, header: BackupHeader, extras: Mapping[str, str]) -> None:
        """Add all files in the order of the format."""
        folders = self.folders
        self._add_record(backup_file.HEADER, header)
        for part in ("watch", "temp"):
            for path in self._files_below(os.path.join(linked, part)):
                self._add(path, os.path.relpath(path, linked))
        for top, folder in (("error", folders.error), ("archive", folders.archive)):
            for path in self._files_below(folder):
                if not (top == "error" and path.endswith(REPORT_SUFFIX)) and self._is_finished_original(path):
                    self._add(path, f"{top}/{os.path.relpath(path, folder)}")
        # The collector places a report before its original, so reports are read after originals.
        for top, folder in (("error", folders.error), ("output", folders.output)):
            for path in self._files_below(folder):
                if (top == "output" or path.endswith(REPORT_SUFFIX)) and self._is_finished_report(path):
                    self._add(path, f"{top}/{os.path.relpath(path, folder)}")
        for name, path in extras.items():
            if os.path.isfile(path):
                self._add(path, name)
        self.progress(self.count)
        self._add_record(backup_file.FOOTER, self.count)

    def _is_finished_original(self, path: str) -> bool:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return False
        if status.st_ino in self.in_flight:
            return False
        if status.st_ctime_ns >= self.instant:
            if self._arrived_since(path):
                return False
            self.touched.add(path)
        return True

    def _arrived_since(self, original: str) -> bool:
        """Whether an original that changed since the instant also arrived since: then its report did too.

        It may be from a file that was split, or an encrypted copy, of something that the backup has as in flight. But
        it may also be an old file whose mode was changed.
        """
        for report in report_paths(self.folders, original):
            with contextlib.suppress(OSError):
                return os.lstat(report).st_mtime_ns >= self.instant
        return True

    def _is_finished_report(self, report: str) -> bool:
        """Whether the original of a report is in the backup as finished."""
        try:
            if os.lstat(report).st_ctime_ns < self.instant:
                return True
            for home in original_paths(self.folders, report):
                if os.path.lexists(home):
                    return home in self.touched or os.lstat(home).st_ctime_ns < self.instant
        except FileNotFoundError:
            return False
        return True

    def _add(self, path: str, name: str) -> None:
        """Add a file, link or pipe, unless it has gone or can't be read."""
        try:
            found: tarfile.TarInfo | None = self.tar.gettarinfo(path, name)
            member = found or tarfile.TarInfo(name)  # tar has no sockets: it becomes an empty file
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            if member.islnk():  # the second name of a file that was linked for this backup
                member.type, member.linkname = tarfile.REGTYPE, ""
            if found and member.isreg():
                with open(path, "rb") as file:
                    self._add_content(member, file)
            else:
                self.tar.addfile(member)
        except FileNotFoundError:
            return
        except PermissionError:
            # For a linked file, its own path in the spool.
            own = None if name in backup_file.EXTRA_NAMES else backup_file.target_path(name, self.folders)
            self.unreadable.add(own or path)
            return
        self.count.add(name, member.size)
        self.progress(self.count)

    def _add_content(self, member: tarfile.TarInfo, file: IO[bytes]) -> None:
        member.size = os.fstat(file.fileno()).st_size
        if member.size > _IN_MEMORY:
            self.tar.addfile(member, _PaddedFile(file))
            return
        content = file.read()  # its size may have changed, if it is being written
        member.size = len(content)
        self.tar.addfile(member, io.BytesIO(content))

    def _add_record(self, name: str, record: BackupHeader | BackupCount) -> None:
        content = msgspec.json.encode(record)
        member = tarfile.TarInfo(name)
        member.size, member.mtime = len(content), int(time.time())
        self.tar.addfile(member, io.BytesIO(content))


def _file_system_time(linked: str) -> int:
    """The time now in nanoseconds by the file system's clock: later changes have no earlier `ctime`."""
    marker = os.path.join(linked, "instant")
    os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return os.stat(marker).st_ctime_ns


class _PaddedFile(io.RawIOBase):
    """A file that always returns as many bytes as asked for: zeros where it has become shorter."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size).ljust(max(size, 0), b"\0")


def _prune(folder: str, prefix: str, keep: int) -> Iterator[str]:
    """Remove all but the newest `keep` backups; yields the removed paths."""
    if not keep:
        return
    found = sorted(name for name in os.listdir(folder) if name.startswith(prefix) and name.endswith(backup_file.SUFFIX))
    for name in found[:-keep]:
        path = os.path.join(folder, name)
        os.unlink(path)
        yield path
