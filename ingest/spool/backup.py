"""A backup: the spool as it was at one instant, in one file, made while documents come and go.

What is in flight is linked beside itself while ingest moves nothing (ingest/spool/freeze.py): then only the collector
moves, from the claims to the archive or the error folder, and what it moves meanwhile keeps its inode. Finished
originals stay where they are while retries wait, so they can be read at leisure. A document that came to its end after
the instant is in the backup as the claim that it was: its work is done again, and committed once. One that came after
the instant is not in it, nor are the parts of a file that was taken apart since.

The file is a gzipped tar (the pax format of POSIX.1-2001). `backup.json` comes first, `complete.json` last: one
without it is not whole. Below `watch/N`, `temp`, `archive`, `error` and `output` lies what was in the folders.
"""

import contextlib
import gzip
import hashlib
import io
import os
import platform
import shutil
import stat
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import IO, TypeVar

import msgspec

from llm_scheduler.ingest.spool.claims import MANIFEST
from llm_scheduler.ingest.spool.commit import SIDECAR
from llm_scheduler.ingest.spool.file_io import write_file
from llm_scheduler.ingest.spool.folders import Folders, Trouble, explain, files_below
from llm_scheduler.ingest.spool.freeze import Gate, GateBusy
from llm_scheduler.ingest.spool.renames import among_lines, results_for, sync_all, with_id
from llm_scheduler.ingest.spool.spool_lock import SpoolLock
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import is_id, new_id

FORMAT = 1
PREFIX, SUFFIX = "llm-", ".tar.gz"
GATE_SECONDS = 30.0
_LINKED = ".backup"  # below the temp folder
_FIRST, _LAST = "backup.json", "complete.json"
_BESIDE = ("api-keys.json", "labels.jsonl")
_LEVEL = 4  # of compression: beyond it a third more time is a few per cent less
_IN_MEMORY = 32 * 1024 * 1024


class BackupError(Exception):
    """A backup can't be made or restored. The message says why and what to do; nothing has been harmed."""


class Count(msgspec.Struct):
    """How much of what is in a backup. `waiting` are files in watch folders, `in_flight` claims."""

    waiting: int = 0
    in_flight: int = 0
    archived: int = 0
    in_error: int = 0
    results: int = 0
    bytes: int = 0


class About(msgspec.Struct, frozen=True):
    """What a backup says of itself. `made_at` is in RFC 3339."""

    format: int
    made_at: str
    host: str
    version: str
    watch: list[str]


@dataclass(frozen=True)
class Backup:
    """One that was made or looked through.

    `stood_seconds`: for how long ingest had to wait for it. `left_out`: what can't be read, and so is not in it.
    """

    path: str
    about: About
    count: Count
    size: int
    sha256: str
    stood_seconds: float = 0.0
    removed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


Told = Callable[[Count], None]


def nobody(_: Count) -> None:
    """Tells nobody."""


# Making one


def beside(config: Config) -> dict[str, str]:
    """What goes with a backup and lies elsewhere, by its name in it: the API's keys, and what the router was taught."""
    return dict(zip(_BESIDE, (config.security.api_keys_file, config.intelligent_routing.labels), strict=True))


def make(
    folders: Folders, target: str, keep: int = 0, others: Mapping[str, str] = MappingProxyType({}), told: Told = nobody
) -> Backup:
    """Back the spool up into a new file in the folder `target`, and remove all but the newest `keep` (0: none).

    `others` are files from elsewhere that go with it where they are, see `beside`. `told` hears how far it is. Raises
    `BackupError`.
    """
    where = os.path.abspath(target)
    for key, path in folders.named():
        if os.path.commonpath([path, where]) == path:
            raise BackupError(f"{where} lies in {path} (directories.{key}). Choose a folder outside of the spool.")
    now = datetime.now(UTC)
    about = About(FORMAT, f"{now:%Y-%m-%dT%H:%M:%SZ}", platform.node(), __version__, list(folders.watch))
    name = f"{PREFIX}{about.host}-{now:%Y%m%dT%H%M%SZ}{SUFFIX}"
    unfinished, finished = os.path.join(where, f".{name}.tmp"), os.path.join(where, name)
    try:
        os.makedirs(where, exist_ok=True)
        with _open_new(unfinished) as file:
            unreadable = _Unreadable()
            count, stood = _write(folders, file, about, others, told, unreadable)
            file.flush()
            os.fsync(file.fileno())
        os.rename(unfinished, finished)
        sync_all(where)
        removed = list(_prune(where, f"{PREFIX}{about.host}-", keep))
    except OSError as error:
        raise BackupError(explain(error, None if error.filename else where)) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
    size, digest = os.path.getsize(finished), _digest(finished)
    return Backup(finished, about, count, size, digest, stood, removed, sorted(unreadable.paths))


