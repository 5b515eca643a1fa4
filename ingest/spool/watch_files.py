"""Which files below a watch folder can be documents. For the other folders of the spool see `files_below`."""

import errno
import os
from collections.abc import Iterator

# Errors of this process or of the machine; any other error concerns one file or folder.
SYSTEM_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".filepart", ".swp", ".swx", "~")
_LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "lost+found", "$recycle.bin"})


def is_ignored(name: str) -> bool:
    """Whether a name is not a document's: hidden, unfinished, or made by an operating system or an editor."""
    lowered = name.lower()
    return (
        name.startswith(".")
        or lowered.endswith(_UNFINISHED)
        or lowered in _LITTER
        or (name.startswith("#") and name.endswith("#"))
    )


def is_ignored_path(source: str) -> bool:
    return any(is_ignored(part) for part in source.split("/"))


def files(folder: str, below: str = "") -> Iterator[str]:
    """The sources (paths below `folder`) of all possible documents, depth first. Links are not followed.

    Raises OSError when `folder` itself can't be read; a subfolder that can't be read is left out.
    """
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
            continue  # it was moved away meanwhile
        except OSError as error:
            if not part or error.errno in SYSTEM_ERRORS:
                raise
