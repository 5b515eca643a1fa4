"""Retrying and cancelling jobs: a single one, or all that match a filter. Ingest carries the commands out."""

import hashlib
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from ulid_transform import ulid_to_timestamp

from llm_scheduler.api.access.roles import Role, caller
from llm_scheduler.api.endpoints.jobs import Id, JobFilter, find_entry
from llm_scheduler.api.http.context import ApiContext, api_context, json_answer
from llm_scheduler.api.http.operation import Answer, EmptyQuery, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.jobs.document import ACTIVE, ID_PATTERN, Status, last_id
from llm_scheduler.jobs.store import commands, ledger_queries

CONFIRM_SECONDS = 600  # for which a dry run is valid
MAX_JOBS = 50_000  # that one request may change

Kind = Literal["retry", "cancel"]
_ALLOWED: dict[Kind, tuple[Status, ...]] = {"retry": (Status.REJECTED, Status.CANCELLED), "cancel": ACTIVE}


class JobCommand(msgspec.Struct, frozen=True):
    """The command that was sent. `status` is the job's status before the command is carried out."""

    id: Id
    asked: Kind
    status: Status
    message: str


class BulkQuery(JobFilter, frozen=True, kw_only=True):
    """Which jobs are meant. Without `confirm` nothing is changed, and the answer tells what would be."""

    confirm: Annotated[
        str | None,
        Meta(description="The `confirm` of the dry run; valid for ten minutes and for the same filter."),
    ] = None


_Final = Annotated[Literal["rejected", "cancelled"] | None, Meta(description="Only jobs of this status.")]
_Unfinished = Annotated[
    Literal["received", "batched", "queued", "started", "retrying"] | None,
    Meta(description="Only jobs of this status."),
]


class RetryQuery(BulkQuery, frozen=True, kw_only=True):
    """Rejected or cancelled jobs."""

    status: _Final = None  # type: ignore[assignment]  # narrower than in a list


class CancelQuery(BulkQuery, frozen=True, kw_only=True):
    """Unfinished jobs."""

    status: _Unfinished = None  # type: ignore[assignment]


class DryRun(msgspec.Struct, frozen=True):
    """What would be changed: `matched` jobs, the first of which are in `sample`. To do it, send the same request with
    `confirm`. Jobs received after the dry run are left alone."""

    asked: Kind
    matched: int
    sample: list[Id]
    confirm: str
    message: str


class BulkCommand(msgspec.Struct, frozen=True):
    """How many jobs the command was sent for. `more`: others match; send it again for them."""

    asked: Kind
    accepted: int
    more: bool


def retry_job(request: Request) -> Response:
    """Retry a rejected or cancelled job: its original is worked on again under the same id; its report is removed."""
    return _send_one(request, "retry", "Its original is put to work again.")


def cancel_job(request: Request) -> Response:
    """Cancel an unfinished job: its original moves to the error folder with the code `cancelled`.

    A worker that runs it is not interrupted, but its result is discarded.
    """
    return _send_one(request, "cancel", "Its original moves to the error folder; a later result is discarded.")


def retry_jobs(request: Request, query: RetryQuery) -> Response:
    """Retry all rejected or cancelled jobs that match a filter: first a dry run, then the same with `confirm`."""
    return _send_many(request, "retry", query)


def cancel_jobs(request: Request, query: CancelQuery) -> Response:
    """Cancel all unfinished jobs that match a filter: first a dry run, then the same with `confirm`."""
    return _send_many(request, "cancel", query)


def _send_one(request: Request, kind: Kind, message: str) -> Response:
    context = api_context(request)
    entry = find_entry(context, request.path_params["id"])
    if entry.status not in _ALLOWED[kind]:
        raise ProblemError(409, _why_not(kind, entry.status), job=entry.id, job_status=entry.status.value)
    commands.send(context.redis, kind, [entry.id], caller(request).name, context.clock.now())
    request.scope["llm.audit"] = {"asked": kind, "first_job": entry.id, "jobs": 1}
    return json_answer(JobCommand(entry.id, kind, entry.status, message), 202, {"Location": f"/jobs/{entry.id}"})


