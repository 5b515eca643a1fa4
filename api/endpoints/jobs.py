"""`GET /jobs` and `GET /jobs/{id}`: what the ledger says of documents, and what their reports say beside it."""

import contextlib
import os
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.http.context import Site, answer, asking, asks_redis, site
from llm_scheduler.api.http.operation import Answer, Nothing, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.api.http.query import Level
from llm_scheduler.ingest.spool.drop import FOLDER, id_in_name
from llm_scheduler.ingest.spool.finished_files import Place, Told, find, told
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.crash import Evidence
from llm_scheduler.jobs.document import ID_PATTERN, Status, is_id
from llm_scheduler.jobs.receipt import Quality, Repair, Warned
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.ledger import Entry, Record, Wanted

_LIFE = {status.value: place for place, status in enumerate(Status)}
_MAX_SCANNED = 100_000

Id = Annotated[str, Meta(pattern=f"^{ID_PATTERN.pattern}$")]
_Name = Annotated[str, Meta(max_length=255)]
_Moment = Annotated[datetime, Meta(tz=True, description="a date and time with its zone, as in 2026-11-25T08:00:00Z")]


class JobsWanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs: all that fit every parameter given."""

    status: Annotated[Status | None, Meta(description="Where the document is.")] = None
    priority: Level | None = None
    queue: Level | None = None
    handler: Annotated[_Name | None, Meta(description="The handler's name in the configuration.")] = None
    source: Annotated[
        _Name | None, Meta(description="The path below the watch folder, or a folder above the document.")
    ] = None
    country: Annotated[str, Meta(pattern="^[A-Z]{2}$", description="an ISO 3166 code, as in DE")] | None = None
    industry: Annotated[
        _Name | None, Meta(description="An ISIC section or division (K, K64), or a label of one's own.")
    ] = None
    quality: Annotated[Quality | None, Meta(description="What the text was when it came.")] = None
    code: Annotated[_Name | None, Meta(description="The code of the error, as in docs/errors.md.")] = None
    name: Annotated[_Name | None, Meta(description="A part of the file's name; capitals don't matter.")] = None
    since: Annotated[_Moment | None, Meta(description="Received at this moment or later.")] = None
    until: Annotated[_Moment | None, Meta(description="Received before this moment.")] = None

    def wanted(self) -> Wanted:
        """The same as the ledger wants it."""
        return Wanted(
            status=self.status,
            priority=self.priority,
            since=None if self.since is None else self.since.timestamp(),
            until=None if self.until is None else self.until.timestamp(),
            queue=self.queue,
            handler=self.handler,
            source=self.source,
            country=self.country,
            industry=self.industry,
            quality=None if self.quality is None else self.quality.value,
            code=self.code,
            name=self.name,
        )


class JobsAsked(JobsWanted, frozen=True, kw_only=True):
    """A page of the jobs that are wanted."""

    limit: Annotated[int, Meta(ge=1, le=500, description="At most so many.")] = 50
    cursor: Annotated[Id | None, Meta(description="what an earlier answer gave as its cursor")] = None


class JobError(msgspec.Struct, frozen=True):
    """Why a job came to no result. `line`, `column` and `offset` (bytes) say where in the text, if it has a place."""

    code: str | None
    message: str | None
    line: int | UnsetType = UNSET
    column: int | UnsetType = UNSET
    offset: int | UnsetType = UNSET


class JobShown(msgspec.Struct, frozen=True, kw_only=True):
    """A job as every list shows it. `size` is that of the original in bytes."""

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
    """When the job came to a status."""

    status: Status
    at: str


class JobDetail(JobShown, frozen=True, kw_only=True):
    """A job and its story. `repairs`, `warnings` and `evidence` are read from its report; null while there is none on
    the host of the API."""

    timeline: list[Step]
    reasons: list[str]
    repairs: list[Repair] | None
    warnings: list[Warned] | None
    evidence: list[Evidence] | None


class Jobs(msgspec.Struct, frozen=True):
    """A page, newest first. `cursor` asks for the next one; null at the end.

    `total` counts all jobs that fit, where they are told apart by status, priority and time alone. For other filters,
    and behind a cursor, it counts those that were found on the way, and `total_is_exact` is false. So many records are
    looked at for one page; a page may be short, or empty, and still have a cursor.
    """

    jobs: list[JobShown]
    cursor: str | None
    total: int
    total_is_exact: bool


async def list_jobs(request: Request, query: JobsAsked) -> Response:
    """A page of jobs, newest first."""
    here = site(request)
    return Response(await here.pages.read(query, lambda: _page(here, query)), media_type="application/json")


def _page(here: Site, query: JobsAsked) -> bytes:
    with asking(here):
        page = ledger.page_of(
            _row, here.redis, here.levels, wanted=query.wanted(), limit=query.limit, cursor=query.cursor
        )
    total = page.total if page.is_exact else max(page.total, len(page.entries))
    return msgspec.json.encode(Jobs(page.entries, page.cursor, total, page.is_exact))


@asks_redis
def get_job(request: Request, query: Nothing) -> Response:
    """One job: its timeline, the reasons for its route, what was repaired, and its error."""
    return answer(describe(site(request), request.path_params["id"]))


def describe(here: Site, job_id: str) -> JobDetail:
    """All that is known of one job. Raises a 404."""
    entry = known(here, job_id)
    return detailed(entry, find(here.folders, entry))


def known(here: Site, job_id: str) -> Entry:
    """The ledger's entry of a job, or what its name in the watch folder says. Raises a 404."""
    if is_id(job_id):
        entry = ledger.get(here.redis, job_id)
        if entry is not None:
            return entry
        source = _waiting_source(here, job_id)
        if source is not None:
            return _dropped(job_id, source)
    raise ProblemError(
        404, f"There is no job {job_id[:50]!r}. Old jobs are forgotten; their files stay where they are."
    )


