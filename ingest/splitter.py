"""Splitting files of several documents: each document becomes a file, and the original is archived whole.

Three steps: the documents are written into a hidden folder of `temp/lines/` and synced; the original goes to the
archive; the folder gets its name. It is then a watch folder until it is empty. After a crash, the place of the original
shows what to do: while it is still a claim, the hidden folder is removed and everything is repeated; when it is in the
archive, only the folder has to get its name.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence

import msgspec

from llm_scheduler.ingest.spool.claims import Claim, Claims
from llm_scheduler.ingest.spool.file_io import sync_all, write_file
from llm_scheduler.ingest.spool.folders import Folders
from llm_scheduler.ingest.spool.names import PATH_BYTES, path_options, safe_path, sealed_copy_path
from llm_scheduler.ingest.spool.originals import is_in_place, move_original, write_sealed_copy
from llm_scheduler.jobs.document import is_id
from llm_scheduler.jobs.faults import FaultPoint, no_faults
from llm_scheduler.jobs.sealing import Seal

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME = 100


class Splitter:
    """Splits claims. Only ingest uses it."""

    def __init__(self, folders: Folders, claims: Claims, at: FaultPoint = no_faults, seal: Seal | None = None) -> None:
        self._folders = folders
        self._seal = seal
        self._claims = claims
        self._at = at

    def roots(self) -> list[str]:
        """The watch folders of split files that still have files, the oldest first. Empty ones are removed."""
        names = sorted(name for name in self._names_in_lines() if is_id(name))
        return [root for name in names if _has_files(root := os.path.join(self._folders.lines, name))]

    def split(self, group: str, claim: Claim, parts: Sequence[bytes]) -> str:
        """Write `parts` as documents and archive the original of `claim`. Returns the documents' watch folder.

        Raises OSError; `recover` then undoes or completes the work.
        """
        hidden = os.path.join(self._folders.lines, f".{claim.id}")
        shutil.rmtree(hidden, ignore_errors=True)
        names = list(_names(parts))
        folder = os.path.join(hidden, safe_path(claim.relative_path))
        if max(len(os.fsencode(os.path.join(folder, name))) for name in names) > PATH_BYTES:
            folder = os.path.join(hidden, os.path.basename(folder))  # the path may only be too long below `temp`
        os.makedirs(folder)
        for name, part in zip(names, parts, strict=True):
            write_file(os.path.join(folder, name), part, 0o640, fresh=True, sync=False)
        original = self._claims.path(group, claim.id)
        home = self._free_home(claim)
        sealed = write_sealed_copy(original, home, claim.id, self._seal)
        sync_all(self._folders.temp)
        self._at("split.written")
        move_original(original, home, claim.id, self._seal, sealed, self._at)
        self._at("split.archived")
        root = os.path.join(self._folders.lines, claim.id)
        os.rename(hidden, root)
        self._claims.remove_group(group)
        return root

    def recover(self, claimed: Callable[[], set[str]]) -> None:
        """Complete or undo what a crash interrupted. `claimed` returns the ids of all claims."""
        names = [name for name in self._names_in_lines() if name.startswith(".") and is_id(name[1:])]
        ids = claimed() if names else set()
        for name in names:
            hidden = os.path.join(self._folders.lines, name)
            if name[1:] in ids:
                shutil.rmtree(hidden, ignore_errors=True)
            else:
                os.rename(hidden, os.path.join(self._folders.lines, name[1:]))

    def _names_in_lines(self) -> list[str]:
        try:
            return os.listdir(self._folders.lines)
        except FileNotFoundError:
            return []

    def _free_home(self, claim: Claim) -> str:
        """A free path in the archive for the original of `claim`, or the path where its encrypted copy is already.

        The folder of the path exists. No other document gets a name with this id.
        """
        source = safe_path(claim.relative_path)
        for option in path_options(source, claim.id):
            home = os.path.join(self._folders.archive, option)
            if max(len(os.fsencode(path)) for path in (home, sealed_copy_path(home, claim.id))) > PATH_BYTES:
                continue
            try:
                os.makedirs(os.path.dirname(home), exist_ok=True)
                if os.path.lexists(home) and not is_in_place(home, claim.id):
                    continue
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG):
                    raise
                continue
            return home
        raise FileExistsError(errno.EEXIST, "every name in the archive is taken", source)


def _has_files(root: str) -> bool:
    """Whether there is a file below `root`. Removes empty folders."""
    for folder, _, names in os.walk(root, topdown=False):
        if names:
            return True
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return os.path.isdir(root)


def _names(parts: Sequence[bytes]) -> Iterator[str]:
    """A file name for each document: the `custom_id` of a provider batch's line, or the document's number."""
    taken: set[str] = set()
    width = max(6, len(str(len(parts))))
    for number, part in enumerate(parts, 1):
        name = _custom_id(part) or f"{number:0{width}d}"
        if name.lower() in taken:
            name = f"{name}-{number:0{width}d}"
        taken.add(name.lower())
        yield f"{name}.json"


class _BatchLine(msgspec.Struct):
    custom_id: str | None = None


_decoder = msgspec.json.Decoder(_BatchLine)


def _custom_id(part: bytes) -> str:
    if b'"custom_id"' not in part:
        return ""
    try:
        custom_id = _decoder.decode(part).custom_id or ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return _UNSAFE.sub("_", custom_id).strip("._-")[:_MAX_NAME]
