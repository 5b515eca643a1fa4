"""Making a backup: the spool as it was at one instant, in one file, while documents come and go.

1. Files in flight are hard-linked into `temp/.backup` while ingest moves nothing (ingest/spool/freeze.py). Only the
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
from llm_scheduler.ingest.spool.freeze import FreezeLock, FreezeTimeout
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
    keep: int = 0,
    extras: Mapping[str, str] = MappingProxyType({}),
    progress: Progress = lambda _: None,
) -> Backup:
    """Back the spool up into a new file in the folder `target`. Remove all but the newest `keep` backups (0: none).

    Files of `extras` (see `extra_files`) are added if they exist. Raises `BackupError`.
    """
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
    unreadable = _UnreadableFiles()
    try:
        os.makedirs(where, exist_ok=True)
        with backup_file.open_new(unfinished) as file:
            count, stood = _write(folders, file, header, extras, progress, unreadable)
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
    return Backup(finished, header, count, size, sha256, stood, removed, sorted(unreadable.paths))


class _UnreadableFiles:
    """The files and folders that this user may not read."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def note_folder(self, error: OSError) -> None:
        """Note a folder that can't be listed. Raises errors other than of permission."""
        if isinstance(error, FileNotFoundError):
            return  # it was removed just now
        if not isinstance(error, PermissionError):
            raise error
        self.paths.add(error.filename)

    def files_below(self, folder: str) -> Iterator[str]:
        """The files below a folder. Folders that can't be listed or entered are noted and left out."""
        known, may_enter = "", True
        for path in files_below(folder, self.note_folder):
            parent = os.path.dirname(path)
            if parent != known:
                known, may_enter = parent, os.access(parent, os.X_OK, effective_ids=True)
                if not may_enter and os.path.isdir(parent):
                    self.paths.add(parent)
            if may_enter:
                yield path


def _write(
    folders: Folders,
    file: IO[bytes],
    header: BackupHeader,
    extras: Mapping[str, str],
    progress: Progress,
    unreadable: _UnreadableFiles,
) -> tuple[BackupCount, float]:
    linked = os.path.join(folders.temp, _LINKED)
    retries, moves = FreezeLock(folders.temp, "retries"), FreezeLock(folders.temp, "moves")
    try:
        with retries.hold(FREEZE_SECONDS):
            shutil.rmtree(linked, ignore_errors=True)  # of a backup that was killed
            with moves.hold(FREEZE_SECONDS):
                began = time.monotonic()
                in_flight = _link_all(folders, linked, unreadable)
                instant = _file_system_time(linked)
                stood = time.monotonic() - began
            with (
                gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_COMPRESSION, filename="") as packed,
                tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
            ):
                writer = _BackupWriter(folders, tar, in_flight, instant, progress, unreadable)
                writer.write(linked, header, extras)
            return writer.count, stood
    except FreezeTimeout:
        raise BackupError(
            f"Another backup is being made, or llm-ingest did not stop moving files within {FREEZE_SECONDS:g} s. "
            "Try again."
        ) from None
    finally:
        shutil.rmtree(linked, ignore_errors=True)
        retries.close()
        moves.close()


def _link_all(folders: Folders, linked: str, unreadable: _UnreadableFiles) -> set[int]:
    """Link the files in flight into the folder `linked`. Returns their inodes.

    Claims come first: a claim that the collector moves back to a watch folder meanwhile is found there.
    """
    inodes: set[int] = set()
    os.mkdir(linked, 0o700)
    with os.scandir(folders.temp) as entries:
        groups = sorted(entry.name for entry in entries if is_id(entry.name))
    for group in groups:
        _link(os.path.join(folders.temp, group), os.path.join(linked, "temp", group), inodes, unreadable)
    _link(folders.lines, os.path.join(linked, "temp", "lines"), inodes, unreadable)
    for number, watch in enumerate(folders.watch):
        _link(watch, os.path.join(linked, "watch", str(number)), inodes, unreadable)
    return inodes


def _link(folder: str, target: str, inodes: set[int], unreadable: _UnreadableFiles) -> None:
    for path in unreadable.files_below(folder):
        place = os.path.join(target, os.path.relpath(path, folder))
        with contextlib.suppress(FileNotFoundError):  # it was moved just now
            inode = os.lstat(path).st_ino
            if inode in inodes and os.path.basename(path) != MANIFEST:
                continue
            os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
            try:
                os.link(path, place, follow_symlinks=False)
            except PermissionError:  # another user's file: see protected_hardlinks in proc(5)
                try:
                    shutil.copy2(path, place, follow_symlinks=False)
                except PermissionError:
                    unreadable.paths.add(path)
                    continue
            inodes.add(inode)


def _file_system_time(linked: str) -> int:
    """The time now in nanoseconds by the file system's clock: later changes have no earlier `ctime`."""
    marker = os.path.join(linked, "instant")
    os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return os.stat(marker).st_ctime_ns


