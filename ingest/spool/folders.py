"""The folders of the spool: making and checking them, and messages for what is wrong with them."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llm_scheduler.jobs.config import Directories


class FolderError(Exception):
    """A folder can't be used now. The message says which, why and what to do. The cause may go away by itself."""


@dataclass(frozen=True)
class Folders:
    """Absolute paths of the spool's folders."""

    watch: tuple[str, ...]
    output: str
    archive: str
    error: str
    temp: str

    @property
    def lines(self) -> str:
        """Where the documents of split files wait; each file has a watch folder of its own here."""
        return os.path.join(self.temp, "lines")

    @classmethod
    def of(cls, directories: Directories) -> "Folders":
        return cls(
            watch=tuple(os.path.abspath(folder) for folder in directories.watch),
            output=os.path.abspath(directories.output_directory),
            archive=os.path.abspath(directories.archive_directory),
            error=os.path.abspath(directories.error_directory),
            temp=os.path.abspath(directories.temp_directory),
        )

    def named(self) -> Iterator[tuple[str, str]]:
        """(configuration key, path) of each folder."""
        for folder in self.watch:
            yield "watch_directory", folder
        yield "output_directory", self.output
        yield "archive_directory", self.archive
        yield "error_directory", self.error
        yield "temp_directory", self.temp

    def prepare(self) -> list[str]:
        """Make missing folders and check all of them. Returns the folders it made. Raises `FolderError`."""
        made = []
        devices: dict[int, tuple[str, str]] = {}
        for key, path in self.named():
            try:
                if not os.path.isdir(path):
                    os.makedirs(path)
                    made.append(path)
                device = os.stat(path).st_dev
            except OSError as error:
                raise FolderError(explain(error, path, f"directories.{key}")) from None
            if not os.access(path, os.W_OK | os.X_OK | os.R_OK):
                raise FolderError(
                    f"{path} (directories.{key}) can't be written. Allow this user to write, or mount it read-write."
                )
            devices.setdefault(device, (key, path))
        if len(devices) > 1:
            (first_key, first), (other_key, other) = list(devices.values())[:2]
            raise FolderError(
                f"{first} (directories.{first_key}) and {other} (directories.{other_key}) are on different file "
                "systems. Documents move by rename, so put all the folders on one."
            )
        return made


def files_below(folder: str, unreadable: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """The paths of all files below a folder, links and pipes too, except hidden ones; sorted within each folder.

    Errors of folders that can't be listed go to `unreadable`. For watch folders see `watch_files.py`.
    """
    for root, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        links = [each for each in folders if os.path.islink(os.path.join(root, each))]
        yield from (os.path.join(root, name) for name in sorted((*names, *links)) if not name.startswith("."))


def explain(error: OSError, path: str | None = None, key: str | None = None) -> str:
    """A message for an error of the file system: what happened, where, and the next step."""
    where = path or error.filename or "a folder"
    if isinstance(where, bytes):
        where = os.fsdecode(where)
    named = f"{where} ({key})" if key else str(where)
    match error.errno:
        case errno.ENOSPC:
            return f"The disk is full: {named} can't be written. Make room; the work then continues."
        case errno.EDQUOT:
            return f"The disk quota is used up: {named} can't be written. Raise it or make room."
        case errno.EROFS:
            return f"{named} is on a read-only file system. Mount it read-write."
        case errno.EACCES | errno.EPERM:
            return f"{named} can't be used by this user (permission denied). Change its owner or its mode."
        case errno.EXDEV:
            return f"{named} is on another file system than the rest of the spool. Put all the folders on one."
        case errno.ENOENT:
            return f"{named} is missing."
        case errno.ENOTDIR | errno.EEXIST:
            return f"{named} is not a folder."
        case errno.EMFILE | errno.ENFILE:
            return f"Too many open files at {named}. Raise the limit (ulimit -n, LimitNOFILE=)."
    return f"{named}: {error.strerror or error}"
