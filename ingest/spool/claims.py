"""Claims: documents taken out of the watch folder, in groups, each group with a manifest that says what they are.

A group is a folder `temp/<group>/` with one file a document, named by its id, and `manifest`, one JSON line a document.
The manifest is durable before the first document is moved, so a claim can always be told apart and put in its place,
even when Redis has forgotten everything.
"""

import base64
import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator

import msgspec

from llm_scheduler.ingest.spool.file_io import read_whole, write_file
from llm_scheduler.ingest.spool.originals import is_sealed, read_original
from llm_scheduler.ingest.spool.renames import rename_new, with_id
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.document import is_id, new_id
from llm_scheduler.jobs.faults import FaultPoint, no_faults
from llm_scheduler.jobs.sealing import Seal

MANIFEST = "manifest"
# A file that has gone, or that only this one file's place keeps from being moved. It stays where it is.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_IMMOVABLE = frozenset({errno.EACCES, errno.EPERM, errno.EXDEV, errno.EBUSY})


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """What `stat` said of a file: enough to notice that it has changed."""

    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Seen":
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


class Found(msgspec.Struct, frozen=True):
    """A file in a watch folder that is ready to be claimed. `code` and `message` when it is refused unread."""

    watch: str
    source: str
    id: str
    seen: Seen
    received_at: float
    sha256: str | None = None
    code: str | None = None
    message: str | None = None

    @property
    def path(self) -> str:
        return os.path.join(self.watch, self.source)


