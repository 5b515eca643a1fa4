"""`GET /jobs/{id}/document|result|original`: a job's files, if the API runs on the host that has them.

No path comes from a request: a file is opened where the ledger says, inside the configured folders, and only if it
carries the job's id.
"""

import contextlib
import os
from collections.abc import Iterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from llm_scheduler.api.endpoints.jobs import find_entry
from llm_scheduler.api.http.context import ApiContext, api_context
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.ingest.spool.claims import Claims
from llm_scheduler.ingest.spool.finished_files import find
from llm_scheduler.ingest.spool.names import safe_path
from llm_scheduler.ingest.spool.originals import is_sealed
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.sealing import masked
from llm_scheduler.jobs.store.ledger import Entry

_TRIES = 3  # a file may be moved while it is looked for


class _ResultDocument(msgspec.Struct):
    """The part of a result file that is the document."""

    document: msgspec.Raw


def get_result(request: Request) -> Response:
    """The result file of a done job, as it is in the output folder. The handler's result is in its member `result`."""
    return Response(_result_file(request, "result"), media_type="application/json")


def get_document(request: Request) -> Response:
    """The JSON of a done job, as its handler got it: repaired if it was broken, with `***` for encrypted fields."""
    raw = msgspec.json.decode(_result_file(request, "document"), type=_ResultDocument).document
    return Response(masked(bytes(raw)), media_type="application/json")


def get_original(request: Request) -> Response:
    """The bytes as they arrived, in whatever folder they are now.

    An original that is encrypted as a whole stays encrypted; `llmctl decrypt` opens it.
    """
    context = api_context(request)
    entry = find_entry(context, request.path_params["id"])
    for _ in range(_TRIES):
        for path in _original_paths(context, entry):
            with contextlib.suppress(OSError):
                return _streamed(path, entry)
        entry = find_entry(context, entry.id)
    raise _not_on_this_host(entry, "original")


def _result_file(request: Request, what: str) -> bytes:
    """The result file of a job that is done. Raises a 404 or 409; `what` is what the job lacks otherwise."""
    context = api_context(request)
    entry = find_entry(context, request.path_params["id"])
    if entry.status is not Status.DONE:
        hint = f" ({entry.code}): /jobs/{entry.id}/original has its bytes" if entry.status is Status.REJECTED else ""
        text = f"This job has no {what}: it is {entry.status.value}{hint}."
        raise ProblemError(409, text, job=entry.id, job_status=entry.status.value)
    place = find(context.folders, entry)
    if place is not None:
        with contextlib.suppress(OSError), open(place.report, "rb") as file:
            return file.read()
    raise _not_on_this_host(entry, "result")


def _not_on_this_host(entry: Entry, what: str) -> ProblemError:
    return ProblemError(
        404,
        f"The {what} of job {entry.id} is not in the folders of this host: it was moved or removed since, "
        "or the API runs on another host than the folders.",
        job=entry.id,
    )


def _original_paths(context: ApiContext, entry: Entry) -> Iterator[str]:
    """Where the original may be."""
    if place := find(context.folders, entry):
        if place.original:
            yield place.original
        return
    claims = Claims(context.folders.temp)
    with contextlib.suppress(OSError):
        for group in claims.groups():
            yield claims.path(group, entry.id)
    if entry.status is Status.RECEIVED:
        for watch in context.folders.watch:
            yield os.path.join(watch, safe_path(entry.source))


def _streamed(path: str, entry: Entry) -> Response:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    try:
        size = os.fstat(descriptor).st_size
        ending = ".sealed" if is_sealed(path) else ""
    except OSError:
        file.close()
        raise

    def pieces() -> Iterator[bytes]:
        with file:
            while piece := file.read(1 << 20):
                yield piece

    headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{entry.id}{ending}"'}
    return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)


_DOCUMENT = {200: Answer(None, "The document.")}
_RESULT = {200: Answer(None, "The result file.")}
_ORIGINAL = {200: Answer(None, "The original's bytes.", "application/octet-stream")}
OPERATIONS = (
    Operation("GET", "/jobs/{id}/document", get_document, "jobs", _DOCUMENT, needs_redis=True, problems=(409,)),
    Operation("GET", "/jobs/{id}/result", get_result, "jobs", _RESULT, needs_redis=True, problems=(409,)),
    Operation("GET", "/jobs/{id}/original", get_original, "jobs", _ORIGINAL, needs_redis=True),
)
