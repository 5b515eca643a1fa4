"""The commit: outcomes become files, once (invariant 2).

For a group of documents: write every result beside its place under a hidden name, make them durable with one sync,
rename each into place, then move its original out of the claims. The claim is the token: while it is there the
document is not committed, and doing the steps again finds what is already done and does the rest.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from llm_scheduler.ingest.spool.claims import Claim, Claims, Seen, put_back
from llm_scheduler.ingest.spool.file_io import read_whole, sha256_of, write_file
from llm_scheduler.ingest.spool.folders import Folders, Trouble, explain
from llm_scheduler.ingest.spool.originals import hidden_beside, is_at_rest, put_to_rest, seal_beside
from llm_scheduler.ingest.spool.renames import PATH_BYTES, among_lines, names_for, rename_new, sync_all, with_id, within
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.crash import Evidence
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.faults import FaultPoint, no_faults
from llm_scheduler.jobs.receipt import Envelope, Position, Repair, Warned
from llm_scheduler.jobs.sealing import Seal
from llm_scheduler.jobs.store.outcomes import Outcome, Read

SIDECAR = ".error.json"
_FOLDERS_REMEMBERED = 1000


class ShownRoute(msgspec.Struct, frozen=True, kw_only=True):
    """Where a document went and why; what is not known of its place, industry and language is left out."""

    priority: str
    queue: str
    handler: str
    schema: str | msgspec.UnsetType = msgspec.UNSET
    tags: list[str] | msgspec.UnsetType = msgspec.UNSET
    country: str | msgspec.UnsetType = msgspec.UNSET
    city: str | msgspec.UnsetType = msgspec.UNSET
    industry: str | msgspec.UnsetType = msgspec.UNSET
    language: str | msgspec.UnsetType = msgspec.UNSET
    reasons: list[str]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A file in the output folder. `id` comes first: it is how a result is known to be a document's own."""

    id: str
    source: str
    status: str
    received_at: str
    completed_at: str
    attempts: int
    priority: str
    route: ShownRoute
    quality: str
    repairs: list[Repair]
    warnings: list[Warned] | msgspec.UnsetType = msgspec.UNSET
    coverage: float | msgspec.UnsetType = msgspec.UNSET
    repaired_with: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    envelope: Envelope | msgspec.UnsetType = msgspec.UNSET
    sha256: str | None
    document_sha256: str | msgspec.UnsetType = msgspec.UNSET
    rq_job_id: str
    seconds: float
    document: msgspec.Raw
    result: msgspec.Raw


class ErrorReport(msgspec.Struct, frozen=True, kw_only=True):
    """A `.error.json` beside an original in the error folder."""

    id: str
    source: str
    code: str
    message: str
    line: int | None
    column: int | None
    offset: int | None
    attempts: int
    received_at: str
    failed_at: str
    sha256: str | None
    route: ShownRoute
    evidence: list[Evidence] | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class Committed:
    """What the ledger is told. Without a `claim` there was nothing to do: an outcome of this document came before."""

    outcome: Outcome
    status: Status
    claim: Claim | None = None
    place: str = ""
    message: str = ""


@dataclass
class _Step:
    """One document between writing and moving."""

    outcome: Outcome
    claim: Claim
    original: str
    report: str  # where the result or the error report goes
    home: str  # where the original goes
    unfinished: str | None  # the hidden file; None when the report is in place already
    sealed: str | None = None  # the hidden file of the sealed original, where originals are sealed


@dataclass(frozen=True)
class Written:
    """A group of documents whose results lie beside their places. Next it has to be made durable, then placed."""

    steps: list[_Step]
    committed: list[Committed]  # those for whom there was nothing to write

    @property
    def to_sync(self) -> bool:
        """Whether anything was written."""
        return any(step.unfinished or step.sealed for step in self.steps)

    @property
    def documents(self) -> int:
        """How many were written."""
        return len(self.steps)

    @property
    def bytes(self) -> int:
        """The size of their results."""
        return sum(step.outcome.size for step in self.steps)

    def and_then(self, later: "Written") -> "Written":
        """Both groups as one."""
        return Written(self.steps + later.steps, self.committed + later.committed)


