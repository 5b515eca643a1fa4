"""Restoring a backup into an empty spool."""

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import IO

from llm_scheduler.ingest.spool import backup_file
from llm_scheduler.ingest.spool.backup_file import Backup, BackupContents, BackupError, Progress
from llm_scheduler.ingest.spool.file_io import sync_all, write_file
from llm_scheduler.ingest.spool.folders import FolderError, Folders, explain, files_below
from llm_scheduler.ingest.spool.locks import SpoolLock
from llm_scheduler.ingest.spool.names import with_id
from llm_scheduler.jobs.document import is_id, new_id


def restore(
    path: str,
    folders: Folders,
    extras: Mapping[str, str] = MappingProxyType({}),  # see `extra_files`; written only where missing or empty
    progress: Progress = lambda _: None,
    *,
    keep_waiting: bool = False,  # the watch folders may have files, which stay: they came after the backup
) -> Backup:
    """Put a backup into the folders of an empty spool. The backup is verified before the first file is written.

    Raises `BackupError`, also when a folder is not empty or a daemon works on them.
    """
    backup = backup_file.verify(path, progress)
    if len(backup.about.watch) > len(folders.watch):
        raise BackupError(
            f"The backup has {len(backup.about.watch)} watch folders ({', '.join(backup.about.watch)}), and the "
            f"configuration {len(folders.watch)}. Add the others to directories.watch_directory until it is restored."
        )
    locks = {role: SpoolLock(folders.temp, role) for role in ("ingest", "collector")}
    try:
        folders.prepare()
        for role, lock in locks.items():
            if not lock.take():
                raise BackupError(f"llm-{role} (process {lock.holder()}) works on {folders.temp}. Stop it first.")
        for key, folder in folders.named():
            if keep_waiting and folder in folders.watch:
                continue
            if file := next(_documents(folder, folders), None):
                raise BackupError(
                    f"{folder} (directories.{key}) is not empty: it contains {file}. A backup is restored into empty "
                    "folders: move the files away, or configure other folders."
                )
        _unpack(path, folders, extras, progress)
        sync_all(folders.temp)
    except FolderError as error:
        raise BackupError(str(error)) from None
    except OSError as error:
        raise BackupError(f"{explain(error)} The restored files are incomplete: empty the folders.") from error
    finally:
        for lock in locks.values():
            lock.release()
    return backup


def _unpack(path: str, folders: Folders, extras: Mapping[str, str], progress: Progress) -> None:
    owner = os.stat(folders.temp)
    links: list[tuple[str, str]] = []
    contents = BackupContents()
    for member, content in backup_file.members(path, contents):
        progress(contents.count)
        if member.name in backup_file.EXTRA_NAMES:
            place = extras.get(member.name)
            if place and content is not None and _is_unused(place):
                _replace(place, content, owner)
            continue
        target = backup_file.target_path(member.name, folders)
        if target is None:
            continue
        if member.name.startswith("watch/") and os.path.lexists(target):  # a new document has this name
            target = with_id(target, new_id(time.time()))
        os.makedirs(os.path.dirname(target), mode=0o750, exist_ok=True)
        if member.issym():
            links.append((member.linkname, target))
        elif member.isfifo():
            os.mkfifo(target, member.mode & 0o777)
        elif content is not None:
            with backup_file.open_new(target, member.mode & 0o777) as file:
                shutil.copyfileobj(content, file)
            os.utime(target, (member.mtime, member.mtime))
    for text, target in links:  # at the end, so that nothing is written through a link
        os.symlink(text, target)
    if os.geteuid() == 0:
        for _, top in folders.named():
            for folder, folder_names, names in os.walk(top):
                for name in (*folder_names, *names):
                    os.chown(os.path.join(folder, name), owner.st_uid, owner.st_gid, follow_symlinks=False)


def _documents(folder: str, folders: Folders) -> Iterator[str]:
    """The files in a folder of the spool; in the temp folder only claims and waiting documents of split files."""
    if folder != folders.temp:
        yield from files_below(folder)
        return
    for name in os.listdir(folder):
        if is_id(name) or os.path.join(folder, name) == folders.lines:
            yield from files_below(os.path.join(folder, name))


def _is_unused(path: str) -> bool:
    """Whether a file may be replaced: it is missing, empty, or an API key file without keys."""
    try:
        with open(path, "rb") as file:
            return file.read(64).split() in ([], [b'{"keys":', b"[]}"])
    except FileNotFoundError:
        return True


def _replace(path: str, content: IO[bytes], owner: os.stat_result) -> None:
    """Write a file with the mode and owner of the former one; without one, mode 0600 and `owner`."""
    former = os.stat(path) if os.path.exists(path) else None
    unfinished = f"{path}.{backup_file.PREFIX}restored"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unfinished)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    mode = stat.S_IMODE(former.st_mode) if former else 0o600
    write_file(unfinished, content.read(), mode, fresh=True, sync=True)
    if os.geteuid() == 0:
        owner = former or owner
        os.chown(unfinished, owner.st_uid, owner.st_gid)
    os.replace(unfinished, path)
