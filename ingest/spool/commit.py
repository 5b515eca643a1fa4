"""The commit: outcomes become files, each once (invariant 2).

For a group of documents: write every result under a hidden name next to its place, make all of them durable with one
sync, rename each into place, then move its original out of the claims. The claim is the token: while it exists, the
document is not committed. Repeating the steps finds what is done already and does the rest.
"""

import contextlib
import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llm_scheduler.ingest.spool import names
from llm_scheduler.ingest.spool.claims import Claim, Claims, FileStamp, return_to_watch
from llm_scheduler.ingest.spool.file_io import read_file, rename_new, sha256_of, sync_all, write_file
from llm_scheduler.ingest.spool.folders import FolderError, Folders, explain
from llm_scheduler.ingest.spool.names import PATH_BYTES, REPORT_SUFFIX, sealed_copy_path, unfinished_path, with_id
from llm_scheduler.ingest.spool.originals import is_in_place, move_original, write_sealed_copy
from llm_scheduler.ingest.spool.result_files import encode_report, encode_result, id_of
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.faults import FaultPoint, no_faults
from llm_scheduler.jobs.sealing import Seal
from llm_scheduler.jobs.store.outcomes import Outcome

_MAX_FOLDERS = 1000  # folders that are known to exist


@dataclass(frozen=True)
class CommitResult:
    """What the ledger needs to know. No `claim`: the outcome is a late duplicate, and nothing was done."""

    outcome: Outcome
    status: Status
    claim: Claim | None = None
    message: str = ""


@dataclass
class _WrittenDocument:
    """One document whose report is written and not yet in its place."""

    outcome: Outcome
    claim: Claim
    original: str
    report: str  # where the result or the error report goes
    home: str  # where the original goes
    unfinished: str | None  # the hidden file; None when the report is in its place already
    sealed: str | None = None  # the hidden encrypted copy of the original, if originals are encrypted


@dataclass(frozen=True)
class WrittenGroup:
    """Documents whose reports are written under hidden names. Next they have to be synced, then placed."""

    documents: list[_WrittenDocument]
    committed: list[CommitResult]  # nothing had to be written for these

    @property
    def to_sync(self) -> bool:
        """Whether anything was written."""
        return any(each.unfinished or each.sealed for each in self.documents)

    @property
    def bytes(self) -> int:
        """The size of their results."""
        return sum(each.outcome.size for each in self.documents)

    def joined(self, later: "WrittenGroup") -> "WrittenGroup":
        return WrittenGroup(self.documents + later.documents, self.committed + later.committed)


