"""Claims: documents taken out of a watch folder, in groups, each group with a manifest.

A group is a folder `temp/<group>/` with one file for each document, named by its id, and `manifest`, one line of JSON
for each document. The manifest is durable before the first document moves, so Redis is not needed to identify a claim.
"""

import base64
import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator

import msgspec
from msgspec.structs import asdict

from llm_scheduler.ingest.spool.file_io import read_file, rename_new, write_file
from llm_scheduler.ingest.spool.names import with_id
from llm_scheduler.ingest.spool.originals import is_sealed, read_original
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.document import is_id, new_id
from llm_scheduler.jobs.faults import FaultPoint, no_faults
from llm_scheduler.jobs.sealing import Seal

MANIFEST = "manifest"
# The file has gone, or its path makes a move impossible. It is left where it is.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_IMMOVABLE = frozenset({errno.EACCES, errno.EPERM, errno.EXDEV, errno.EBUSY})


class FileStamp(msgspec.Struct, frozen=True, array_like=True):
    """What `stat` says of a file: enough to notice a change."""

    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileStamp":
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


class Candidate(msgspec.Struct, frozen=True):
    """A file in a watch folder that can be claimed. `code` and `message` are set when it is rejected unread."""

    watch: str
    source: str
    id: str
    stamp: FileStamp
    received_at: float
    sha256: str | None = None
    code: str | None = None
    message: str | None = None

    @property
    def path(self) -> str:
        return os.path.join(self.watch, self.source)


class Claim(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A line of a manifest. `source` is the path below the watch folder; `raw_source` holds it if it isn't UTF-8."""

    id: str
    source: str
    watch: str
    stamp: FileStamp = msgspec.field(name="seen")
    received_at: float
    sha256: str | None = None
    code: str | None = None
    message: str | None = None
    raw_source: str | None = None

    @property
    def relative_path(self) -> str:
        """The path below the watch folder as the file system has it."""
        if self.raw_source:
            with contextlib.suppress(ValueError):
                return os.fsdecode(base64.b64decode(self.raw_source, validate=True))
        return self.source


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Claim)


