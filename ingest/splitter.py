"""Files of several documents, taken apart: each document a file of its own, the original archived whole.

The parts are written into a hidden folder of `temp/lines/` and made durable; then the original goes to the archive;
then the folder gets its name, and is a watch folder like the others until it is empty. The place of the original says
how far a crash let it come: while the claim is there, what was written is thrown away and written anew; once it has
gone, the folder only has its name to get.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence

import msgspec

from llm_scheduler.ingest.spool.claims import Claim, Claims
from llm_scheduler.ingest.spool.file_io import write_file
from llm_scheduler.ingest.spool.folders import Folders
from llm_scheduler.ingest.spool.originals import hidden_beside, is_at_rest, put_to_rest, seal_beside
from llm_scheduler.ingest.spool.renames import PATH_BYTES, names_for, rename_new, sync_all, within
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.document import is_id
from llm_scheduler.jobs.faults import FaultPoint, no_faults
from llm_scheduler.jobs.sealing import Seal

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 100


class Splitter:
    """Takes claims apart. Belongs to ingest, the only one who claims."""

    def __init__(self, folders: Folders, claims: Claims, at: FaultPoint = no_faults, seal: Seal | None = None) -> None:
        """`seal`: originals are sealed with it."""
        self._folders = folders
        self._seal = seal
        self._claims = claims
        self._at = at
        self._home = folders.lines

    def roots(self) -> list[str]:
        """The folders in which parts wait to be claimed, the oldest file's first; those that are empty are removed."""
        try:
            names = sorted(name for name in os.listdir(self._home) if is_id(name))
        except FileNotFoundError:
            return []
        return [root for name in names if _has_files(root := os.path.join(self._home, name))]

    def take_apart(self, group: str, claim: Claim, parts: Sequence[bytes]) -> str:
        """Write `parts`, archive the original of `claim`, and let the parts be found. Returns their watch folder.

        Raises OSError; then nothing has changed that `recover` does not put right.
        """
        hidden = self._hidden(claim.id)
        shutil.rmtree(hidden, ignore_errors=True)
        names = list(_names(parts))
        folder = os.path.join(hidden, within(claim.relative_path))
        if max(len(os.fsencode(os.path.join(folder, name))) for name in names) > PATH_BYTES:
            folder = os.path.join(hidden, os.path.basename(folder))  # below `temp` the same path is longer
        os.makedirs(folder)
        for name, part in zip(names, parts, strict=True):
            write_file(os.path.join(folder, name), part, 0o640, fresh=True, sync=False)
        original = self._claims.path(group, claim.id)
        home = self._home_for(claim)
        sealed = seal_beside(original, home, claim.id, self._seal) if self._seal else None
        sync_all(self._folders.temp)
        self._at("split.written")
        if self._seal:
            put_to_rest(original, home, claim.id, sealed, self._at)
        else:
            rename_new(original, home)
        self._at("split.archived")
        root = os.path.join(self._home, claim.id)
        os.rename(hidden, root)
        self._claims.remove_group(group)
        return root

    def recover(self, held: Callable[[], set[str]]) -> None:
        """Finish or undo what a crash left half done. `held` gives the ids of all claims that are there."""
        try:
            names = [name for name in os.listdir(self._home) if name.startswith(".") and is_id(name[1:])]
        except FileNotFoundError:
            return
        claimed = held() if names else set()
        for name in names:
            hidden = os.path.join(self._home, name)
            if name[1:] in claimed:
                shutil.rmtree(hidden, ignore_errors=True)
            else:
                os.rename(hidden, os.path.join(self._home, name[1:]))

    def _hidden(self, document_id: str) -> str:
        return os.path.join(self._home, f".{document_id}")

    def _home_for(self, claim: Claim) -> str:
        """A free place in the archive for the original of `claim`, in a folder that is there; or the place at which it
        lies sealed already. Nobody else gives names that hold its id."""
        source = within(claim.relative_path)
        for option in names_for(source, claim.id):
            home = os.path.join(self._folders.archive, option)
            if max(len(os.fsencode(path)) for path in (home, hidden_beside(home, claim.id))) > PATH_BYTES:
                continue
            try:
                os.makedirs(os.path.dirname(home), exist_ok=True)
                if os.path.lexists(home) and not is_at_rest(home, claim.id):
                    continue
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG):
                    raise
                continue
            return home
        raise FileExistsError(errno.EEXIST, "every name in the archive is taken", source)


def _has_files(root: str) -> bool:
    """Whether any file is left below `root`; empty folders are removed."""
    for folder, _, names in os.walk(root, topdown=False):
        if names:
            return True
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return os.path.isdir(root)


def _names(parts: Sequence[bytes]) -> Iterator[str]:
    """A file name for each part: its `custom_id` where it is the line of a batch, else its number."""
    taken: set[str] = set()
    width = max(6, len(str(len(parts))))
    for number, part in enumerate(parts, 1):
        name = _named(part) or f"{number:0{width}d}"
        if name.lower() in taken:
            name = f"{name}-{number:0{width}d}"
        taken.add(name.lower())
        yield f"{name}.json"


class _Named(msgspec.Struct):
    custom_id: str | None = None


_decoder = msgspec.json.Decoder(_Named)


def _named(part: bytes) -> str:
    if b'"custom_id"' not in part:
        return ""
    try:
        custom_id = _decoder.decode(part).custom_id or ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return _UNSAFE.sub("_", custom_id).strip("._-")[:_LONGEST]


def parts_of(raw: bytes, source: str, limits: intake.Limits, most: int) -> list[bytes]:
    """The documents to take a file apart into; empty where it is one document. Raises `intake.Refused`: too many."""
    try:
        parts = intake.split(raw, source, limits, most)
    except intake.Refused:
        raise
    except Exception:  # a fault of ours: as one document it gets to a worker, where it holds nobody else up
        return []
    return parts if len(parts) > 1 or (intake.is_by_line(source) and intake.is_text(parts[0])) else []
