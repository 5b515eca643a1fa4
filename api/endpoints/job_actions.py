"""Trying jobs again and cancelling them: one by one, or all that fit a filter. Ingest does it."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from redis import Redis
from starlette.requests import Request
from starlette.responses import Response
from ulid_transform import ulid_to_timestamp

from llm_scheduler.api.access.roles import Role, caller
from llm_scheduler.api.endpoints.jobs import Id, JobsWanted, known
from llm_scheduler.api.http.context import Site, answer, asks_redis, site
from llm_scheduler.api.http.operation import Answer, Nothing, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.jobs.document import ACTIVE, ID_PATTERN, Status, last_id
from llm_scheduler.jobs.store import commands, ledger

CONFIRM_SECONDS = 600  # a dry run is remembered for so long
MAX_AT_ONCE = 50_000  # jobs that one call may change
_SAMPLE = 20
_PAGE = 500

Kind = Literal["retry", "cancel"]
RETRIED = (Status.REJECTED, Status.CANCELLED)
_CHANGED: dict[Kind, tuple[Status, ...]] = {"retry": RETRIED, "cancel": ACTIVE}


class Asked(msgspec.Struct, frozen=True):
    """What was asked for. `status` is the job's at this moment: it changes once that has been carried out."""

    id: Id
    asked: Kind
    status: Status
    message: str


class ManyAsked(JobsWanted, frozen=True, kw_only=True):
    """The jobs that are meant, of a status in which that can be asked for. Without `confirm` nothing is changed, and
    the answer tells what would be."""

    confirm: Annotated[
        str | None,
        Meta(description="What the dry run gave as `confirm`; good for ten minutes, for the same filter."),
    ] = None


_Retried = Annotated[Literal["rejected", "cancelled"] | None, Meta(description="One of those that can be.")]
_Unfinished = Annotated[
    Literal["received", "batched", "queued", "started", "retrying"] | None,
    Meta(description="One of those that can be."),
]


class RetryAsked(ManyAsked, frozen=True, kw_only=True):
    """Rejected or cancelled jobs."""

    status: _Retried = None  # type: ignore[assignment]  # narrower than that of a list


class CancelAsked(ManyAsked, frozen=True, kw_only=True):
    """Unfinished jobs."""

    status: _Unfinished = None  # type: ignore[assignment]


class DryRun(msgspec.Struct, frozen=True):
    """What would be changed: `matched` jobs, the first of which are in `sample`. To do it, send the same again with
    `confirm`. Jobs that are received after this moment are not meant."""

    asked: Kind
    matched: int
    sample: list[Id]
    confirm: str
    message: str


class ManyAccepted(msgspec.Struct, frozen=True):
    """So many jobs were asked for. `more`: there are others that fit; ask again."""

    asked: Kind
    accepted: int
    more: bool


@asks_redis
def retry_job(request: Request, query: Nothing) -> Response:
    """Try a rejected or cancelled job again: its original goes back to work under the same id, and its report goes."""
    return _one(request, "retry", "Its original is put to work again.")


@asks_redis
def cancel_job(request: Request, query: Nothing) -> Response:
    """Cancel a job that is not finished: its original goes to the error folder with the code `cancelled`.

    A worker that has it in hand goes on, and what comes of it is dropped.
    """
    return _one(request, "cancel", "Its original goes to the error folder; a result that still comes is dropped.")


@asks_redis
def retry_jobs(request: Request, query: RetryAsked) -> Response:
    """Try all rejected or cancelled jobs again that fit a filter: a dry run first, then the same with `confirm`."""
    return _many(request, "retry", query)


@asks_redis
def cancel_jobs(request: Request, query: CancelAsked) -> Response:
    """Cancel all unfinished jobs that fit a filter: a dry run first, then the same with `confirm`."""
    return _many(request, "cancel", query)


def _one(request: Request, kind: Kind, message: str) -> Response:
    here = site(request)
    entry = known(here, request.path_params["id"])
    if entry.status not in _CHANGED[kind]:
        raise ProblemError(409, _why_not(kind, entry.status), job=entry.id, job_status=entry.status.value)
    commands.give(here.redis, kind, [entry.id], caller(request).name, here.clock.now())
    request.scope["llm.audit"] = {"asked": kind, "first_job": entry.id, "jobs": 1}
    return answer(Asked(entry.id, kind, entry.status, message), 202, {"Location": f"/jobs/{entry.id}"})


