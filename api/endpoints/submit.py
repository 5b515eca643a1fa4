"""`POST /jobs`: documents by HTTP. A 202 means that their bytes are synced in the watch folder (invariant 3)."""

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
from llm_scheduler.api.endpoints.jobs import Id, known
from llm_scheduler.api.http import idempotency
from llm_scheduler.api.http.context import Site, answer, site
from llm_scheduler.api.http.dropper import Accepted
from llm_scheduler.api.http.idempotency import Idempotency, Reserved
from llm_scheduler.api.http.operation import Answer, Body, Nothing, Operation
from llm_scheduler.api.http.problems import ProblemError, redis_away
from llm_scheduler.api.http.uploads import LINES_TYPES, Upload, read
from llm_scheduler.ingest.spool.drop import Dropped
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.process.connection import AWAY

FULL_RETRY_SECONDS = 5
DISK_RETRY_SECONDS = 30
LOAD_KEPT_SECONDS = 0.5

_log = logging.getLogger("llm.api")


class JobAccepted(msgspec.Struct, frozen=True):
    """A document that is safe. `location` is where to ask what becomes of it."""

    id: Id
    status: Status
    source: str
    location: Annotated[str, Meta(pattern="^/jobs/")]


class JobsAccepted(msgspec.Struct, frozen=True):
    """The documents of a form with several files, in their order."""

    jobs: list[JobAccepted]


async def create_jobs(request: Request, query: Nothing) -> Response:
    """Hand in documents: a JSON body, the files of a form, or a document a line.

    202 says that they are safe on disk, and survive whatever happens next. With an Idempotency-Key a request may be
    sent again after a lost answer: it is carried out once. What is no JSON, or broken JSON, is a document like any
    other: intake repairs it or says what is wrong with it. A file of a document a line is one job that is taken apart;
    its documents are jobs whose `source` is below its own.
    """
    here = site(request)
    key = request.headers.get(idempotency.HEADER)
    if key is not None:
        idempotency.checked(key)
    await run_in_threadpool(_refuse_when_full, here)
    uploads = await read(request, here.config)
    if key is None:
        accepted = _named(here, uploads)
        await _keep(here, accepted)
        return _answer(request, accepted)
    return await _once(request, here, key, uploads)


def _named(here: Site, uploads: list[Upload]) -> list[Accepted]:
    accepted = []
    for upload in uploads:
        at = here.clock.now()
        accepted.append(Accepted(Dropped(here.ids.make(at), upload.raw, upload.name), at))
    return accepted


async def _once(request: Request, here: Site, key: str, uploads: list[Upload]) -> Response:
    """Carry out a request that may have been sent before."""
    keys = Idempotency(here.redis, caller(request).name)
    fingerprint = idempotency.fingerprint_of(uploads)
    accepted = _named(here, uploads)
    documents = [(each.dropped.id, each.dropped.name) for each in accepted]
    try:
        reserved = await run_in_threadpool(keys.reserve, key, fingerprint, documents, here.clock.now())
        again = reserved.written or (reserved.doubtful and await run_in_threadpool(_are_known, here, reserved))
    except AWAY as error:
        here.lookout.failed()
        raise redis_away(
            error,
            "whether this request was sent before can't be told now. Without an Idempotency-Key documents are taken.",
        ) from None
    accepted = [
        Accepted(Dropped(name[0], upload.raw, name[1]), each.at)
        for name, upload, each in zip(reserved.documents, uploads, accepted, strict=True)
    ]
    if not again:
        try:
            await _keep(here, accepted)
        except ProblemError:
            await _told(here, lambda: keys.release(key))
            raise
    if not reserved.written:
        await _told(here, lambda: keys.written(key, fingerprint, reserved.documents))
    return _answer(request, accepted, {"Idempotency-Replayed": "true"} if again else {})


async def _told(here: Site, tell: Callable[[], None]) -> None:
    """Tell Redis. When it is away the record's lease runs out, and who comes next finds the documents by their ids."""
    try:
        await run_in_threadpool(tell)
    except AWAY:
        here.lookout.failed()


def _are_known(here: Site, reserved: Reserved) -> bool:
    """Whether all these documents were written."""
    try:
        for document_id, _ in reserved.documents:
            known(here, document_id)
    except ProblemError:
        return False
    return True


async def _keep(here: Site, accepted: list[Accepted]) -> None:
    try:
        await here.dropper.keep(accepted)
    except OSError as error:
        _log.error("Documents could not be written: %s", error)
        raise _disk_problem(error) from None


def _answer(request: Request, accepted: list[Accepted], headers: dict[str, str] | None = None) -> Response:
    shown = [
        JobAccepted(each.dropped.id, Status.RECEIVED, each.dropped.source, f"/jobs/{each.dropped.id}")
        for each in accepted
    ]
    request.scope["llm.audit"] = {"jobs": len(shown), "first_job": shown[0].id}
    # A form with one file is answered like a plain body.
    if len(shown) == 1:
        return answer(shown[0], 202, {"Location": shown[0].location, **(headers or {})})
    return answer(JobsAccepted(shown), 202, headers)


def _refuse_when_full(here: Site) -> None:
    """Refuse when there is far too much (429). The watch folder is the overflow, so there is room for long."""
    queue = here.config.queue
    try:
        documents = here.load.documents()
    except AWAY:
        here.lookout.failed()
        return
    here.lookout.answered()
    if documents >= queue.max_queue_size and here.lookout.files()[0] > 10 * queue.max_queue_size:
        raise ProblemError(
            429,
            f"{documents} documents are in flight and more than {10 * queue.max_queue_size} files wait. "
            "Send this again later, or raise queue.max_queue_size.",
            retry_after=FULL_RETRY_SECONDS,
        )


def _disk_problem(error: OSError) -> ProblemError:
    """What is wrong with the watch folder, in words, without its path."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            status, words = 507, "The disk of the watch folder is full."
        case errno.EROFS:
            status, words = 503, "The watch folder is on a file system that is mounted read-only."
        case errno.EACCES | errno.EPERM:
            status, words = 503, "The watch folder can't be written by the API's user."
        case _:
            status, words = 503, f"The watch folder can't be written ({error.strerror or type(error).__name__})."
    return ProblemError(status, f"{words} Nothing was accepted. Send this again later.", retry_after=DISK_RETRY_SECONDS)


_ANY: dict[str, object] = {}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary", "minLength": 1}}
# The server takes a file under any name; this is the one to use.
_FORM = {
    "type": "object",
    "properties": {"file": {**_FILES, "minItems": 1}},
    "required": ["file"],
    "additionalProperties": False,
}

OPERATIONS = (
    Operation(
        method="POST",
        path="/jobs",
        endpoint=create_jobs,
        tag="jobs",
        role=Role.SUBMITTER,
        headers={idempotency.HEADER: "A key of the sender's own: a request sent twice with it is carried out once."},
        body=Body(
            {
                "application/json": _ANY,
                "multipart/form-data": _FORM,
                **dict.fromkeys(LINES_TYPES, _ANY),
            }
        ),
        answers={202: Answer((JobAccepted, JobsAccepted), "The documents are safe on disk.")},
        problems=(408, 409, 429, 503, 507),
    ),
)
