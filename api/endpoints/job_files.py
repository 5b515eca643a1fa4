"""`GET /jobs/{id}/document|result|original`: a job's files, where the API runs on the host that has them.

No path comes from a request: what is opened lies where the ledger says, in the configured folders, and holds the job's
own id.
"""

import contextlib
import os
from collections.abc import Iterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from llm_scheduler.api.endpoints.jobs import known
from llm_scheduler.api.http.context import Site, asks_redis, site
from llm_scheduler.api.http.operation import Answer, Nothing, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.ingest.spool.claims import Claims
from llm_scheduler.ingest.spool.finished_files import find
from llm_scheduler.ingest.spool.originals import is_sealed
from llm_scheduler.ingest.spool.renames import within
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.sealing import masked
from llm_scheduler.jobs.store.ledger import Entry

_PIECE = 1 << 20
_TRIES = 3  # a file may be moved between a look and the next


class _Parts(msgspec.Struct):
    document: msgspec.Raw


@asks_redis
def get_result(request: Request, query: Nothing) -> Response:
    """What came of a job that is done: its whole file in the output folder, the handler's own answer in `result`."""
    here = site(request)
    entry = _done(here, request.path_params["id"], "result")
    return Response(_report(here, entry), media_type="application/json")


@asks_redis
def get_document(request: Request, query: Nothing) -> Response:
    """The JSON of a job that is done, as its handler got it: repaired where it had to be, `***` for what is sealed."""
    here = site(request)
    entry = _done(here, request.path_params["id"], "document")
    raw = msgspec.json.decode(_report(here, entry), type=_Parts).document
    return Response(masked(bytes(raw)), media_type="application/json")


@asks_redis
def get_original(request: Request, query: Nothing) -> Response:
    """The bytes as they arrived, wherever they are by now. One that is sealed as a whole stays so: `llmctl decrypt`
    opens it.
    """
    here = site(request)
    entry = known(here, request.path_params["id"])
    for _ in range(_TRIES):
        for path in _places(here, entry):
            with contextlib.suppress(OSError):
                return _streamed(path, entry)
        entry = known(here, entry.id)
    raise _elsewhere(entry, "original")


def _done(here: Site, job_id: str, what: str) -> Entry:
    entry = known(here, job_id)
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


def _report(here: Site, entry: Entry) -> bytes:
    place = find(here.folders, entry)
    if place is not None:
        with contextlib.suppress(OSError), open(place.report, "rb") as file:
            return file.read()
    raise _elsewhere(entry, "result")


def _elsewhere(entry: Entry, what: str) -> ProblemError:
    return ProblemError(
        404,
        f"The {what} of job {entry.id} is not in the folders of this host: it was moved or removed since, "
        "or the API runs on another host than the folders.",
        job=entry.id,
    )


def _places(here: Site, entry: Entry) -> Iterator[str]:
    """Where the original may be."""
    if place := find(here.folders, entry):
        if place.original:
            yield place.original
        return
    claims = Claims(here.folders.temp)
    with contextlib.suppress(OSError):
        for group in claims.groups():
            yield claims.path(group, entry.id)
    if entry.status is Status.RECEIVED:
        for watch in here.folders.watch:
            yield os.path.join(watch, within(entry.source))


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
            while piece := file.read(_PIECE):
                yield piece

    headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{entry.id}{ending}"'}
    return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)


OPERATIONS = tuple(
    Operation(
        method="GET",
        path=f"/jobs/{{id}}/{name}",
        endpoint=endpoint,
        tag="jobs",
        answers={200: Answer(None, words, media_type)},
        problems=(409, 503) if name != "original" else (503,),
    )
    for name, endpoint, words, media_type in (
        ("document", get_document, "The document.", "application/json"),
        ("result", get_result, "The result file.", "application/json"),
        ("original", get_original, "The original's bytes.", "application/octet-stream"),
    )
)