class _BackupWriter:
    """Writes the files that belong to the instant."""

    def __init__(
        self,
        folders: Folders,
        tar: tarfile.TarFile,
        in_flight: set[int],
        instant: int,
        progress: Progress,
        unreadable: _UnreadableFiles,
    ) -> None:
        self.count = BackupCount()
        self._folders = folders
        self._tar = tar
        self._in_flight = in_flight
        self._instant = instant
        self._progress = progress
        self._unreadable = unreadable
        self._touched: set[str] = set()  # finished before the instant, and changed (chmod, say) since

    def write(self, linked: str, header: BackupHeader, extras: Mapping[str, str]) -> None:
        """Write all files in the order of the format."""
        files_below, folders, count = self._unreadable.files_below, self._folders, self.count
        self._add_record(backup_file.HEADER, header)
        for path in files_below(os.path.join(linked, "watch")):
            count.waiting += self._add(path, os.path.relpath(path, linked))
        for path in files_below(os.path.join(linked, "temp")):
            name = os.path.relpath(path, linked)
            added = self._add(path, name)
            if name.startswith("temp/lines/"):
                count.waiting += added
            elif os.path.basename(name) != MANIFEST:
                count.in_flight += added
        for path in self._finished_originals(folders.error):
            count.in_error += self._add(path, _name("error", path, folders.error))
        for path in self._finished_originals(folders.archive):
            count.archived += self._add(path, _name("archive", path, folders.archive))
        # The collector places a report before its original, so reports are read after originals.
        for path in files_below(folders.error):
            if path.endswith(REPORT_SUFFIX) and self._is_finished_report(path):
                self._add(path, _name("error", path, folders.error))
        for path in files_below(folders.output):
            if self._is_finished_report(path):
                count.results += self._add(path, _name("output", path, folders.output))
        for name, path in extras.items():
            if os.path.isfile(path):
                self._add(path, name)
        self._progress(count)
        self._add_record(backup_file.FOOTER, count)

    def _finished_originals(self, folder: str) -> Iterator[str]:
        """The originals in a folder that were finished at the instant."""
        for path in self._unreadable.files_below(folder):
            if folder == self._folders.error and path.endswith(REPORT_SUFFIX):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                if status.st_ino in self._in_flight:
                    continue
                if status.st_ctime_ns >= self._instant:
                    if self._arrived_since(path):
                        continue
                    self._touched.add(path)
                yield path

    def _arrived_since(self, original: str) -> bool:
        """Whether an original that changed since the instant also arrived since: then its report did too.

        It may be from a file that was split, or an encrypted copy, of something that the backup has as in flight. But
        it may also be an old file whose mode was changed.
        """
        for report in report_paths(self._folders, original):
            with contextlib.suppress(OSError):
                return os.lstat(report).st_mtime_ns >= self._instant
        return True

    def _is_finished_report(self, report: str) -> bool:
        """Whether the original of a report is in the backup as finished."""
        try:
            if os.lstat(report).st_ctime_ns < self._instant:
                return True
            for home in original_paths(self._folders, report):
                if os.path.lexists(home):
                    return home in self._touched or os.lstat(home).st_ctime_ns < self._instant
        except FileNotFoundError:
            return False
        return True

    def _own_path(self, path: str) -> str:
        """The path in the spool of a file that was linked for this backup."""
        linked = os.path.join(self._folders.temp, _LINKED)
        top, _, rest = os.path.relpath(path, linked).partition("/")
        if top == "temp":
            return os.path.join(self._folders.temp, rest)
        if top == "watch":
            number, _, rest = rest.partition("/")
            return os.path.join(self._folders.watch[int(number)], rest)
        return path

    def _add(self, path: str, name: str) -> bool:
        """Add a file, link or pipe. Returns False when it has gone or can't be read."""
        try:
            found: tarfile.TarInfo | None = self._tar.gettarinfo(path, name)
            member = found or tarfile.TarInfo(name)  # tar has no sockets: it becomes an empty file
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            if member.islnk():  # the second name of a file that was linked for this backup
                member.type, member.linkname = tarfile.REGTYPE, ""
            if found and member.isreg():
                with open(path, "rb") as file:
                    self._add_content(member, file)
            else:
                self._tar.addfile(member)
        except FileNotFoundError:
            return False
        except PermissionError:
            self._unreadable.paths.add(self._own_path(path))
            return False
        self.count.bytes += member.size
        self._progress(self.count)
        return True

    def _add_content(self, member: tarfile.TarInfo, file: IO[bytes]) -> None:
        member.size = os.fstat(file.fileno()).st_size
        if member.size > _IN_MEMORY:
            self._tar.addfile(member, _PaddedFile(file))
            return
        content = file.read()  # its size may have changed, if it is being written
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))

    def _add_record(self, name: str, record: BackupHeader | BackupCount) -> None:
        content = msgspec.json.encode(record)
        member = tarfile.TarInfo(name)
        member.size, member.mtime = len(content), int(time.time())
        self._tar.addfile(member, io.BytesIO(content))


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


def _name(top: str, path: str, folder: str) -> str:
    return f"{top}/{os.path.relpath(path, folder)}"