class _Unreadable:
    """What this user may not read."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def folder(self, error: OSError) -> None:
        """What a walk does with a folder that it can't look into. Raises what is no matter of permission."""
        if isinstance(error, FileNotFoundError):
            return  # it was removed just now
        if not isinstance(error, PermissionError):
            raise error
        self.paths.add(error.filename)

    def below(self, folder: str) -> Iterator[str]:
        """The files below a folder; folders that can't be listed, or not entered, are kept in mind."""
        known, may_enter = "", True
        for path in files_below(folder, self.folder):
            parent = os.path.dirname(path)
            if parent != known:
                known, may_enter = parent, os.access(parent, os.X_OK, effective_ids=True)
                if not may_enter and os.path.isdir(parent):
                    self.paths.add(parent)
            if may_enter:
                yield path


def _write(
    folders: Folders, file: IO[bytes], about: About, others: Mapping[str, str], told: Told, unreadable: _Unreadable
) -> tuple[Count, float]:
    linked = os.path.join(folders.temp, _LINKED)
    retries, moves = Gate(folders.temp, "retries"), Gate(folders.temp, "moves")
    try:
        with retries.shut(GATE_SECONDS):
            shutil.rmtree(linked, ignore_errors=True)  # of one that was killed
            with moves.shut(GATE_SECONDS):
                began = time.monotonic()
                in_flight = _link(folders, linked, unreadable)
                instant = _instant(linked)
                stood = time.monotonic() - began
            with (
                gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_LEVEL, filename="") as packed,
                tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
            ):
                writing = _Writing(folders, tar, in_flight, instant, told, unreadable)
                writing.everything(linked, about, others)
            return writing.count, stood
    except GateBusy:
        raise BackupError(
            f"Another backup is being made, or llm-ingest has not stood still within {GATE_SECONDS:g} s. Try again."
        ) from None
    finally:
        shutil.rmtree(linked, ignore_errors=True)
        retries.close()
        moves.close()


def _link(folders: Folders, linked: str, unreadable: _Unreadable) -> set[int]:
    """Link what is in flight into the folder `linked`. Returns its inodes.

    The claims come first: what the collector puts back into a watch folder meanwhile is seen there at the latest.
    """
    inodes: set[int] = set()
    os.mkdir(linked, 0o700)
    with os.scandir(folders.temp) as entries:
        groups = sorted(entry.name for entry in entries if is_id(entry.name))
    for group in groups:
        _link_below(os.path.join(folders.temp, group), os.path.join(linked, "temp", group), inodes, unreadable)
    _link_below(folders.lines, os.path.join(linked, "temp", "lines"), inodes, unreadable)
    for number, watch in enumerate(folders.watch):
        _link_below(watch, os.path.join(linked, "watch", str(number)), inodes, unreadable)
    return inodes


def _link_below(folder: str, target: str, inodes: set[int], unreadable: _Unreadable) -> None:
    for path in unreadable.below(folder):
        place = os.path.join(target, os.path.relpath(path, folder))
        with contextlib.suppress(FileNotFoundError):  # it was moved on just now
            inode = os.lstat(path).st_ino
            if inode in inodes and os.path.basename(path) != MANIFEST:
                continue
            os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
            try:
                os.link(path, place, follow_symlinks=False)
            except PermissionError:  # of another user's: see protected_hardlinks in proc(5)
                try:
                    shutil.copy2(path, place, follow_symlinks=False)
                except PermissionError:
                    unreadable.paths.add(path)
                    continue
            inodes.add(inode)


def _instant(linked: str) -> int:
    """Now, as the file system's own clock has it: what has changed since has no earlier `ctime`."""
    marker = os.path.join(linked, "instant")
    os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return os.stat(marker).st_ctime_ns


