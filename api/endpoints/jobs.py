"""`GET /jobs` and `GET /jobs/{id}`: documents, from the ledger and their reports."""

import contextlib
import os
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.http.context import ApiContext, api_context, redis_access
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.api.http.query import Level
from llm_scheduler.ingest.spool.drop import FOLDER, id_in_name
from llm_scheduler.ingest.spool.finished_files import FinishedFiles, find
from llm_scheduler.ingest.spool.result_files import read_report
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.crash import CrashReport
from llm_scheduler.jobs.document import ID_PATTERN, Status, is_id
from llm_scheduler.jobs.receipt import DocumentWarning, Quality, Repair
from llm_scheduler.jobs.store import ledger, ledger_queries
from llm_scheduler.jobs.store.ledger import Entry, Record
from llm_scheduler.jobs.store.ledger_queries import DocumentFilter

_ORDER = {status.value: place for place, status in enumerate(Status)}
_MAX_SCANNED = 100_000  # names in the watch folder that are compared with an id

Id = Annotated[str, Meta(pattern=f"^{ID_PATTERN.pattern}$")]
_Name = Annotated[str, Meta(max_length=255)]
_Moment = Annotated[datetime, Meta(tz=True, description="a date and time with its zone, as in 2026-11-25T08:00:00Z")]


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs: those that match every given parameter."""

    status: Annotated[Status | None, Meta(description="The job's status.")] = None
    priority: Level | None = None
    queue: Level | None = None
    handler: Annotated[_Name | None, Meta(description="The handler's name in the configuration.")] = None
    source: Annotated[
        _Name | None, Meta(description="The document's path below the watch folder, or a folder that contains it.")
    ] = None
    country: Annotated[str, Meta(pattern="^[A-Z]{2}$", description="an ISO 3166 code, as in DE")] | None = None
    industry: Annotated[
        _Name | None, Meta(description="An ISIC section or division (K, K64), or one of your own labels.")
    ] = None
    quality: Annotated[Quality | None, Meta(description="What the text was as it arrived.")] = None
    code: Annotated[_Name | None, Meta(description="The code of the error, as in docs/errors.md.")] = None
    name: Annotated[_Name | None, Meta(description="A part of the file's name, in any letter case.")] = None
    since: Annotated[_Moment | None, Meta(description="Received at this moment or later.")] = None
    until: Annotated[_Moment | None, Meta(description="Received before this moment.")] = None

    def ledger_filter(self) -> DocumentFilter:
        """The same filter in the ledger's terms."""
        fields = {name: getattr(self, name) for name in DocumentFilter._fields}
        for name in ("since", "until"):
            if fields[name] is not None:
                fields[name] = fields[name].timestamp()
        return DocumentFilter(**fields)


class JobsQuery(JobFilter, frozen=True, kw_only=True):
    """A page of the matching jobs."""

    limit: Annotated[int, Meta(ge=1, le=500, description="The size of the page.")] = 50
    cursor: Annotated[Id | None, Meta(description="the `cursor` of the previous answer")] = None


class JobError(msgspec.Struct, frozen=True):
    """Why a job has no result. `line`, `column` and `offset` (bytes) give the place in the text, if there is one."""

    code: str | None
    message: str | None
    line: int | UnsetType = UNSET
    column: int | UnsetType = UNSET
    offset: int | UnsetType = UNSET


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A job in a list. `size` is the size of the original in bytes."""

    id: Id
    status: Status
    source: str
    priority: str | None
    queue: str | None
    handler: str | None
    attempts: int
    size: int | None
    received_at: str | None
    country: str | None
    industry: str | None
    language: str | None
    quality: str | None
    rq_job_id: str | None
    error: JobError | None


class Step(msgspec.Struct, frozen=True):
    """When the job reached a status."""

    status: Status
    at: str


class JobDetail(JobSummary, frozen=True, kw_only=True):
    """A job with its history. `repairs`, `warnings` and `evidence` come from its result or error report; null if the
    API's host has none."""

    timeline: list[Step]
    reasons: list[str]
    repairs: list[Repair] | None
    warnings: list[DocumentWarning] | None
    evidence: list[CrashReport] | None


class Jobs(msgspec.Struct, frozen=True):
    """A page of jobs, newest first. `cursor` asks for the next page; null at the end.

    `total` is exact for filters by status, priority and time. For other filters, and after the first page, it counts
    the matches found so far, and `total_is_exact` is false. The number of records read for one page is limited: a page
    may be short or empty and still have a cursor.
    """

    jobs: list[JobSummary]
    cursor: str | None
    total: int
    total_is_exact: bool


