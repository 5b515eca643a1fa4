"""The account: what became of every document, as the disk has it, compared with what Redis knows.

The disk is the record, and Redis an index of it (invariant 1): what is told here is true without Redis, and with it
what is missing in the index can be put back. Documents move while they are counted, so what looks wrong is looked at
again before it is called so.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET
from redis import Redis

from llm_scheduler.ingest.finder import files as watched_files
from llm_scheduler.ingest.splitter import parts_of
from llm_scheduler.ingest.spool import Claims, Folders
from llm_scheduler.ingest.spool.commit import SIDECAR, ShownRoute
from llm_scheduler.ingest.spool.file_io import sha256_of
from llm_scheduler.ingest.spool.folders import files_below
from llm_scheduler.ingest.spool.originals import is_sealed
from llm_scheduler.ingest.spool.renames import LINES, among_lines, results_for, with_id
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import FINAL, ID_PATTERN, IN_FLIGHT, Status
from llm_scheduler.jobs.store import ledger

Kind = Literal["twice", "no_report", "no_original", "no_claim", "other_content"]
_HEAD = re.compile(rb'\{"id":"(%s)"' % ID_PATTERN.pattern.encode())
_ID_IN_NAME = re.compile(rf"\.({ID_PATTERN.pattern})(?=\.[^.]*$|$)")
_AT_ONCE = 500
_LOOKS = 5
_LOOK_SECONDS = 1.0


class Problem(msgspec.Struct, frozen=True):
    """Something that does not add up: which kind, where, and what it means and what to do."""

    kind: Kind
    where: str
    message: str


class Account(msgspec.Struct):
    """How many documents are where. `is_balanced` is the verdict.

    `waiting` are files in watch folders. `taken_apart` are files of several documents, which count by themselves.
    `results_taken` were done, and their results are no longer in the output folder; `originals_removed` are results
    whose originals are no longer in the archive. `unsubmitted` are claims that Redis doesn't know (ingest submits
    them), `unrecorded` finished documents that it doesn't know, and `recorded` those of them that it was told of.
    `removed` are finished documents that it knows, and of which nothing is on the disk (any more).
    """

    waiting: int = 0
    in_flight: int = 0
    done: int = 0
    rejected: int = 0
    taken_apart: int = 0
    results_taken: int = 0
    originals_removed: int = 0
    unsubmitted: int = 0
    unrecorded: int = 0
    recorded: int = 0
    removed: int = 0
    problems: list[Problem] = []

    @property
    def is_balanced(self) -> bool:
        """Every document is accounted for, once."""
        return not self.problems


Told = Callable[[str, int], None]


def nobody(_place: str, _count: int) -> None:
    """Tells nobody."""


class _Report(msgspec.Struct):
    """What the index gets to know of a finished document from its result or its report."""

    id: str
    source: str
    received_at: str
    attempts: int
    route: ShownRoute
    completed_at: str = ""
    failed_at: str = ""
    quality: str = ""
    rq_job_id: str = ""
    code: str = ""
    message: str = ""
    sha256: str | None = None


class Accounting:
    """Takes the account of a spool. Reads only, except in the index where it is asked to `record`."""

    def __init__(
        self,
        config: Config,
        redis: Redis | None,
        *,
        verify: bool = False,
        record: bool = False,
        told: Told = nobody,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Without `redis` the disk is looked at alone. `verify`: every original is read and compared with what its
        report says of it. `record`: finished documents that Redis doesn't know are put back into its ledger."""
        self._folders = Folders.of(config.directories)
        self._claims = Claims(self._folders.temp)
        self._levels = config.queue.priority_levels
        self._limits = intake.Limits(config.processing.max_document_bytes, config.processing.max_depth)
        self._most_lines = config.intake.max_lines
        self._redis = redis
        self._verify = verify
        self._record = record
        self._told = told
        self._sleep = sleep
        self._account = Account()
        self._reports: dict[str, str] = {}  # of finished documents, by id
        self._suspects: list[tuple[Kind, str, Callable[[], bool]]] = []

    def take(self) -> Account:
        """The account. Raises OSError when a folder can't be read, and RedisError when Redis is away."""
        account = self._account
        self._originals_in_archive()
        self._errors()
        self._results()
        held = self._held()
        account.in_flight = len(held)
        account.waiting = sum(1 for folder in self._watched() for _ in watched_files(folder))
        if self._redis is not None:
            self._compare(self._redis, held)
        self._settle()
        return account

    # The disk

    def _originals_in_archive(self) -> None:
        for number, path in enumerate(files_below(self._folders.archive)):
            self._told("archive", number)
            report = self._result_of(path)
            if report is None and not self._was_taken_apart(path):
                self._account.results_taken += 1
                continue
            if report is None:
                self._account.taken_apart += 1
            elif self._verify:
                self._compare_content(path, report)

    def _result_of(self, original: str) -> str | None:
        """The result of an archived original, where it is still there."""
        for place in results_for(os.path.relpath(original, self._folders.archive)):
            result = os.path.join(self._folders.output, place)
            if os.path.lexists(result) and not os.path.isdir(result):  # a folder: the results of a file's documents
                return result
            if plain := _without_id(result):
                return plain
        return None

    def _was_taken_apart(self, original: str) -> bool:
        """Whether an original is a file of several documents: only its parts have results."""
        try:
            if is_sealed(original):
                return os.path.isdir(original + LINES)
            with open(original, "rb") as file:
                return bool(parts_of(file.read(), os.path.basename(original), self._limits, self._most_lines))
        except (OSError, intake.Refused):
            return False

    def _errors(self) -> None:
        for number, path in enumerate(files_below(self._folders.error)):
            self._told("error", number)
            if not path.endswith(SIDECAR):
                if not _has_report(path):
                    self._suspects.append(("no_report", path, _Without(_has_report, path)))
                continue
            self._account.rejected += 1
            self._finished(path)
            original = _original_of(path)
            if original is None:
                self._suspects.append(("no_original", path, _Without(_original_of, path)))
            elif self._verify:
                self._compare_content(original, path)

    def _results(self) -> None:
        for number, path in enumerate(files_below(self._folders.output)):
            self._told("output", number)
            self._account.done += 1
            self._finished(path)
            if not any(os.path.lexists(home) for home in self._homes_of(path)):
                self._account.originals_removed += 1

    def _homes_of(self, result: str) -> Iterator[str]:
        """Where the original of a result may be."""
        name = os.path.relpath(result, self._folders.output)
        document_id = _id_of(result)
        for home in (name, among_lines(name)):
            yield os.path.join(self._folders.archive, home)
            if document_id:
                yield os.path.join(self._folders.archive, with_id(home, document_id))

    def _finished(self, report: str) -> None:
        document_id = _id_of(report)
        if document_id is None:
            return  # somebody else's file
        other = self._reports.setdefault(document_id, report)
        if other != report:
            self._suspects.append(("twice", report, lambda: _id_of(report) == _id_of(other) == document_id))

    def _compare_content(self, original: str, report: str) -> None:
        try:
            told = _read_report(report)
            if told is None or told.sha256 is None or not os.path.isfile(original) or is_sealed(original):
                return
        except FileNotFoundError:
            return  # tried again just now, or removed by its age
        if sha256_of(original) not in (None, told.sha256):
            self._account.problems.append(Problem("other_content", original, _MEANINGS["other_content"]))

    def _held(self) -> set[str]:
        """The ids of all claims."""
        held: set[str] = set()
        for group in self._claims.groups():
            held.update(self._claims.held(group))
        return held

    def _watched(self) -> list[str]:
        return [*self._folders.watch, *([self._folders.lines] if os.path.isdir(self._folders.lines) else [])]

    # The index

    def _compare(self, redis: Redis, held: set[str]) -> None:
        known: set[str] = set()
        for document_id, record in self._entries(redis):
            known.add(document_id)
            if record.status in FINAL:
                self._account.removed += document_id not in self._reports and not record.was_taken_apart
            elif record.status in IN_FLIGHT and document_id not in held:
                self._suspects.append(("no_claim", document_id, self._is_without_claim(redis, document_id)))
        self._account.unsubmitted = len(held - known)
        strange = [document_id for document_id in self._reports if document_id not in known]
        for begin in range(0, len(strange), _AT_ONCE):
            # It was told of them while they were counted, most likely.
            few = strange[begin : begin + _AT_ONCE]
            entries = ledger.entries(redis, few)
            missing = [document_id for document_id, entry in zip(few, entries, strict=True) if entry is None]
            self._account.unrecorded += len(missing)
            if self._record:
                found = [_remembered(told) for each in missing if (told := _read_report(self._reports[each]))]
                self._account.recorded += ledger.remember(redis, found)

    def _entries(self, redis: Redis) -> Iterator[tuple[str, ledger.Record]]:
        cursor: str | None = None
        number = 0
        while True:
            page = ledger.page_of(
                lambda document_id, record: (document_id, record),
                redis,
                self._levels,
                limit=_AT_ONCE,
                cursor=cursor,
            )
            number += len(page.entries)
            self._told("ledger", number)
            yield from page.entries
            cursor = page.cursor
            if cursor is None:
                return

    def _is_without_claim(self, redis: Redis, document_id: str) -> Callable[[], bool]:
        def is_without() -> bool:
            entry = ledger.get(redis, document_id)
            return entry is not None and entry.status in IN_FLIGHT and document_id not in self._held()

        return is_without

    # The verdict

    def _settle(self) -> None:
        """What still looks wrong after a while is wrong."""
        for look in range(_LOOKS):
            self._suspects = [each for each in self._suspects if each[2]()]
            if not self._suspects:
                return
            if look < _LOOKS - 1:
                self._sleep(_LOOK_SECONDS)
        self._account.problems += [Problem(kind, where, _MEANINGS[kind]) for kind, where, _ in self._suspects]