class _Writing:
    """What goes into the file, in its order."""

    def __init__(
        self,
        folders: Folders,
        tar: tarfile.TarFile,
        in_flight: set[int],
        instant: int,
        told: Told,
        unreadable: _Unreadable,
    ) -> None:
        self.count = Count()
        self._folders = folders
        self._tar = tar
        self._in_flight = in_flight
        self._instant = instant
        self._told = told
        self._unreadable = unreadable
        self._touched: set[str] = set()

    def everything(self, linked: str, about: About, others: Mapping[str, str]) -> None:
        self._word(_FIRST, about)
        for path in self._unreadable.below(os.path.join(linked, "watch")):
            self.count.waiting += self._add(path, os.path.relpath(path, linked))
        for path in self._unreadable.below(os.path.join(linked, "temp")):
            name = os.path.relpath(path, linked)
            added = self._add(path, name)
            if name.startswith("temp/lines/"):
                self.count.waiting += added
            elif os.path.basename(name) != MANIFEST:
                self.count.in_flight += added
        for path in self._originals(self._folders.error, SIDECAR):
            self.count.in_error += self._add(path, _below("error", path, self._folders.error))
        for path in self._originals(self._folders.archive):
            self.count.archived += self._add(path, _below("archive", path, self._folders.archive))
        # A report is in its place before its original is: it comes after it here.
        for path in self._unreadable.below(self._folders.error):
            if path.endswith(SIDECAR) and self._belongs(path, [path.removesuffix(SIDECAR)]):
                self._add(path, _below("error", path, self._folders.error))
        for path in self._unreadable.below(self._folders.output):
            if self._belongs(path, self._homes(path)):
                self.count.results += self._add(path, _below("output", path, self._folders.output))
        for name, path in others.items():
            if os.path.isfile(path):
                self._add(path, name)  # counts in nothing but the bytes
        self._told(self.count)
        self._word(_LAST, self.count)

    def _originals(self, folder: str, not_ending: str = "") -> Iterator[str]:
        """Those that had come to their end at the instant."""
        for path in self._unreadable.below(folder):
            if not_ending and path.endswith(not_ending):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                if status.st_ino in self._in_flight:
                    continue
                if status.st_ctime_ns >= self._instant:
                    if self._came_since(path):
                        continue
                    self._touched.add(path)
                yield path

    def _came_since(self, original: str) -> bool:
        """Whether an original that has changed since the instant has come since, too: then its report has.

        It may be a part, or the sealed copy, of something that is in the backup as in flight. Somebody may as well have
        changed the mode of what has been lying there.
        """
        for report in self._reports(original):
            with contextlib.suppress(OSError):
                return os.lstat(report).st_mtime_ns >= self._instant
        return True

    def _reports(self, original: str) -> list[str]:
        """Where the report of an original may be."""
        name = os.path.relpath(original, self._folders.archive)
        if name.startswith(os.pardir):
            return [original + SIDECAR]
        return [os.path.join(self._folders.output, result) for result in results_for(name)]

    def _homes(self, report: str) -> list[str]:
        """Where the original of a result may be."""
        name = os.path.relpath(report, self._folders.output)
        return [os.path.join(self._folders.archive, home) for home in (name, among_lines(name))]

    def _belongs(self, report: str, homes: list[str]) -> bool:
        """Whether a report is one of an original that is in the backup as finished."""
        try:
            if os.lstat(report).st_ctime_ns < self._instant:
                return True
            for home in homes:
                if os.path.lexists(home):
                    return home in self._touched or os.lstat(home).st_ctime_ns < self._instant
        except FileNotFoundError:
            return False
        return True

    def _known_as(self, path: str) -> str:
        """Where a file is that has been linked for this backup."""
        linked = os.path.join(self._folders.temp, _LINKED)
        top, _, rest = os.path.relpath(path, linked).partition("/")
        if top == "temp":
            return os.path.join(self._folders.temp, rest)
        if top == "watch":
            number, _, rest = rest.partition("/")
            return os.path.join(self._folders.watch[int(number)], rest)
        return path

    def _add(self, path: str, name: str) -> bool:
        """Add one file, a link or a pipe; False where it has gone, or can't be read."""
        try:
            found: tarfile.TarInfo | None = self._tar.gettarinfo(path, name)
            about = found or tarfile.TarInfo(name)  # a socket has none: it holds nothing, and becomes an empty file
            about.uid = about.gid = 0
            about.uname = about.gname = ""
            if about.islnk():  # beside itself, for this backup's sake
                about.type, about.linkname = tarfile.REGTYPE, ""
            if found and about.isreg():
                with open(path, "rb") as file:
                    self._add_content(about, file)
            else:
                self._tar.addfile(about)
        except FileNotFoundError:
            return False
        except PermissionError:
            self._unreadable.paths.add(self._known_as(path))
            return False
        self.count.bytes += about.size
        self._told(self.count)
        return True

    def _add_content(self, about: tarfile.TarInfo, file: IO[bytes]) -> None:
        about.size = os.fstat(file.fileno()).st_size
        if about.size > _IN_MEMORY:
            self._tar.addfile(about, _Exactly(file))
            return
        content = file.read()  # of one that is being written there may be more, or less, than it had
        about.size = len(content)
        self._tar.addfile(about, io.BytesIO(content))

    def _word(self, name: str, value: About | Count) -> None:
        content = msgspec.json.encode(value)
        about = tarfile.TarInfo(name)
        about.size, about.mtime = len(content), int(time.time())
        self._tar.addfile(about, io.BytesIO(content))


