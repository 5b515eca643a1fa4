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
from llm_scheduler.api.http.operation import Answer, EmptyQuery, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.ingest.spool.claims import Claims
from llm_scheduler.ingest.spool.finished_files import find
from llm_scheduler.ingest.spool.names import safe_path
from llm_scheduler.ingest.spool.originals import is_sealed
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.sealing import masked
from llm_scheduler.jobs.store.ledger import Entry

_PIECE_BYTES = 1 << 20
_TRIES = 3  # a file may be moved while it is looked for


class _ResultDocument(msgspec.Struct):
    """The part of a result file that is the document."""

    document: msgspec.Raw


def get_result(request: Request, query: EmptyQuery) -> Response:
    """The result file of a done job, as it is in the output folder. The handler's result is in its member `result`."""
    context = api_context(request)
    entry = _done_entry(context, request.path_params["id"], "result")
    return Response(_result_file(context, entry), media_type="application/json")


def get_document(request: Request, query: EmptyQuery) -> Response:
    """The JSON of a done job, as its handler got it: repaired if it was broken, with `***` for encrypted fields."""
    context = api_context(request)
    entry = _done_entry(context, request.path_params["id"], "document")
    raw = msgspec.json.decode(_result_file(context, entry), type=_ResultDocument).document
    return Response(masked(bytes(raw)), media_type="application/json")


def get_original(request: Request, query: EmptyQuery) -> Response:
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


def _done_entry(context: ApiContext, job_id: str, what: str) -> Entry:
    """The entry of a job that is done. Raises a 404 or 409; `what` is what it lacks otherwise."""
    entry = find_entry(context, job_id)
    if entry.status is not Status.DONE:
        hint = (
            "" if entry.status is not Status.REJECTED else f" ({entry.code}): /jobs/{entry.id}/original has its bytes"
        )
        raise ProblemError(
            409,
            f"This job has no {what}: it is {entry.status.value}{hint}.",
            job=entry.id,
            job_status=entry.status.value,
        )
    return entry


def _result_file(context: ApiContext, entry: Entry) -> bytes:
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
            while piece := file.read(_PIECE_BYTES):
                yield piece

    headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{entry.id}{ending}"'}
    return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)


OPERATIONS = tuple(
    Operation(
        "GET",
        f"/jobs/{{id}}/{name}",
        endpoint,
        "jobs",
        {200: Answer(None, description, media_type)},
        needs_redis=True,
        problems=(409,) if name != "original" else (),
    )
    for name, endpoint, description, media_type in (
        ("document", get_document, "The document.", "application/json"),
        ("result", get_result, "The result file.", "application/json"),
        ("original", get_original, "The original's bytes.", "application/octet-stream"),
    )
)
