"""Reconciliation: every document on the disk is accounted for, and compared with what Redis knows.

The disk is the record, and Redis an index of it (invariant 1). So the counts are right without Redis, and missing
entries of the index can be restored. Documents move meanwhile: an inconsistency is reported only if it lasts.
"""

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Literal, NamedTuple

import msgspec
from redis import Redis

from llm_scheduler.ingest.spool import Claims, Folders
from llm_scheduler.ingest.spool.file_io import sha256_of
from llm_scheduler.ingest.spool.finished_files import original_of, report_of
from llm_scheduler.ingest.spool.folders import files_below
from llm_scheduler.ingest.spool.names import LINES, REPORT_SUFFIX
from llm_scheduler.ingest.spool.originals import is_sealed
from llm_scheduler.ingest.spool.result_files import FinishedReport, id_of, read_report
from llm_scheduler.ingest.spool.watch_files import files
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import FINAL, IN_FLIGHT, Route, Status
from llm_scheduler.jobs.store import ledger, ledger_queries

DiscrepancyKind = Literal["twice", "no_report", "no_original", "no_claim", "other_content"]
Progress = Callable[[str, int], None]
_MEANINGS: dict[DiscrepancyKind, str] = {
    "twice": "Two results or reports belong to the same document. Keep the one whose original is there too.",
    "no_report": "An original in the error folder has no report. Drop it again, or remove it.",
    "no_original": "The original of this report is not in the error folder. Restore it from a backup.",
    "no_claim": "Redis says that it is in work, but its original is in no folder. Restore it from a backup.",
    "other_content": "The original is not what was read: its SHA-256 differs. Restore it from a backup.",
}
_CHUNK = 500
_CHECKS = 5
_CHECK_SECONDS = 1.0


class Discrepancy(msgspec.Struct, frozen=True):
    """An inconsistency: its kind, where it is, what it means and what to do."""

    kind: DiscrepancyKind
    where: str
    message: str


class Reconciliation(msgspec.Struct):
    """How many documents are where. `llmctl reconcile --json` prints these fields."""

    waiting: int = 0  # files in watch folders
    in_flight: int = 0
    done: int = 0
    rejected: int = 0
    taken_apart: int = 0  # files of several documents that were split; their documents are counted
    results_taken: int = 0  # done documents whose results are no longer in the output folder
    originals_removed: int = 0  # results whose originals are no longer in the archive
    unsubmitted: int = 0  # claims that Redis doesn't know; ingest submits them
    unrecorded: int = 0  # finished documents that Redis doesn't know
    recorded: int = 0  # those of them that were added now
    removed: int = 0  # finished documents that only Redis knows
    problems: list[Discrepancy] = []

    @property
    def is_balanced(self) -> bool:
        """Whether every document is accounted for, once."""
        return not self.problems


class _OpenCase(NamedTuple):
    kind: DiscrepancyKind
    where: str
    persists: Callable[[], bool]