class Commit:
    """Commits outcomes in groups. Each spool has one: the process with the collector's lock.

    `group` runs all steps. With the single steps `write`, `sync` and `place`, another thread can sync one group while
    the next is written. Groups have to be placed (or undone with `undo`) in the order in which they were written.
    """

    def __init__(
        self,
        folders: Folders,
        claims: Claims,
        at: FaultPoint = no_faults,
        sync: Callable[[str], None] = sync_all,
        seal: Seal | None = None,  # for the originals
    ) -> None:
        self._folders = folders
        self._claims = claims
        self._at = at
        self._sync = sync
        self._seal = seal
        self._manifests: dict[str, dict[str, Claim]] = {}
        self._left: Counter[str] = Counter()  # claims that are left in a group
        self._made: set[str] = set()
        # Of groups that are written and not yet placed: their documents, and the paths reserved for them.
        self._begun: set[str] = set()
        self._planned: set[str] = set()

    def group(self, outcomes: Iterable[Outcome]) -> list[CommitResult]:
        """Commit `outcomes` together. Raises `FolderError` when a folder can't be written; then repeat the call."""
        written = self.write(outcomes)
        try:
            self.sync(written)
        except FolderError:
            self.undo(written)
            raise
        return self.place(written)

    def write(self, outcomes: Iterable[Outcome]) -> WrittenGroup:
        """Write the reports of `outcomes` under hidden names: all, or none when it raises `FolderError`."""
        written = WrittenGroup([], [])
        try:
            for outcome in outcomes:
                document = self._write(outcome)
                if isinstance(document, CommitResult):
                    written.committed.append(document)
                else:
                    written.documents.append(document)
                    self._begun.add(outcome.id)
        except OSError as error:
            self.undo(written)
            raise FolderError(explain(error)) from error
        self._at("commit.written")
        return written

    def sync(self, written: WrittenGroup) -> None:
        """Make the written files durable. Raises `FolderError`. Shares no state: it may run in another thread."""
        try:
            if written.to_sync:
                self._sync(self._folders.output)
        except OSError as error:
            raise FolderError(explain(error)) from error
        self._at("commit.synced")

    def place(self, written: WrittenGroup) -> list[CommitResult]:
        """Rename reports and originals to their places. Raises `FolderError`; the rest can then be written again."""
        try:
            placed = [self._place(document) for document in written.documents]
        except OSError as error:
            self._made.clear()
            raise FolderError(explain(error)) from error
        finally:
            self._end(written)
        self._remove_empty_groups(document.outcome.group for document in written.documents)
        self._at("commit.done")
        return written.committed + placed

    def undo(self, written: WrittenGroup) -> None:
        """Remove the hidden files of a group that will not be placed."""
        for document in written.documents:
            _remove(document.unfinished)
            _remove(document.sealed)
        self._made.clear()
        self._end(written)

    def _end(self, written: WrittenGroup) -> None:
        for document in written.documents:
            self._begun.discard(document.outcome.id)
            self._planned.discard(document.report)
            self._planned.discard(document.home)

    def _write(self, outcome: Outcome) -> _WrittenDocument | CommitResult:
        if outcome.id in self._begun:
            return CommitResult(outcome, Status(outcome.kind))
        try:
            original = self._claims.path(outcome.group, outcome.id)
            status, raw = _read_claim(original) if outcome.kind == "done" else (os.lstat(original), b"")
        except (ValueError, FileNotFoundError):
            return CommitResult(outcome, Status(outcome.kind))
        claim = self._claim(outcome.group, outcome.id)
        if FileStamp.of(status) != claim.stamp and claim.sha256 is not None and sha256_of(original) != claim.sha256:
            return self._return(outcome, claim, original)
        if outcome.kind == "done":
            if claim.sha256 is not None and hashlib.sha256(raw).hexdigest() != claim.sha256:  # changed since `lstat`
                return self._return(outcome, claim, original)
            report, home, exists = self._places(claim, self._folders.output, self._folders.archive, "")
            content = b"" if exists else encode_result(outcome, claim, raw)
        else:
            report, home, exists = self._places(claim, self._folders.error, self._folders.error, REPORT_SUFFIX)
            content = b"" if exists else encode_report(outcome, claim, claim.sha256 or sha256_of(original))
        unfinished = None if exists else unfinished_path(os.path.dirname(report), outcome.id)
        try:
            if unfinished:
                write_file(unfinished, content, 0o644, fresh=False, sync=False)
            sealed = write_sealed_copy(original, home, claim.id, self._seal)
        except OSError:
            _remove(unfinished)
            raise
        self._planned.update((report, home))
        return _WrittenDocument(outcome, claim, original, report, home, unfinished, sealed)

    def _return(self, outcome: Outcome, claim: Claim, original: str) -> CommitResult:
        """Move a claim whose file changed back to the watch folder."""
        watch = claim.watch if claim.watch in self._folders.watch else self._folders.watch[0]
        return_to_watch(original, watch, names.safe_path(claim.relative_path), claim.id)
        self._left[outcome.group] -= 1
        self._remove_empty_groups([outcome.group])
        why = "The file changed after it was read. It was put back and will be read again."
        return CommitResult(outcome, Status.CANCELLED, claim, why)

    def _place(self, document: _WrittenDocument) -> CommitResult:
        if document.unfinished:
            rename_new(document.unfinished, document.report)
        self._at("commit.report_in_place")
        move = document.original, document.home, document.claim.id, self._seal, document.sealed, self._at
        try:
            move_original(*move)
        except FileNotFoundError:  # its folder was removed since it was made
            os.makedirs(os.path.dirname(document.home), exist_ok=True)
            move_original(*move)
        self._at("commit.original_moved")
        self._left[document.outcome.group] -= 1
        return CommitResult(document.outcome, Status(document.outcome.kind), document.claim)

    def _places(self, claim: Claim, reports: str, homes: str, ending: str) -> tuple[str, str, bool]:
        """(where the report goes, where the original goes, whether the report exists already because of a crash).

        Both get the document's own path when it is free in both folders, else the path with the id in it.
        """
        source = names.safe_path(claim.relative_path)
        was_split = homes == self._folders.archive and claim.watch.startswith(self._folders.lines + os.sep)
        for option in names.path_options(source, claim.id, ending):
            report = os.path.join(reports, option + ending)
            home = os.path.join(homes, names.line_path(option) if was_split else option)
            if report in self._planned or home in self._planned or not _are_legal(report, home):
                continue
            try:
                self._make(os.path.dirname(report))
                self._make(os.path.dirname(home))
            except (FileExistsError, NotADirectoryError):
                continue  # a document has the name of this folder
            if os.path.lexists(report):
                if id_of(report) == claim.id:
                    # The place of the original may be taken by another file, or by its own encrypted copy.
                    free = not os.path.lexists(home) or (self._seal is not None and is_in_place(home, claim.id))
                    return report, home if free else with_id(home, claim.id), True
                continue
            if not os.path.lexists(home):
                return report, home, False
        raise FileExistsError(errno.EEXIST, "every name for this document is taken", os.path.join(reports, source))

    def _claim(self, group: str, document_id: str) -> Claim:
        if group not in self._manifests or document_id not in self._manifests[group]:
            self._manifests[group] = self._claims.held(group)
            self._left[group] = len(self._manifests[group])
        return self._manifests[group][document_id]

    def _make(self, folder: str) -> None:
        """Make a folder unless it is known to exist. `undo` and a failed `place` forget the known folders."""
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)
            if len(self._made) >= _MAX_FOLDERS:
                self._made.clear()
            self._made.add(folder)

    def _remove_empty_groups(self, groups: Iterable[str]) -> None:
        """Remove groups without claims. If that fails, recovery (ingest/recovery.py) removes them later."""
        for group in set(groups):
            if self._left[group] <= 0:
                self._manifests.pop(group, None)
                self._left.pop(group, None)
                with contextlib.suppress(OSError, ValueError):
                    self._claims.remove_group(group)


def _remove(path: str | None) -> None:
    if path:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _read_claim(path: str) -> tuple[os.stat_result, bytes]:
    """The `stat` of a claim, and its bytes (none when it is no longer a regular file). Raises OSError."""
    try:
        return read_file(path)
    except FileNotFoundError:
        raise
    except OSError:
        return os.lstat(path), b""  # it was replaced by a link or a socket; the stamp shows that it has changed


def _are_legal(report: str, home: str) -> bool:
    """Whether these paths are short enough: the output folder's own path may be longer than the watch folder's."""
    if max(len(report), len(home)) < PATH_BYTES // 8:
        return True  # however many bytes each character has
    hidden = (unfinished_path(os.path.dirname(report), "0" * 26), sealed_copy_path(home, "0" * 26))
    return max(len(os.fsencode(path)) for path in (report, home, *hidden)) <= PATH_BYTES