def _why_not(kind: Kind, status: Status) -> str:
    if kind == "cancel":
        return f"This job is {status.value}, and can't be cancelled any more."
    if status is Status.DONE:
        return "This job is done: its result stays. To run the document again, submit it again."
    return f"This job is {status.value}: it is not finished yet. Only a rejected or cancelled job can be retried."


def _send_many(request: Request, kind: Kind, query: BulkQuery) -> Response:
    context = api_context(request)
    if query.confirm is None:
        return _dry_run(context, kind, query)
    moment = _confirmed(context, kind, query, query.confirm)
    by, accepted = caller(request).name, 0
    for ids in _pages(context, kind, query, moment):
        commands.send(context.redis, kind, ids, by, context.clock.now())
        accepted += len(ids)
    request.scope["llm.audit"] = {"asked": kind, "jobs": accepted}
    return json_answer(BulkCommand(kind, accepted, accepted >= MAX_JOBS), 202)


def _dry_run(context: ApiContext, kind: Kind, query: BulkQuery) -> Response:
    moment = last_id(context.clock.now())
    found = list(chain.from_iterable(_pages(context, kind, query, moment)))
    matched = len(found)
    number = f"{matched} job{'' if matched == 1 else 's'}" if matched < MAX_JOBS else f"At least {matched} jobs"
    effect = "retried" if kind == "retry" else "cancelled"
    message = f"Nothing is changed yet. {number} would be {effect}: send the same request with `confirm` to do it."
    return json_answer(DryRun(kind, matched, found[:20], _confirmation(kind, query, moment), message))


def _pages(context: ApiContext, kind: Kind, query: BulkQuery, moment: str) -> Iterator[list[str]]:
    """The ids of the matching jobs, in pages, each read when it is needed. It ends once there are `MAX_JOBS`."""
    wanted, redis, levels = query.ledger_filter(), context.redis, context.levels
    number = 0
    for status in _ALLOWED[kind]:
        if wanted.status in (None, status.value):
            narrowed = wanted._replace(status=status)
            pages = ledger_queries.pages(
                lambda job_id, record: job_id, redis, levels, wanted=narrowed, limit=500, cursor=moment
            )
            for ids in filter(None, pages):
                yield ids
                number += len(ids)
                if number >= MAX_JOBS:
                    return


def _confirmation(kind: Kind, query: BulkQuery, moment: str) -> str:
    """The moment and a hash of the request: every instance of the API computes the same, and stores nothing."""
    asked = msgspec.json.encode([kind, query.ledger_filter(), moment], order="deterministic")
    return f"{moment}-{hashlib.sha256(asked).hexdigest()[:16]}"


def _confirmed(context: ApiContext, kind: Kind, query: BulkQuery, confirm: str) -> str:
    """The moment of the dry run. Raises a 409 if there was none for this filter, or too long ago."""
    moment = confirm.partition("-")[0]
    if ID_PATTERN.fullmatch(moment) is None or confirm != _confirmation(kind, query, moment):
        raise ProblemError(409, f"`confirm` is not that of a dry run of this {kind} with this filter. Do that first.")
    age = context.clock.now() - ulid_to_timestamp(moment) / 1000
    if not -5 <= age <= CONFIRM_SECONDS:
        raise ProblemError(409, f"The dry run was {age:.0f} s ago; it is valid for {CONFIRM_SECONDS} s. Do it again.")
    return moment


_ONE = {202: Answer(JobCommand, "The command is sent.")}
_MANY = {200: Answer(DryRun, "What would be changed."), 202: Answer(BulkCommand, "The command is sent.")}
OPERATIONS = tuple(
    Operation(
        method, path, endpoint, "jobs", answers, role=Role.OPERATOR, query=query, needs_redis=True, problems=(409,)
    )
    for method, path, endpoint, answers, query in (
        ("POST", "/bulk/retry", retry_jobs, _MANY, RetryQuery),
        ("POST", "/jobs/{id}/retry", retry_job, _ONE, EmptyQuery),
        ("POST", "/bulk/cancel", cancel_jobs, _MANY, CancelQuery),
        ("DELETE", "/jobs/{id}", cancel_job, _ONE, EmptyQuery),
    )
)