_encode = msgspec.json.Encoder().encode


class Commit:
    """Commits outcomes in groups. There is one a spool: whoever holds the collector's lock.

    `group` does all of it. The three steps by themselves let the sync of one group go on (in another thread) while the
    next is written: `write`, `sync`, `place`. Groups have to be placed, or `undo`ne, in the order they were written.
    """

    def __init__(
        self,
        folders: Folders,
        claims: Claims,
        at: FaultPoint = no_faults,
        sync: Callable[[str], None] = sync_all,
        seal: Seal | None = None,
    ) -> None:
        """`seal`: originals are sealed with it."""
        self._folders = folders
        self._claims = claims
        self._at = at
        self._sync = sync
        self._seal = seal
        self._manifests: dict[str, dict[str, Claim]] = {}
        self._left: dict[str, int] = {}
        self._made: set[str] = set()
        # Of groups that are written and not yet placed: their documents, and the places that these are about to take.
        self._begun: set[str] = set()
        self._planned: set[str] = set()

    def group(self, outcomes: Iterable[Outcome]) -> list[Committed]:
        """Commit `outcomes` together. Raises `Trouble` when a folder can't be written; all can be tried again."""
        written = self.write(outcomes)
        try:
            self.sync(written)
        except Trouble:
            self.undo(written)
            raise
        return self.place(written)

    def write(self, outcomes: Iterable[Outcome]) -> Written:
        """Write the results of `outcomes` under hidden names. Raises `Trouble`, and then has written nothing."""
        written = Written([], [])
        try:
            for outcome in outcomes:
                if outcome.id in self._begun:
                    written.committed.append(Committed(outcome, _final(outcome)))
                    continue
                step = self._write(outcome)
                if isinstance(step, Committed):
                    written.committed.append(step)
                else:
                    written.steps.append(step)
                    self._begun.add(outcome.id)
        except OSError as error:
            self.undo(written)
            raise Trouble(explain(error)) from error
        self._at("commit.written")
        return written

    def sync(self, written: Written) -> None:
        """Make what was written durable. Raises `Trouble`. Touches nothing else: it may run in another thread."""
        try:
            if written.to_sync:
                self._sync(self._folders.output)
        except OSError as error:
            raise Trouble(explain(error)) from error
        self._at("commit.synced")

    def place(self, written: Written) -> list[Committed]:
        """Rename results and originals to their places. Raises `Trouble`; what is left can be tried again."""
        try:
            placed = [self._place(step) for step in written.steps]
        except OSError as error:
            self._made.clear()
            raise Trouble(explain(error)) from error
        finally:
            self._end(written)
        self._tidy(step.outcome.claim for step in written.steps)
        self._at("commit.done")
        return written.committed + placed

    def undo(self, written: Written) -> None:
        """Remove what was written and will not be placed."""
        for step in written.steps:
            _remove(step.unfinished)
            _remove(step.sealed)
        self._made.clear()
        self._end(written)

    def _end(self, written: Written) -> None:
        for step in written.steps:
            self._begun.discard(step.outcome.id)
            self._planned.discard(step.report)
            self._planned.discard(step.home)

    def _write(self, outcome: Outcome) -> "_Step | Committed":
        group = outcome.claim
        try:
            original = self._claims.path(group, outcome.id)
            status, raw = _look(original) if outcome.kind == "done" else (os.lstat(original), b"")
        except (ValueError, FileNotFoundError):
            return Committed(outcome, _final(outcome))
        claim = self._claim(group, outcome.id)
        if Seen.of(status) != claim.seen and self._changed(original, claim):
            return self._put_back(outcome, claim, original)
        if outcome.kind == "done":
            if claim.sha256 is not None and hashlib.sha256(raw).hexdigest() != claim.sha256:  # changed just now
                return self._put_back(outcome, claim, original)
            report, home, mine = self._places(claim, self._folders.output, self._folders.archive, "")
            content = b"" if mine else _result(outcome, claim, raw)
        else:
            report, home, mine = self._places(claim, self._folders.error, self._folders.error, SIDECAR)
            content = b"" if mine else _report(outcome, claim, claim.sha256 or sha256_of(original))
        unfinished = None if mine else os.path.join(os.path.dirname(report), f".{outcome.id}.tmp")
        if unfinished:
            try:
                write_file(unfinished, content, 0o644, fresh=False, sync=False)
            except OSError:
                _remove(unfinished)
                raise
        sealed = None
        if self._seal:
            try:
                sealed = seal_beside(original, home, claim.id, self._seal)
            except OSError:
                _remove(unfinished)
                raise
        self._planned.update((report, home))
        return _Step(outcome, claim, original, report, home, unfinished, sealed)

    def _put_back(self, outcome: Outcome, claim: Claim, original: str) -> Committed:
        watch = claim.watch if claim.watch in self._folders.watch else self._folders.watch[0]
        place = put_back(original, watch, within(claim.relative_path), claim.id)
        if outcome.claim in self._left:
            self._left[outcome.claim] -= 1
        self._tidy([outcome.claim])
        why = "The file changed after it was read; it was put back and is read again."
        return Committed(outcome, Status.CANCELLED, claim, place, why)

    def _place(self, step: _Step) -> Committed:
        if step.unfinished:
            rename_new(step.unfinished, step.report)
        self._at("commit.report_in_place")
        try:
            self._put_to_rest(step)
        except FileNotFoundError:  # its folder was removed since it was made
            os.makedirs(os.path.dirname(step.home), exist_ok=True)
            self._put_to_rest(step)
        self._at("commit.original_moved")
        group = step.outcome.claim
        if group in self._left:
            self._left[group] -= 1
        place = step.report if step.outcome.kind == "done" else step.home
        return Committed(step.outcome, _final(step.outcome), step.claim, place)

    def _put_to_rest(self, step: _Step) -> None:
        if self._seal is None:
            rename_new(step.original, step.home)
        else:
            put_to_rest(step.original, step.home, step.claim.id, step.sealed, self._at)

    def _places(self, claim: Claim, reports: str, homes: str, ending: str) -> tuple[str, str, bool]:
        """Where a document's report and original go, and whether the report is there already (a crash came between).

        Its own path when that is free in both folders, else the one with its id; names are cut where they are too long.
        """
        source = within(claim.relative_path)
        for option in names_for(source, claim.id, ending):
            report = os.path.join(reports, option + ending)
            home = os.path.join(homes, self._home(option, claim) if homes == self._folders.archive else option)
            if report in self._planned or home in self._planned or not _fit(report, home):
                continue
            try:
                self._make(os.path.dirname(report))
                self._make(os.path.dirname(home))
            except (FileExistsError, NotADirectoryError):
                continue  # a document was once called what is a folder now
            if os.path.lexists(report):
                if _is_of(report, claim.id):
                    # Nobody here takes it, but somebody else might have; or it is there already, sealed.
                    free = not os.path.lexists(home) or (self._seal is not None and is_at_rest(home, claim.id))
                    return report, home if free else with_id(home, claim.id), True
                continue
            if not os.path.lexists(home):
                return report, home, False
        raise FileExistsError(errno.EEXIST, "every name for this document is taken", os.path.join(reports, source))

    def _home(self, source: str, claim: Claim) -> str:
        """Where below the archive an original goes."""
        if not claim.watch.startswith(self._folders.lines + os.sep):
            return source
        return among_lines(source)

    def _claim(self, group: str, document_id: str) -> Claim:
        if group not in self._manifests or document_id not in self._manifests[group]:
            self._manifests[group] = self._claims.held(group)
            self._left[group] = len(self._manifests[group])
        return self._manifests[group][document_id]

    def _make(self, folder: str) -> None:
        """Make a folder that is not known to be there. A group that fails forgets what is known."""
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)
            if len(self._made) >= _FOLDERS_REMEMBERED:
                self._made.clear()
            self._made.add(folder)

    def _changed(self, original: str, claim: Claim) -> bool:
        return claim.sha256 is not None and sha256_of(original) != claim.sha256

    def _tidy(self, groups: Iterable[str]) -> None:
        """Remove the groups that have become empty. What fails here is removed by the next reconcile."""
        for group in set(groups):
            if self._left.get(group, 0) <= 0:
                self._manifests.pop(group, None)
                self._left.pop(group, None)
                with contextlib.suppress(OSError, ValueError):
                    self._claims.remove_group(group)