class _Exactly(io.RawIOBase):
    """A file that has as many bytes as it is asked for, the last of them zeros where it has become shorter."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size).ljust(max(size, 0), b"\0")


def _prune(folder: str, prefix: str, keep: int) -> Iterator[str]:
    if not keep:
        return
    found = sorted(name for name in os.listdir(folder) if name.startswith(prefix) and name.endswith(SUFFIX))
    for name in found[:-keep]:
        path = os.path.join(folder, name)
        os.unlink(path)
        yield path


# Restoring one


def look_through(path: str, told: Told = nobody) -> Backup:
    """Read a backup from its first byte to its last. Raises `BackupError` when it is none, or not whole."""
    about = _About()
    for _ in _members(path, about):
        told(about.count)
    if about.said is None or about.complete is None:
        raise BackupError(f"{path} is not whole: its end is missing. Take an older one, or make it again.")
    if about.complete != about.count:
        raise BackupError(f"{path} doesn't hold what it says: {about.complete} and not {about.count}.")
    return Backup(path, about.said, about.count, os.path.getsize(path), _digest(path))


def restore(
    path: str,
    folders: Folders,
    others: Mapping[str, str] = MappingProxyType({}),
    told: Told = nobody,
    *,
    keep_waiting: bool = False,
) -> Backup:
    """Put a backup into the folders of an empty spool. It is read through before the first file is written.

    Of `others` (see `beside`) those are written that hold nothing yet; a file with something in it stays as it is.
    With `keep_waiting` there may be files in the watch folders: they stay, as documents that came after the backup.
    Raises `BackupError`, also when there is anything in the folders, or somebody works on them.
    """
    found = look_through(path)
    if len(found.about.watch) > len(folders.watch):
        raise BackupError(
            f"The backup has {len(found.about.watch)} watch folders ({', '.join(found.about.watch)}), and the "
            f"configuration {len(folders.watch)}. Add the others to directories.watch_directory for the time being."
        )
    locks = [SpoolLock(folders.temp, role) for role in ("ingest", "collector")]
    try:
        folders.prepare()
        for lock, role in zip(locks, ("ingest", "collector"), strict=True):
            if not lock.take():
                raise BackupError(f"llm-{role} (process {lock.holder()}) works on {folders.temp}. Stop it first.")
        for key, folder in folders.named():
            if keep_waiting and folder in folders.watch:
                continue
            if stranger := next(_documents(folder, folders), None):
                raise BackupError(
                    f"{folder} (directories.{key}) is not empty: there is {stranger}. "
                    "A backup is restored into empty folders: move what is there away, or give others."
                )
        _unpack(path, folders, others, told)
        sync_all(folders.temp)
    except Trouble as trouble:
        raise BackupError(str(trouble)) from None
    except OSError as error:
        raise BackupError(f"{explain(error)} What was restored so far is incomplete: empty the folders.") from error
    finally:
        for lock in locks:
            lock.release()
    return found


def _unpack(path: str, folders: Folders, others: Mapping[str, str], told: Told) -> None:
    owner = os.stat(folders.temp)
    links: list[tuple[str, str]] = []
    about = _About()
    for member, content in _members(path, about):
        told(about.count)
        if member.name in _BESIDE:
            place = others.get(member.name)
            if place and content is not None and _holds_nothing(place):
                _replace(place, content, owner)
            continue
        target = _target(member.name, folders)
        if target is None:
            continue
        if member.name.startswith("watch/") and os.path.lexists(target):  # a document of that name has come since
            target = with_id(target, new_id(time.time()))
        os.makedirs(os.path.dirname(target), mode=0o750, exist_ok=True)
        if member.issym():
            links.append((member.linkname, target))
        elif member.isfifo():
            os.mkfifo(target, member.mode & 0o777)
        elif content is not None:
            with _open_new(target, member.mode & 0o777) as file:
                shutil.copyfileobj(content, file)
            os.utime(target, (member.mtime, member.mtime))
    for text, target in links:  # last: nothing is written through one
        os.symlink(text, target)
    if os.geteuid() == 0:
        _give(folders, owner.st_uid, owner.st_gid)


def _give(folders: Folders, uid: int, gid: int) -> None:
    for _, top in folders.named():
        for folder, folder_names, names in os.walk(top):
            for name in (*folder_names, *names):
                os.chown(os.path.join(folder, name), uid, gid, follow_symlinks=False)


def _holds_nothing(path: str) -> bool:
    """Whether there is nothing in a file that a backup would replace; the API's keys are made without any."""
    try:
        with open(path, "rb") as file:
            return file.read(64).split() in ([], [b'{"keys":', b"[]}"])
    except FileNotFoundError:
        return True