_MEANINGS: dict[Kind, str] = {
    "twice": "Two results or reports are of the same document. Keep the one that its original lies beside.",
    "no_report": "An original in the error folder without its report. Drop it again, or remove it.",
    "no_original": "A report whose original is gone from the error folder. Restore that from a backup.",
    "no_claim": "Redis says that it is being worked on, and its original is in no folder. Restore it from a backup.",
    "other_content": "The original is not what was read: its SHA-256 is another. Restore it from a backup.",
}


class _Without:
    """That `find` still finds nothing for a file which is still there."""

    def __init__(self, find: Callable[[str], object], path: str) -> None:
        self._find = find
        self._path = path

    def __call__(self) -> bool:
        return os.path.lexists(self._path) and not self._find(self._path)


def _has_report(original: str) -> bool:
    return os.path.lexists(original + SIDECAR) or _without_id(original, SIDECAR) is not None


def _without_id(path: str, ending: str = "") -> str | None:
    """The report of an original that got its id into its name while the report did not: see Commit._places."""
    folder, name = os.path.split(path)
    found = _ID_IN_NAME.search(name)
    if found is None:
        return None
    plain = os.path.join(folder, name[: found.start()] + name[found.end() :] + ending)
    return plain if _id_of(plain) == found[1] else None


def _original_of(report: str) -> str | None:
    original = report.removesuffix(SIDECAR)
    document_id = _id_of(report)
    homes = [original, *([with_id(original, document_id)] if document_id else [])]
    return next((home for home in homes if os.path.lexists(home)), None)


