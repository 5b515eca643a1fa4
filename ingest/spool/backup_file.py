"""The format of a backup file: a gzipped tar (the pax format of POSIX.1-2001).

`backup.json` is the first member and `complete.json` the last; without the last one, the backup is not whole. The
content of the folders is below `watch/N`, `temp`, `archive`, `error` and `output`.
"""

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO

import msgspec

from llm_scheduler.ingest.spool.claims import MANIFEST
from llm_scheduler.ingest.spool.folders import Folders, explain
from llm_scheduler.ingest.spool.names import REPORT_SUFFIX
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.config import Config

FORMAT = 1
PREFIX, SUFFIX = "llm-", ".tar.gz"
HEADER, FOOTER = "backup.json", "complete.json"
EXTRA_NAMES = ("api-keys.json", "labels.jsonl")


class BackupError(Exception):
    """A backup can't be made or restored. The message says why and what to do. No document was changed."""


class BackupCount(msgspec.Struct):
    """How much is in a backup. `waiting`: files in watch folders. `in_flight`: claims."""

    waiting: int = 0
    in_flight: int = 0
    archived: int = 0
    in_error: int = 0
    results: int = 0
    bytes: int = 0

    def add(self, name: str, size: int) -> None:
        top, _, rest = name.partition("/")
        last = rest.rpartition("/")[2]
        if top == "watch" or name.startswith("temp/lines/"):
            self.waiting += 1
        elif top == "temp":
            self.in_flight += last != MANIFEST
        elif top == "archive":
            self.archived += 1
        elif top == "error":
            self.in_error += not last.endswith(REPORT_SUFFIX)
        elif top == "output":
            self.results += 1
        self.bytes += size


class BackupHeader(msgspec.Struct, frozen=True):
    """The content of `backup.json`. `made_at` is in RFC 3339."""

    format: int
    made_at: str
    host: str
    version: str
    watch: list[str]


@dataclass(frozen=True)
class Backup:
    """A backup that was made or checked. `llmctl backup --json` prints these fields."""

    path: str
    about: BackupHeader
    count: BackupCount
    size: int
    sha256: str
    stood_seconds: float = 0.0  # how long ingest had to wait for it
    removed: list[str] = field(default_factory=list)  # older backups
    left_out: list[str] = field(default_factory=list)  # unreadable files


Progress = Callable[[BackupCount], None]


def extra_files(config: Config) -> dict[str, str]:
    """Files outside of the spool that belong to a backup, by their names in it: API keys, and the router's labels."""
    return dict(zip(EXTRA_NAMES, (config.security.api_keys_file, config.intelligent_routing.labels), strict=True))


@dataclass
class BackupContents:
    """What was read of a backup so far. `declared` is the content of `complete.json`."""

    header: BackupHeader | None = None
    declared: BackupCount | None = None
    count: BackupCount = field(default_factory=BackupCount)


def verify(path: str, progress: Progress = lambda _: None) -> Backup:
    """Read a backup to its end. Raises `BackupError` when it is damaged, incomplete or no backup."""
    contents = BackupContents()
    for _ in members(path, contents):
        progress(contents.count)
    if contents.header is None or contents.declared is None:
        raise BackupError(f"{path} is not whole: its end is missing. Take an older one, or make it again.")
    if contents.declared != contents.count:
        raise BackupError(f"{path} declares {contents.declared}, but contains {contents.count}. Take another one.")
    return Backup(path, contents.header, contents.count, os.path.getsize(path), digest(path))


def members(path: str, contents: BackupContents) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The members of a backup with their bytes; they are counted in `contents`. Raises `BackupError`."""
    try:
        with gzip.open(path, "rb") as packed:
            with tarfile.open(fileobj=packed, mode="r|") as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() else None
                    record = content.read() if content and member.name in (HEADER, FOOTER) else b""
                    if member.name == HEADER:
                        contents.header = msgspec.json.decode(record, type=BackupHeader)
                        if contents.header.format != FORMAT:
                            raise BackupError(
                                f"{path} has the format {contents.header.format}. This version ({__version__}) knows "
                                f"{FORMAT}. Restore it with the version that made it: {contents.header.version}."
                            )
                    elif member.name == FOOTER:
                        contents.declared = msgspec.json.decode(record, type=BackupCount)
                    elif contents.header is None:
                        raise BackupError(f"{path} is no backup of this system: {HEADER} is not its first file.")
                    else:
                        contents.count.add(member.name, member.size if member.isreg() else 0)
                    yield member, content
            while packed.read(1 << 20):  # gzip's checksum is at the end
                pass
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, msgspec.DecodeError) as error:
        raise BackupError(f"{path} is no backup, or it is damaged or cut off: {error}. Take another one.") from None
    except OSError as error:
        raise BackupError(explain(error, path)) from error


def target_path(name: str, folders: Folders) -> str | None:
    """Where a member is restored to; None for header and footer. Raises `BackupError` for any other path."""
    if name in (HEADER, FOOTER):
        return None
    top, _, rest = name.partition("/")
    tops = {"temp": folders.temp, "archive": folders.archive, "error": folders.error, "output": folders.output}
    if top == "watch":
        number, _, rest = rest.partition("/")
        tops["watch"] = folders.watch[int(number)] if number.isdecimal() and int(number) < len(folders.watch) else ""
    if not tops.get(top) or not rest or any(part in ("", ".", "..") for part in rest.split("/")):
        raise BackupError(f"The backup has a file {name!r}, which is in no folder of a spool. Do not trust it.")
    return os.path.join(tops[top], rest)


def digest(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_new(path: str, mode: int = 0o600) -> IO[bytes]:
    """Open a file that must not exist yet, for writing."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode))