class Reconciler:
    """Reconciles a spool. It changes nothing, except that `record` adds entries to the ledger."""

    def __init__(
        self,
        config: Config,
        redis: Redis | None,
        *,
        verify: bool = False,  # compare every original with the SHA-256 in its report
        record: bool = False,  # add finished documents that Redis doesn't know to its ledger
        progress: Progress = lambda _folder, _count: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Without `redis`, only the folders are checked."""
        self._config = config
        self._folders = Folders.of(config.directories)
        self._claims = Claims(self._folders.temp)
        self._redis = redis
        self._verify = verify
        self._record = record
        self._progress = progress
        self._sleep = sleep
        self._counts = Reconciliation()
        self._reports: dict[str, str] = {}  # of finished documents, by id
        self._suspects: list[_OpenCase] = []

    def run(self) -> Reconciliation:
        """Count and compare. Raises OSError when a folder can't be read, and RedisError when Redis is away."""
        self._check_archive()
        self._check_errors()
        self._check_results()
        claimed = self._claims.all_ids()
        self._counts.in_flight = len(claimed)
        lines = [self._folders.lines] if os.path.isdir(self._folders.lines) else []
        self._counts.waiting = sum(1 for folder in (*self._folders.watch, *lines) for _ in files(folder))
        if self._redis is not None:
            self._compare(self._redis, claimed)
        self._confirm_suspects()
        return self._counts

    def _check_archive(self) -> None:
        for number, path in enumerate(files_below(self._folders.archive)):
            self._progress("archive", number)
            report = report_of(self._folders, path)
            if report is not None:
                if self._verify:
                    self._check_content(path, report)
            elif self._was_split(path):
                self._counts.taken_apart += 1
            else:
                self._counts.results_taken += 1

    def _was_split(self, original: str) -> bool:
        """Whether an original is a file of several documents: only these have results."""
        limits, max_lines = intake.IntakeLimits.from_config(self._config.processing), self._config.intake.max_lines
        try:
            if is_sealed(original):
                return os.path.isdir(original + LINES)
            with open(original, "rb") as file:
                return bool(intake.parts_of(file.read(), os.path.basename(original), limits, max_lines))
        except (OSError, intake.IntakeRejection):
            return False

    def _check_errors(self) -> None:
        for number, path in enumerate(files_below(self._folders.error)):
            self._progress("error", number)
            if not path.endswith(REPORT_SUFFIX):
                if report_of(self._folders, path) is None:
                    self._suspect("no_report", path, report_of)
                continue
            self._counts.rejected += 1
            self._note_finished(path)
            original = original_of(self._folders, path)
            if original is None:
                self._suspect("no_original", path, original_of)
            elif self._verify:
                self._check_content(original, path)

    def _check_results(self) -> None:
        for number, path in enumerate(files_below(self._folders.output)):
            self._progress("output", number)
            self._counts.done += 1
            self._note_finished(path)
            if original_of(self._folders, path) is None:
                self._counts.originals_removed += 1

    def _suspect(self, kind: DiscrepancyKind, path: str, find: Callable[[Folders, str], str | None]) -> None:
        """The file at `path` has no counterpart. That is a discrepancy if both stay so."""
        self._suspects.append(
            _OpenCase(kind, path, lambda: os.path.lexists(path) and find(self._folders, path) is None)
        )

    def _note_finished(self, report: str) -> None:
        document_id = id_of(report)
        if document_id is None:
            return  # not our file
        other = self._reports.setdefault(document_id, report)
        if other != report:
            self._suspects.append(_OpenCase("twice", report, lambda: id_of(report) == id_of(other) == document_id))

    def _check_content(self, original: str, report_path: str) -> None:
        try:
            report = read_report(report_path)
            if report is None or report.sha256 is None or not os.path.isfile(original) or is_sealed(original):
                return
        except FileNotFoundError:
            return  # it was retried just now, or removed because of its age
        if sha256_of(original) not in (None, report.sha256):
            self._counts.problems.append(Discrepancy("other_content", original, _MEANINGS["other_content"]))

    def _compare(self, redis: Redis, claimed: set[str]) -> None:
        known: set[str] = set()
        for document_id, record in self._records(redis):
            known.add(document_id)
            if record.status in FINAL:
                self._counts.removed += document_id not in self._reports and not record.is_split_file
            elif record.status in IN_FLIGHT and document_id not in claimed:
                lacks_claim = partial(self._lacks_claim, redis, document_id)
                self._suspects.append(_OpenCase("no_claim", document_id, lacks_claim))
        self._counts.unsubmitted = len(claimed - known)
        unknown = [document_id for document_id in self._reports if document_id not in known]
        for begin in range(0, len(unknown), _CHUNK):
            # Ask again: most of them were recorded meanwhile.
            ids = unknown[begin : begin + _CHUNK]
            entries = ledger.entries(redis, ids)
            missing = [document_id for document_id, entry in zip(ids, entries, strict=True) if entry is None]
            self._counts.unrecorded += len(missing)
            if self._record:
                found = [_finished(report) for each in missing if (report := read_report(self._reports[each]))]
                self._counts.recorded += ledger.remember(redis, found)

    def _records(self, redis: Redis) -> Iterator[tuple[str, ledger.Record]]:
        number = 0
        levels = self._config.queue.priority_levels
        for records in ledger_queries.pages(lambda *found: found, redis, levels, limit=_CHUNK):
            number += len(records)
            self._progress("ledger", number)
            yield from records

    def _lacks_claim(self, redis: Redis, document_id: str) -> bool:
        entry = ledger.get(redis, document_id)
        return entry is not None and entry.status in IN_FLIGHT and document_id not in self._claims.all_ids()

    def _confirm_suspects(self) -> None:
        """Check suspects again for a while. Those that persist are discrepancies."""
        for check in range(_CHECKS):
            self._suspects = [each for each in self._suspects if each.persists()]
            if not self._suspects:
                return
            if check < _CHECKS - 1:
                self._sleep(_CHECK_SECONDS)
        for kind, where, _ in self._suspects:
            self._counts.problems.append(Discrepancy(kind, where, _MEANINGS[kind]))


def _finished(report: FinishedReport) -> ledger.FinishedDocument:
    """What the ledger knew of a finished document, except its size, which is not in the report."""
    status = Status.DONE if not report.code else Status.CANCELLED if report.code == Code.CANCELLED else Status.REJECTED
    fields = ledger.document_fields(
        msgspec.convert(report.route, Route, from_attributes=True),
        report.source,
        _epoch(report.received_at),
        attempts=report.attempts,
        rq_job_id=report.rq_job_id,
        code=report.code,
        message=report.message,
        quality=report.quality,
    )
    return ledger.FinishedDocument(report.id, status, _epoch(report.completed_at or report.failed_at), fields)


def _epoch(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