class Claims:
    """The claims in a temp folder."""

    def __init__(self, temp: str, at: FaultPoint = no_faults) -> None:
        self.temp = temp
        self._at = at

    def path(self, group: str, document_id: str) -> str:
        """Where the bytes of a claim are. Raises ValueError for anything that is not an id."""
        if not (is_id(group) and is_id(document_id)):
            raise ValueError(f"not a claim: {group!r}/{document_id!r}")
        return os.path.join(self.temp, group, document_id)

    def take(self, candidates: list[Candidate], now: float) -> tuple[str, list[Claim]]:
        """Claim files: write the manifest, sync it, move the files. Returns the group and the claims that succeeded.

        A file that has gone is left out, and so is a second file with the same id (a copy of one of the API's). A file
        that has changed goes back and is read again later. Raises OSError when the temp folder can't be written, or
        when none of the files may be moved; files that were moved are in the manifest.
        """
        group = new_id(now)
        folder = os.path.join(self.temp, group)
        candidates = list({each.id: each for each in reversed(candidates)}.values())[::-1]
        claims = [_claim(each) for each in candidates]
        os.mkdir(folder, 0o750)
        self._at("claim.folder_made")
        try:
            _write_manifest(folder, claims)
        except OSError:
            self.remove_group(group)
            raise
        self._at("claim.manifest_written")
        taken: list[Claim] = []
        immovable: OSError | None = None
        try:
            for each, claim in zip(candidates, claims, strict=True):
                try:
                    if self._move(each, os.path.join(folder, claim.id)):
                        taken.append(claim)
                except OSError as error:
                    if error.errno not in _IMMOVABLE:
                        raise
                    immovable = error  # in a folder of another user, for example; the other files can still be moved
                self._at("claim.moved")
            if immovable and not taken:
                raise immovable
        finally:
            if not taken:
                self.remove_group(group)
        return group, taken

    def reclaim(
        self,
        original: str,
        document_id: str,
        source: str,
        watch: str,
        received_at: float,
        now: float,
        seal: Seal | None = None,
    ) -> tuple[str, Claim]:
        """Claim a finished document's original again, decrypted, with the same id. Returns the group and the claim.

        Raises OSError (FileNotFoundError when it has gone), and `WrongKey` when `seal` can't decrypt it.
        """
        raw = read_original(original, seal)
        group = new_id(now)
        folder = os.path.join(self.temp, group)
        target = os.path.join(folder, document_id)
        os.mkdir(folder, 0o750)
        try:
            unsealed = f"{target}.tmp" if is_sealed(original) else ""
            if unsealed:
                write_file(unsealed, raw, 0o640, fresh=True, sync=True)
            # The rename below keeps the inode, so this stamp stays true.
            stamp = FileStamp.of(os.lstat(unsealed or original))
            sha256 = hashlib.sha256(raw).hexdigest()
            claim = Claim(
                id=document_id, source=source, watch=watch, stamp=stamp, received_at=received_at, sha256=sha256
            )
            _write_manifest(folder, [claim])
            self._at("retry.manifest_written")
            os.rename(unsealed or original, target)
            if unsealed:
                os.unlink(original)
            self._at("retry.moved")
        except OSError:
            self.remove_group(group)
            raise
        return group, claim

    def _move(self, candidate: Candidate, target: str) -> bool:
        try:
            os.rename(candidate.path, target)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False
        if FileStamp.of(os.lstat(target)) == candidate.stamp:
            return True
        return_to_watch(target, candidate.watch, candidate.source, candidate.id)
        return False

    def groups(self) -> list[str]:
        """All groups, oldest first."""
        with os.scandir(self.temp) as entries:
            return sorted(entry.name for entry in entries if is_id(entry.name) and entry.is_dir(follow_symlinks=False))

    def manifest(self, group: str) -> dict[str, Claim]:
        """The claims in a group's manifest, by id. A line that a crash cut off is left out."""
        claims: dict[str, Claim] = {}
        try:
            with open(os.path.join(self.temp, group, MANIFEST), "rb") as file:
                for line in file:
                    with contextlib.suppress(msgspec.DecodeError):
                        claim = _decoder.decode(line)
                        claims[claim.id] = claim
        except FileNotFoundError:
            pass
        return claims

    def held(self, group: str) -> dict[str, Claim]:
        """The claims whose files are still in the group. A file that is not in the manifest gets a generated claim."""
        manifest = self.manifest(group)
        try:
            names = os.listdir(os.path.join(self.temp, group))
        except FileNotFoundError:
            return {}
        return {name: manifest.get(name) or self._unlisted(group, name) for name in sorted(names) if is_id(name)}

    def all_ids(self) -> set[str]:
        return {document_id for group in self.groups() for document_id in self.held(group)}

    def _unlisted(self, group: str, document_id: str) -> Claim:
        status = os.lstat(os.path.join(self.temp, group, document_id))
        regular = stat.S_ISREG(status.st_mode)
        return Claim(
            id=document_id,
            source=f"recovered/{document_id}.json",
            watch="",
            stamp=FileStamp.of(status),
            received_at=status.st_mtime,
            code=None if regular else Code.NOT_A_FILE.value,
            message=None if regular else "This was recovered from a damaged group, and is not a file.",
        )

    def read(self, group: str, document_id: str) -> bytes:
        """The original bytes of a claim. Raises OSError."""
        return read_file(self.path(group, document_id))[1]

    def remove_group(self, group: str) -> bool:
        """Remove a group without claims. Returns False when it has claims."""
        folder = os.path.join(self.temp, group)
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(folder)
            if any(name != MANIFEST and not name.endswith(".tmp") for name in names):
                return False  # (the original of an unfinished copy is still in its old place)
            for name in names:
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
        return True


def return_to_watch(path: str, watch: str, source: str, document_id: str) -> str:
    """Move a claim back into its watch folder and return its path there.

    When a new file has its name, the id is added to the name. When a folder of its path has become a file, it goes to
    the top of the watch folder. Raises OSError.
    """
    for place in (source, with_id(source, document_id), with_id(os.path.basename(source), document_id)):
        target = os.path.join(watch, place)
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            rename_new(path, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            continue
        return target
    raise FileExistsError(f"{path} can't go back to {watch}: all of its names are taken")


def claim_counts(claims: Claims) -> Iterator[int]:
    """The number of claims in each group. Reads no manifest."""
    for group in claims.groups():
        with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(claims.temp, group)) as entries:
            yield sum(1 for entry in entries if entry.name != MANIFEST)


def _write_manifest(folder: str, claims: list[Claim]) -> None:
    content = b"".join(_encode(claim) + b"\n" for claim in claims)
    write_file(os.path.join(folder, MANIFEST), content, 0o640, fresh=True, sync=True)


def _claim(candidate: Candidate) -> Claim:
    fields = asdict(candidate)
    try:
        candidate.source.encode()
    except UnicodeEncodeError:  # the name isn't UTF-8
        raw = os.fsencode(candidate.source)
        fields["source"] = raw.decode("utf-8", errors="backslashreplace")
        fields["raw_source"] = base64.b64encode(raw).decode()
    return Claim(**fields)