def _id_of(report: str) -> str | None:
    """The id at the beginning of a result or a report; None where there is none."""
    try:
        with open(report, "rb") as file:
            found = _HEAD.match(file.read(64))
    except OSError:
        return None
    return found[1].decode() if found else None


_decode = msgspec.json.Decoder(_Report).decode


def _read_report(path: str) -> _Report | None:
    try:
        with open(path, "rb") as file:
            return _decode(file.read())
    except (OSError, msgspec.DecodeError):
        return None


def _remembered(told: _Report) -> ledger.Remembered:
    """What the ledger knew of a finished document; how large it was is not in its report."""
    status = Status.DONE if not told.code else Status.CANCELLED if told.code == Code.CANCELLED else Status.REJECTED
    route = told.route
    fields: dict[str, Any] = {
        "priority": route.priority,
        "queue": route.queue,
        "handler": route.handler,
        "source": told.source,
        "attempts": told.attempts,
        "rq_job_id": told.rq_job_id,
        "code": told.code,
        "message": told.message,
        "reasons": route.reasons,
        "quality": told.quality,
        "received_at": int(_epoch(told.received_at) * 1000),
    }
    fields |= {
        name: value for name in ("country", "industry", "language") if (value := getattr(route, name)) is not UNSET
    }
    return ledger.Remembered(
        told.id, status, _epoch(told.completed_at or told.failed_at), {k: v for k, v in fields.items() if v}
    )


def _epoch(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