async def list_jobs(request: Request, query: JobsQuery) -> Response:
    """A page of jobs, newest first."""
    context = api_context(request)
    return Response(await context.pages.read(query, lambda: _page(context, query)), media_type="application/json")


def _page(context: ApiContext, query: JobsQuery) -> bytes:
    with redis_access(context):
        wanted, limit, cursor = query.ledger_filter(), query.limit, query.cursor
        page = ledger_queries.page_of(_listed, context.redis, context.levels, wanted=wanted, limit=limit, cursor=cursor)
    total = page.total if page.is_exact else max(page.total, len(page.entries))
    return msgspec.json.encode(Jobs(page.entries, page.cursor, total, page.is_exact))


def get_job(request: Request) -> JobDetail:
    """One job: its timeline, the reasons for its route, its repairs, and its error."""
    return read_job(api_context(request), request.path_params["id"])


def read_job(context: ApiContext, job_id: str) -> JobDetail:
    """One job with its history. Raises a 404."""
    entry = find_entry(context, job_id)
    return job_detail(entry, find(context.folders, entry))


def find_entry(context: ApiContext, job_id: str) -> Entry:
    """The ledger's entry of a job, or one made from its name in the watch folder. Raises a 404."""
    if is_id(job_id):
        entry = ledger.get(context.redis, job_id)
        if entry is not None:
            return entry
        source = _source_in_watch_folder(context, job_id)
        if source is not None:
            return ledger.entry_of(job_id, Record(Status.RECEIVED, source=source))
    raise ProblemError(
        404, f"There is no job {job_id[:50]!r}. Old jobs are forgotten; their files stay where they are."
    )


def _listed(job_id: str, record: Record) -> JobSummary:
    """The same as `job_summary` of the record's entry, in half the time: lists are read again and again."""
    return _summary(job_id, record, record.received_at / 1000, record.size)


def job_summary(entry: Entry) -> JobSummary:
    return _summary(entry.id, entry, entry.times.get("received"), entry.size if entry.priority else None)


def _summary(job_id: str, found: Record | Entry, received_at: float | None, size: int | None) -> JobSummary:
    failed = found.status is not Status.DONE and (found.code or found.message)
    return JobSummary(
        id=job_id,
        status=found.status,
        source=found.source,
        priority=found.priority or None,
        queue=found.queue or None,
        handler=found.handler or None,
        attempts=found.attempts,
        size=size,
        received_at=rfc3339(received_at) if received_at else None,
        country=found.country or None,
        industry=found.industry or None,
        language=found.language or None,
        quality=found.quality or None,
        rq_job_id=found.rq_job_id or None,
        error=JobError(found.code or None, found.message or None) if failed else None,
    )


def job_detail(entry: Entry, place: FinishedFiles | None) -> JobDetail:
    """A job with its history; `place`: its files, if they are on this host."""
    fields = msgspec.structs.asdict(job_summary(entry))
    report = read_report(place.report) if place else None
    if fields["error"] and report and None not in (report.line, report.column, report.offset):
        place_in_text = {"line": report.line, "column": report.column, "offset": report.offset}
        fields["error"] = msgspec.structs.replace(fields["error"], **place_in_text)
    times = [(at, _ORDER[status], status) for status, at in (*entry.times.items(), *entry.earlier) if status in _ORDER]
    return JobDetail(
        **fields,
        timeline=[Step(Status(status), rfc3339(at)) for at, _, status in sorted(times)],
        reasons=entry.reasons,
        repairs=report.repairs if report else None,
        warnings=report.warnings if report else None,
        evidence=report.evidence if report else None,
    )


def _source_in_watch_folder(context: ApiContext, job_id: str) -> str | None:
    """The source of an accepted document that is not in the ledger: Redis was unreachable or full.

    The id is only compared with existing names; no path is made from it.
    """
    folder = os.path.join(context.config.directories.watch[0], FOLDER)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for _, entry in zip(range(_MAX_SCANNED), entries, strict=False):
            source = f"{FOLDER}/{entry.name}"
            if not entry.name.startswith(".") and id_in_name(source) == job_id:
                return source
    return None


_PAGE = {200: Answer(Jobs, "A page of jobs.")}
_JOB = {200: Answer(JobDetail, "The job.")}
OPERATIONS = (
    Operation("GET", "/jobs", list_jobs, "jobs", _PAGE, query=JobsQuery, problems=(503,)),
    Operation("GET", "/jobs/{id}", get_job, "jobs", _JOB, needs_redis=True),
)
