"""`POST /jobs`: submits documents. A 202 means that their bytes are synced in the watch folder (invariant 3)."""

import errno
import logging
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.access.roles import Role, caller
from llm_scheduler.api.endpoints.jobs import Id, find_entry
from llm_scheduler.api.http import idempotency
from llm_scheduler.api.http.context import ApiContext, api_context, json_answer
from llm_scheduler.api.http.idempotency import IdempotencyKeys, Reservation
from llm_scheduler.api.http.operation import Answer, Body, Operation
from llm_scheduler.api.http.problems import ProblemError, redis_unavailable
from llm_scheduler.api.http.uploads import LINES_TYPES, read
from llm_scheduler.ingest.spool.drop import NewDocument
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.process.connection import AWAY

_log = logging.getLogger("llm.api")


class AcceptedJob(msgspec.Struct, frozen=True):
    """A document that is safe on disk. `location` is the path of its job."""

    id: Id
    status: Status
    source: str
    location: Annotated[str, Meta(pattern="^/jobs/")]


class AcceptedJobs(msgspec.Struct, frozen=True):
    """The documents of a form with several files, in their order."""

    jobs: list[AcceptedJob]


async def create_jobs(request: Request) -> Response:
    """Submit documents: a JSON body, the files of a form, or JSONL (one document a line).

    202: the documents are safe on disk, and survive any crash. With an Idempotency-Key a request may be repeated after
    a lost answer: it is carried out once. Text that is not valid JSON is accepted too: intake repairs it, or its job is
    rejected with the reason. A JSONL file is one job that is split; its documents are jobs whose `source` is below its
    own.
    """
    context = api_context(request)
    key = request.headers.get(idempotency.HEADER)
    if key is not None:
        idempotency.check_key(key)
    await run_in_threadpool(_refuse_when_full, context)
    uploads = await read(request, context.config)
    at = context.clock.now()
    documents = [NewDocument(context.ids.make(at), upload.raw, upload.name) for upload in uploads]
    if key is not None:
        return await _submit_once(request, context, key, documents, at)
    await _write(context, documents, at)
    return _answer(request, documents)


async def _submit_once(
    request: Request, context: ApiContext, key: str, documents: list[NewDocument], at: float
) -> Response:
    """Carry out a request with an Idempotency-Key, unless an earlier one was carried out. `documents` have new ids."""
    keys = IdempotencyKeys(context.redis, caller(request).name)
    fingerprint = idempotency.fingerprint_of([(each.raw, each.name) for each in documents])
    names = [(each.id, each.name) for each in documents]
    try:
        reserved = await run_in_threadpool(keys.reserve, key, fingerprint, names, context.clock.now())
        replayed = reserved.written or (reserved.doubtful and await run_in_threadpool(_all_exist, context, reserved))
    except AWAY as error:
        context.monitor.redis_failed()
        raise redis_unavailable(
            error,
            "it is unknown whether this request was sent before. Without an Idempotency-Key documents are accepted.",
        ) from None
    documents = [
        NewDocument(document_id, each.raw, name)
        for each, (document_id, name) in zip(documents, reserved.documents, strict=True)
    ]
    if not replayed:
        try:
            await _write(context, documents, at)
        except ProblemError:
            await _update_reservation(context, lambda: keys.release(key))
            raise
    if not reserved.written:
        await _update_reservation(context, lambda: keys.mark_written(key, fingerprint, reserved.documents))
    return _answer(request, documents, {"Idempotency-Replayed": "true"} if replayed else {})


async def _update_reservation(context: ApiContext, update: Callable[[], None]) -> None:
    """While Redis is unreachable the lease expires; the next request with the key finds the documents by their ids."""
    try:
        await run_in_threadpool(update)
    except AWAY:
        context.monitor.redis_failed()


def _all_exist(context: ApiContext, reserved: Reservation) -> bool:
    """Whether all these documents were written."""
    try:
        for document_id, _ in reserved.documents:
            find_entry(context, document_id)
    except ProblemError:
        return False
    return True


async def _write(context: ApiContext, documents: list[NewDocument], at: float) -> None:
    try:
        await context.writer.write(documents, at)
    except OSError as error:
        _log.error("Documents could not be written: %s", error)
        raise _disk_problem(error) from None


def _answer(request: Request, documents: list[NewDocument], headers: dict[str, str] | None = None) -> Response:
    jobs = [AcceptedJob(each.id, Status.RECEIVED, each.source, f"/jobs/{each.id}") for each in documents]
    request.scope["llm.audit"] = {"jobs": len(jobs), "first_job": jobs[0].id}
    # A form with one file is answered like a plain body.
    if len(jobs) == 1:
        return json_answer(jobs[0], 202, {"Location": jobs[0].location, **(headers or {})})
    return json_answer(AcceptedJobs(jobs), 202, headers)


def _refuse_when_full(context: ApiContext) -> None:
    """Raises a 429 when ten times `queue.max_queue_size` files wait: the watch folder is the overflow until then."""
    queue = context.config.queue
    try:
        documents = context.monitor.documents_in_flight()
    except AWAY:
        context.monitor.redis_failed()
        return
    context.monitor.redis_answered()
    if documents >= queue.max_queue_size and context.monitor.file_counts()[0] > 10 * queue.max_queue_size:
        raise ProblemError(
            429,
            f"{documents} documents are in flight and more than {10 * queue.max_queue_size} files wait. "
            "Send this again later, or raise queue.max_queue_size.",
            retry_after=5,
        )


def _disk_problem(error: OSError) -> ProblemError:
    """What is wrong with the watch folder, without its path."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            status, text = 507, "The disk of the watch folder is full."
        case errno.EROFS:
            status, text = 503, "The watch folder is on a file system that is mounted read-only."
        case errno.EACCES | errno.EPERM:
            status, text = 503, "The watch folder can't be written by the API's user."
        case _:
            status, text = 503, f"The watch folder can't be written ({error.strerror or type(error).__name__})."
    return ProblemError(status, f"{text} Nothing was accepted. Send this again later.", retry_after=30)


_ANY: dict[str, object] = {}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary", "minLength": 1}, "minItems": 1}
# The server accepts a file under any field name; this is the documented one.
_FORM = {"type": "object", "properties": {"file": _FILES}, "required": ["file"], "additionalProperties": False}
_KEY_TEXT = "Chosen by the client. A request sent twice with the same key is carried out once."
OPERATIONS = (
    Operation(
        "POST",
        "/jobs",
        create_jobs,
        "jobs",
        {202: Answer((AcceptedJob, AcceptedJobs), "The documents are safe on disk.")},
        role=Role.SUBMITTER,
        headers={idempotency.HEADER: _KEY_TEXT},
        body=Body({"application/json": _ANY, "multipart/form-data": _FORM, **dict.fromkeys(LINES_TYPES, _ANY)}),
        problems=(408, 409, 429, 503, 507),
    ),
)