def _remove(path: str | None) -> None:
    if path:
        with contextlib.suppress(OSError):
            os.unlink(path)


_FINAL = {"done": Status.DONE, "rejected": Status.REJECTED, "cancelled": Status.CANCELLED}


def _final(outcome: Outcome) -> Status:
    return _FINAL[outcome.kind]


def _look(path: str) -> tuple[os.stat_result, bytes]:
    """What `stat` says of a claim, and its bytes; without them where it is no longer a plain file. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        return os.lstat(path), b""  # somebody put a link or a socket there: it has changed
    try:
        status = os.fstat(descriptor)
        return status, read_whole(descriptor, status.st_size) if stat.S_ISREG(status.st_mode) else b""
    finally:
        os.close(descriptor)


def _fit(report: str, home: str) -> bool:
    """Whether the system takes paths as long as these: an output folder's may be longer than the watch folder's."""
    if max(len(report), len(home)) < PATH_BYTES // 8:
        return True  # however many bytes its characters have
    unfinished = os.path.join(os.path.dirname(report), f".{'0' * 26}.tmp")
    sealed = hidden_beside(home, "0" * 26)
    return max(len(os.fsencode(path)) for path in (report, home, unfinished, sealed)) <= PATH_BYTES


_VALID = Read()


def _result(outcome: Outcome, claim: Claim, raw: bytes) -> bytes:
    read = outcome.read or _VALID
    return (
        _encode(
            Result(
                id=outcome.id,
                source=claim.source,
                status=Status.DONE.value,
                received_at=rfc3339(claim.received_at),
                completed_at=rfc3339(outcome.completed_at),
                attempts=outcome.attempts,
                priority=outcome.route.priority,
                route=_route(outcome),
                quality=read.quality,
                repairs=read.repairs,
                warnings=read.warnings or msgspec.UNSET,
                coverage=msgspec.UNSET if read.coverage is None else read.coverage,
                repaired_with=read.tools or msgspec.UNSET,
                envelope=read.envelope or msgspec.UNSET,
                sha256=claim.sha256,
                document_sha256=hashlib.sha256(read.document).hexdigest() if read.document else msgspec.UNSET,
                rq_job_id=outcome.rq_job_id,
                seconds=round(outcome.seconds, 6),
                document=msgspec.Raw(read.document or intake.body(raw)),
                result=msgspec.Raw(outcome.result),
            )
        )
        + b"\n"
    )


def _report(outcome: Outcome, claim: Claim, sha256: str | None) -> bytes:
    place = outcome.position or Position(0, 0, 0)
    known = outcome.position is not None
    return (
        _encode(
            ErrorReport(
                id=outcome.id,
                source=claim.source,
                code=outcome.code,
                message=outcome.message,
                line=place.line if known else None,
                column=place.column if known else None,
                offset=place.offset if known else None,
                attempts=outcome.attempts,
                received_at=rfc3339(claim.received_at),
                failed_at=rfc3339(outcome.completed_at),
                sha256=sha256,
                route=_route(outcome),
                evidence=outcome.evidence or msgspec.UNSET,
            )
        )
        + b"\n"
    )


def _route(outcome: Outcome) -> ShownRoute:
    route = outcome.route
    return ShownRoute(
        priority=route.priority,
        queue=route.queue,
        handler=route.handler,
        schema=route.schema or msgspec.UNSET,
        tags=route.tags or msgspec.UNSET,
        country=route.country or msgspec.UNSET,
        city=route.city or msgspec.UNSET,
        industry=route.industry or msgspec.UNSET,
        language=route.language or msgspec.UNSET,
        reasons=route.reasons,
    )


def _is_of(report: str, document_id: str) -> bool:
    """Whether the report at this path is of this document: its id stands at its very beginning."""
    try:
        with open(report, "rb") as file:
            return file.read(64).startswith(b'{"id":"' + document_id.encode() + b'"')
    except OSError:
        return False