def _replace(path: str, content: IO[bytes], owner: os.stat_result) -> None:
    """Write a file that is for its owner alone, or as open as it was; it belongs to whom it did, or `owner`."""
    former = os.stat(path) if os.path.exists(path) else None
    unfinished = f"{path}.{PREFIX}restored"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unfinished)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    mode = stat.S_IMODE(former.st_mode) if former else 0o600
    write_file(unfinished, content.read(), mode, fresh=True, sync=True)
    if os.geteuid() == 0:
        belongs = former or owner
        os.chown(unfinished, belongs.st_uid, belongs.st_gid)
    os.replace(unfinished, path)


def _target(name: str, folders: Folders) -> str | None:
    """Where a member goes. Raises `BackupError` for a name that would lead out of the folders."""
    if name in (_FIRST, _LAST):
        return None
    top, _, rest = name.partition("/")
    tops = {"temp": folders.temp, "archive": folders.archive, "error": folders.error, "output": folders.output}
    if top == "watch":
        number, _, rest = rest.partition("/")
        tops["watch"] = folders.watch[int(number)] if number.isdecimal() and int(number) < len(folders.watch) else ""
    if not tops.get(top) or not rest or any(part in ("", ".", "..") for part in rest.split("/")):
        raise BackupError(f"A file in the backup is called {name!r}: that is none of ours. Nothing of it is trusted.")
    return os.path.join(tops[top], rest)


@dataclass
class _About:
    """What the members of a backup say, one after the other."""

    said: About | None = None
    complete: Count | None = None
    count: Count = field(default_factory=Count)

    def see(self, name: str) -> None:
        """Count a member in."""
        top, _, rest = name.partition("/")
        last = rest.rpartition("/")[2]
        if top == "watch" or name.startswith("temp/lines/"):
            self.count.waiting += 1
        elif top == "temp":
            self.count.in_flight += last != MANIFEST
        elif top == "archive":
            self.count.archived += 1
        elif top == "error":
            self.count.in_error += not last.endswith(SIDECAR)
        elif top == "output":
            self.count.results += 1


def _members(path: str, about: _About) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The members of a backup and their contents, counted in. Raises `BackupError`."""
    try:
        with gzip.open(path, "rb") as packed:
            with tarfile.open(fileobj=packed, mode="r|") as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() else None
                    if member.name == _FIRST:
                        about.said = _word(content, About)
                        if about.said.format != FORMAT:
                            raise BackupError(
                                f"{path} has the format {about.said.format}, and this version ({__version__}) knows "
                                f"{FORMAT}. Restore it with the version that made it: {about.said.version}."
                            )
                    elif member.name == _LAST:
                        about.complete = _word(content, Count)
                    elif about.said is None:
                        raise BackupError(f"{path} is no backup of this system: {_FIRST} doesn't come first.")
                    else:
                        about.see(member.name)
                        about.count.bytes += member.size if member.isreg() else 0
                    yield member, content
            while packed.read(1 << 20):  # the checksum comes last
                pass
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, msgspec.DecodeError) as error:
        raise BackupError(f"{path} is no backup, or it is damaged or cut off: {error}. Take another one.") from None
    except OSError as error:
        raise BackupError(explain(error, path)) from error


_Said = TypeVar("_Said", About, Count)


def _word(content: IO[bytes] | None, form: type[_Said]) -> _Said:
    return msgspec.json.decode(content.read() if content else b"", type=form)


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _documents(folder: str, folders: Folders) -> Iterator[str]:
    """The files in a folder of the spool; in the temp folder, where notes lie too, the claims and what is apart."""
    if folder != folders.temp:
        yield from files_below(folder)
        return
    for name in os.listdir(folder):
        if is_id(name) or os.path.join(folder, name) == folders.lines:
            yield from files_below(os.path.join(folder, name))


def _below(top: str, path: str, folder: str) -> str:
    return f"{top}/{os.path.relpath(path, folder)}"


def _open_new(path: str, mode: int = 0o600) -> IO[bytes]:
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode))