def _why_not(kind: Kind, status: Status) -> str:
    if kind == "cancel":
        return f"This job is {status.value}, and can't be cancelled any more."
    if status is Status.DONE:
        return "This job is done: its result stays. To run the document again, hand it in again."
    return f"This job is {status.value}: it is still on its way. Only a rejected or cancelled one can be tried again."


def _many(request: Request, kind: Kind, query: ManyAsked) -> Response:
    here = site(request)
    if query.confirm is None:
        return _dry_run(here, kind, query)
    moment = _confirmed(here, kind, query, query.confirm)
    by, accepted = caller(request).name, 0
    for ids in _pages(here.redis, here.levels, kind, query, moment):
        commands.give(here.redis, kind, ids, by, here.clock.now())
        accepted += len(ids)
        if accepted >= MAX_AT_ONCE:
            break
    request.scope["llm.audit"] = {"asked": kind, "jobs": accepted}
    return answer(ManyAccepted(kind, accepted, accepted >= MAX_AT_ONCE), 202)


def _dry_run(here: Site, kind: Kind, query: ManyAsked) -> Response:
    moment = last_id(here.clock.now())
    sample: list[str] = []
    matched = 0
    for ids in _pages(here.redis, here.levels, kind, query, moment):
        sample = (sample + ids)[:_SAMPLE]
        matched += len(ids)
        if matched >= MAX_AT_ONCE:
            break
    words = f"{matched} job{'' if matched == 1 else 's'}" if matched < MAX_AT_ONCE else f"{matched} jobs and more"
    return answer(
        DryRun(
            kind,
            matched,
            sample,
            _confirmation(kind, query, moment),
            f"Nothing is changed yet. {words} would be asked to {kind}: send the same with confirm to do it.",
        )
    )


def _pages(redis: Redis, levels: Sequence[str], kind: Kind, query: JobsWanted, moment: str) -> Iterator[list[str]]:
    """The ids of the jobs that are meant, in pages, each read when it is wanted."""
    wanted = query.wanted()
    for status in _CHANGED[kind]:
        cursor: str | None = moment if wanted.status in (None, status.value) else None
        while cursor is not None:
            page = ledger.page(redis, levels, wanted=wanted._replace(status=status), limit=_PAGE, cursor=cursor)
            cursor = page.cursor
            if page.entries:
                yield [entry.id for entry in page.entries]


def _confirmation(kind: Kind, query: ManyAsked, moment: str) -> str:
    """Says what was asked about, and when: the same on every instance of the API, which remembers nothing."""
    asked = msgspec.json.encode([kind, query.wanted(), moment], order="deterministic")
    return f"{moment}-{hashlib.sha256(asked).hexdigest()[:16]}"


def _confirmed(here: Site, kind: Kind, query: ManyAsked, confirm: str) -> str:
    """The moment of the dry run. Raises a 409 when there was none for this filter, or long ago."""
    moment = confirm.partition("-")[0]
    if ID_PATTERN.fullmatch(moment) is None or confirm != _confirmation(kind, query, moment):
        raise ProblemError(409, f"`confirm` is not that of a dry run of this {kind} with this filter. Do that first.")
    age = here.clock.now() - ulid_to_timestamp(moment) / 1000
    if not -5 <= age <= CONFIRM_SECONDS:
        raise ProblemError(409, f"The dry run was {age:.0f} s ago; it is good for {CONFIRM_SECONDS} s. Do it again.")
    return moment


def _operations(
    path: str,
    one: Callable[..., Response],
    method: str,
    many_path: str,
    many: Callable[..., Response],
    asked: type[ManyAsked],
) -> tuple[Operation, ...]:
    return (
        Operation(
            method="POST",
            path=many_path,
            endpoint=many,
            tag="jobs",
            role=Role.OPERATOR,
            query=asked,
            answers={200: Answer(DryRun, "What would be changed."), 202: Answer(ManyAccepted, "It was asked for.")},
            problems=(409, 503),
        ),
        Operation(
            method=method,
            path=path,
            endpoint=one,
            tag="jobs",
            role=Role.OPERATOR,
            answers={202: Answer(Asked, "It was asked for.")},
            problems=(409, 503),
        ),
    )


OPERATIONS = (
    *_operations("/jobs/{id}/retry", retry_job, "POST", "/bulk/retry", retry_jobs, RetryAsked),
    *_operations("/jobs/{id}", cancel_job, "DELETE", "/bulk/cancel", cancel_jobs, CancelAsked),
)