def _row(job_id: str, record: Record) -> JobShown:
    """The same as `shown` of its entry, in half the time: lists are asked for again and again."""
    failed = record.status is not Status.DONE and (record.code or record.message)
    return JobShown(
        id=job_id,
        status=record.status,
        source=record.source,
        priority=record.priority or None,
        queue=record.queue or None,
        handler=record.handler or None,
        attempts=record.attempts,
        size=record.size,
        received_at=rfc3339(record.received_at / 1000) if record.received_at else None,
        country=record.country or None,
        industry=record.industry or None,
        language=record.language or None,
        quality=record.quality or None,
        rq_job_id=record.rq_job_id or None,
        error=JobError(record.code or None, record.message or None) if failed else None,
    )


def shown(entry: Entry) -> JobShown:
    """A job as every list shows it."""
    return JobShown(**_particulars(entry), error=_error(entry))


def detailed(entry: Entry, place: Place | None) -> JobDetail:
    """A job and its story; `place` is where its files are, if they are here."""
    report = told(place.report) if place else None
    return JobDetail(
        **_particulars(entry),
        error=_error(entry, report),
        timeline=timeline(entry),
        reasons=entry.reasons,
        repairs=report.repairs if report else None,
        warnings=report.warnings if report else None,
        evidence=report.evidence if report else None,
    )


def timeline(entry: Entry) -> list[Step]:
    """When the job came to each status, in order."""
    times = [(at, _LIFE[status], status) for status, at in (*entry.times.items(), *entry.earlier) if status in _LIFE]
    return [Step(Status(status), rfc3339(at)) for at, _, status in sorted(times)]


def _particulars(entry: Entry) -> dict[str, Any]:
    received = entry.times.get("received")
    return {
        "id": entry.id,
        "status": entry.status,
        "source": entry.source,
        "priority": entry.priority or None,
        "queue": entry.queue or None,
        "handler": entry.handler or None,
        "attempts": entry.attempts,
        "size": entry.size if entry.priority else None,
        "received_at": None if received is None else rfc3339(received),
        "country": entry.country or None,
        "industry": entry.industry or None,
        "language": entry.language or None,
        "quality": entry.quality or None,
        "rq_job_id": entry.rq_job_id,
    }


def _error(entry: Entry, report: Told | None = None) -> JobError | None:
    if entry.status is Status.DONE or not (entry.code or entry.message):
        return None
    if report is None or report.line is None or report.column is None or report.offset is None:
        return JobError(entry.code, entry.message)
    return JobError(entry.code, entry.message, report.line, report.column, report.offset)


def _waiting_source(here: Site, job_id: str) -> str | None:
    """The source of an accepted document that the ledger hasn't heard of: Redis was away, or had no room for it.

    The id is only compared with names that are there; no path is made of it.
    """
    folder = os.path.join(here.config.directories.watch[0], FOLDER)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for _, entry in zip(range(_MAX_SCANNED), entries, strict=False):
            source = f"{FOLDER}/{entry.name}"
            if not entry.name.startswith(".") and id_in_name(source) == job_id:
                return source
    return None


def _dropped(job_id: str, source: str) -> Entry:
    return Entry(
        id=job_id,
        status=Status.RECEIVED,
        priority="",
        source=source,
        queue="",
        handler="",
        attempts=0,
        size=0,
        rq_job_id=None,
        code=None,
        message=None,
        reasons=[],
        times={},
    )


OPERATIONS = (
    Operation(
        method="GET",
        path="/jobs",
        endpoint=list_jobs,
        tag="jobs",
        query=JobsAsked,
        answers={200: Answer(Jobs, "A page of jobs.")},
        problems=(503,),
    ),
    Operation(
        method="GET",
        path="/jobs/{id}",
        endpoint=get_job,
        tag="jobs",
        answers={200: Answer(JobDetail, "The job.")},
        problems=(503,),
    ),
)