class Claim(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A line of a manifest. `source` is the path below the watch folder; `raw_source` holds it when it isn't UTF-8."""

    id: str
    source: str
    watch: str
    seen: Seen
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

    def take(self, found: list[Found], now: float) -> tuple[str, list[Claim]]:
        """Claim files: write the manifest, sync it, move them. Returns the group and what could be moved.

        A file that has gone in the meantime is left out, and so is a second one of the same id (a copy of one of the
        API's). One that has changed is put back, to be read again later. Raises OSError when the temp folder can't be
        written, or when not one of the files may be moved; what has been moved is in the manifest.
        """
        group = new_id(now)
        folder = os.path.join(self.temp, group)
        found = list({each.id: each for each in reversed(found)}.values())[::-1]
        claims = [_claim(each) for each in found]
        os.mkdir(folder, 0o750)
        self._at("claim.folder_made")
        try:
            write_file(
                os.path.join(folder, MANIFEST),
                b"".join(_encode(claim) + b"\n" for claim in claims),
                0o640,
                fresh=True,
                sync=True,
            )
        except OSError:
            self.remove_group(group)
            raise
        self._at("claim.manifest_written")
        taken: list[Claim] = []
        immovable: OSError | None = None
        try:
            for each, claim in zip(found, claims, strict=True):
                try:
                    if self._move(each, os.path.join(folder, claim.id)):
                        taken.append(claim)
                except OSError as error:
                    if error.errno not in _IMMOVABLE:
                        raise
                    immovable = error  # of a folder that another user owns, say: the others can be moved all the same
                self._at("claim.moved")
            if immovable and not taken:
                raise immovable
        finally:
            if not taken:
                self.remove_group(group)
        return group, taken

    def take_again(
        self,
        original: str,
        document_id: str,
        source: str,
        watch: str,
        received_at: float,
        now: float,
        seal: Seal | None = None,
    ) -> tuple[str, Claim]:
        """Claim a finished document's original anew, as it arrived, under its old id. Returns the group and the claim.

        Raises OSError (FileNotFoundError when it has gone), and `WrongKey` when `seal` doesn't open a sealed one.
        """
        raw = read_original(original, seal)
        group = new_id(now)
        folder = os.path.join(self.temp, group)
        target = os.path.join(folder, document_id)
        os.mkdir(folder, 0o750)
        try:
            if is_sealed(original):
                unsealed = f"{target}.tmp"
                write_file(unsealed, raw, 0o640, fresh=True, sync=True)
                # The same inode once it has its name, so what `stat` says of it now holds.
                status = os.lstat(unsealed)
            else:
                unsealed = ""
                status = os.lstat(original)
            claim = Claim(
                id=document_id,
                source=source,
                watch=watch,
                seen=Seen.of(status),
                received_at=received_at,
                sha256=hashlib.sha256(raw).hexdigest(),
            )
            write_file(os.path.join(folder, MANIFEST), _encode(claim) + b"\n", 0o640, fresh=True, sync=True)
            self._at("retry.manifest_written")
            if unsealed:
                os.rename(unsealed, target)
                os.unlink(original)
            else:
                os.rename(original, target)
            self._at("retry.moved")
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{target}.tmp")
            self.remove_group(group)
            raise
        return group, claim

    def _move(self, found: Found, target: str) -> bool:
        try:
            os.rename(found.path, target)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False
        if Seen.of(os.lstat(target)) == found.seen:
            return True
        put_back(target, found.watch, found.source, found.id)
        return False

    def groups(self) -> list[str]:
        """All groups, oldest first."""
        with os.scandir(self.temp) as entries:
            return sorted(entry.name for entry in entries if is_id(entry.name) and entry.is_dir(follow_symlinks=False))

    def manifest(self, group: str) -> dict[str, Claim]:
        """The claims that a group was made for, by id; without what a crash may have left unwritten."""
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
        """The claims of a group that are still there. A file that no manifest knows gets a name of its own."""
        manifest = self.manifest(group)
        held = {}
        try:
            names = os.listdir(os.path.join(self.temp, group))
        except FileNotFoundError:
            return {}
        for name in sorted(names):
            if name == MANIFEST or not is_id(name):
                continue
            held[name] = manifest.get(name) or self._unknown(group, name)
        return held

    def _unknown(self, group: str, document_id: str) -> Claim:
        status = os.lstat(os.path.join(self.temp, group, document_id))
        regular = stat.S_ISREG(status.st_mode)
        return Claim(
            id=document_id,
            source=f"recovered/{document_id}.json",
            watch="",
            seen=Seen.of(status),
            received_at=status.st_mtime,
            code=None if regular else Code.NOT_A_FILE.value,
            message=None if regular else "This was recovered from a damaged group, and is no file.",
        )

    def read(self, group: str, document_id: str) -> bytes:
        """The original bytes of a claim. Raises OSError."""
        descriptor = os.open(self.path(group, document_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return read_whole(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)

    def remove_group(self, group: str) -> bool:
        """Remove a group that holds no claim. False when it does hold one."""
        folder = os.path.join(self.temp, group)
        try:
            names = os.listdir(folder)
            if any(name != MANIFEST and not name.endswith(".tmp") for name in names):
                return False  # (an unfinished copy's original is where it was)
            for name in names:
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
        except FileNotFoundError:
            pass
        return True


def put_back(path: str, watch: str, source: str, document_id: str) -> str:
    """Move a claim back into its watch folder, beside a newcomer of the same name if there is one. Returns its path.

    Where a folder of its path has become a file in the meantime, it goes to the top of the watch folder.
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


def held_count(claims: Claims) -> Iterator[int]:
    """The number of claims in each group, without reading manifests."""
    for group in claims.groups():
        with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(claims.temp, group)) as entries:
            yield sum(1 for entry in entries if entry.name != MANIFEST)


def _claim(found: Found) -> Claim:
    source, raw = found.source, None
    try:
        source.encode()
    except UnicodeEncodeError:  # a name that isn't UTF-8
        raw = base64.b64encode(os.fsencode(found.source)).decode()
        source = os.fsencode(found.source).decode("utf-8", errors="backslashreplace")
    return Claim(
        id=found.id,
        source=source,
        watch=found.watch,
        seen=found.seen,
        received_at=found.received_at,
        sha256=found.sha256,
        code=found.code,
        message=found.message,
        raw_source=raw,
    )
