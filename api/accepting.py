"""`POST /jobs`: documents by HTTP. A 202 means that their bytes are synced in the watch folder (invariant 3)."""

import errno
import logging
import os
from collections.abc import AsyncIterator
from typing import NamedTuple

from redis.exceptions import WatchError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from api.problems import ProblemError
from api.query import parameters
from api.site import Site, answer, site
from ingest.dropping import drop
from jobs import ledger
from jobs.connection import AWAY, explain
from jobs.document import Status, is_id, new_id

ACCEPTED_TYPES = "application/json, multipart/form-data"
FRAME_BYTES = 64 * 1024  # what a form may need beside the documents in it
MOST_FILES = 100
FULL_RETRY_SECONDS = 5
DISK_RETRY_SECONDS = 30
_LINES = (".jsonl", ".ndjson")

_log = logging.getLogger("llm.api")


class Upload(NamedTuple):
    """One document of a request: its bytes, and what the sender calls it."""

    raw: bytes
    name: str | None


class Accepted(NamedTuple):
    """One document on disk."""

    id: str
    source: str
    size: int
    at: float


async def accept(request: Request) -> Response:
    """Take the documents of a request: all checked before the first is written."""
    parameters(request)
    here = site(request)
    kind = _media_type(request)
    await run_in_threadpool(_refuse_when_full, here)
    uploads = await _form(request, here) if kind == "multipart/form-data" else [await _body(request, here)]
    accepted = await run_in_threadpool(_keep, here, uploads)
    shown = [_shown(each) for each in accepted]
    # A form with one file is answered like a plain body.
    if len(shown) == 1:
        return answer(shown[0], 202, {"Location": shown[0]["location"]})
    return answer({"jobs": shown}, 202)


def _shown(accepted: Accepted) -> dict[str, str]:
    return {
        "id": accepted.id,
        "status": Status.RECEIVED.value,
        "source": accepted.source,
        "location": f"/jobs/{accepted.id}",
    }


# Reading


def _media_type(request: Request) -> str:
    given = request.headers.get("content-type", "")
    kind = given.split(";", 1)[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _unsupported("A compressed body is not taken: send it without Content-Encoding.")
    # Bytes of no stated kind are a document like any other: what they are is for the pipeline to say.
    if kind in ("", "application/json", "application/octet-stream", "multipart/form-data") or kind.endswith("+json"):
        return kind
    raise _unsupported(
        f"Content-Type {given[:100]} is not taken. Send one JSON document as application/json "
        "(curl: -H 'content-type: application/json'), or files as multipart/form-data."
    )


def _unsupported(detail: str) -> ProblemError:
    return ProblemError(415, detail, headers={"Accept-Post": ACCEPTED_TYPES}, allowed=ACCEPTED_TYPES.split(", "))


async def _capped(request: Request, cap: int, limit: int) -> AsyncIterator[bytes]:
    """The body in pieces; a 413 ends it before more than `cap` bytes are taken. `limit` is what the words say."""
    too_large = ProblemError(
        413, f"The request is larger than {limit} bytes (processing.max_document_bytes).", limit=limit
    )
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > cap:
        raise too_large
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > cap:
            raise too_large
        yield piece


async def _body(request: Request, here: Site) -> Upload:
    limit = here.config.processing.max_document_bytes
    body = bytearray()
    async for piece in _capped(request, limit, limit):
        body += piece
    if not body:
        raise ProblemError(422, "The body is empty. Send one JSON document.")
    return Upload(bytes(body), None)


async def _form(request: Request, here: Site) -> list[Upload]:
    limit = here.config.processing.max_document_bytes

    async def stream() -> "AsyncIterator[bytes]":
        async for piece in _capped(request, limit + FRAME_BYTES, limit):
            yield piece

    parser = MultiPartParser(request.headers, stream(), max_files=MOST_FILES, max_fields=MOST_FILES)  # type: ignore[arg-type]
    # The whole form is bounded already; what has not been accepted has no business on a disk.
    parser.spool_max_size = 0
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ProblemError(400, f"The form can't be read: {error.message}") from None
    uploads = []
    try:
        for name, part in form.multi_items():
            if not isinstance(part, UploadFile):
                raise ProblemError(
                    422, f"The form's field {name[:50]!r} is not a file. Send files only.", field=name[:50]
                )
            uploads.append(_upload(await part.read(), part.filename or "", limit))
    finally:
        await form.close()
    if not uploads:
        raise ProblemError(422, "The form has no file. With curl: -F file=@document.json")
    return uploads


def _upload(raw: bytes, name: str, limit: int) -> Upload:
    if name.lower().endswith(_LINES):
        raise _unsupported(f"{name[-100:]!r} holds a document a line, which is not taken here yet. Send one a file.")
    if not raw:
        raise ProblemError(422, f"The file {name[-100:]!r} is empty.")
    if len(raw) > limit:
        raise ProblemError(
            413, f"The file {name[-100:]!r} is larger than {limit} bytes (processing.max_document_bytes).", limit=limit
        )
    return Upload(raw, _plain_name(name))


def _plain_name(name: str) -> str | None:
    """A sender's file name as one that ingest takes for a document, and whose id can only be the one given here.

    `answer.tmp` would be ignored as unfinished, and a name that holds an id would be taken for that id.
    """
    stem, suffix = os.path.splitext(os.path.basename(name))
    if suffix.lower() != ".json":
        stem += suffix
    stem = stem.replace(".", "_")
    return None if not stem.strip("_") or is_id(stem) else f"{stem}.json"


# Writing


def _refuse_when_full(here: Site) -> None:
    """Refuse when there is far too much (429). The watch folder is the overflow, so there is room for long."""
    queue = here.config.queue
    try:
        flight = ledger.load(here.redis, here.levels)
    except AWAY:
        here.lookout.failed()
        return
    here.lookout.answered()
    if flight.documents >= queue.max_queue_size and here.lookout.files()[0] > 10 * queue.max_queue_size:
        raise ProblemError(
            429,
            f"{flight.documents} documents are in flight and more than {10 * queue.max_queue_size} files wait. "
            "Send this again later, or raise queue.max_queue_size.",
            retry_after=FULL_RETRY_SECONDS,
        )


def _keep(here: Site, uploads: list[Upload]) -> list[Accepted]:
    """Write every upload durably, then tell the ledger."""
    accepted: list[Accepted] = []
    try:
        for upload in uploads:
            at = here.clock.now()
            document_id = new_id(at)
            source = drop(here.config.directories.watch[0], document_id, upload.raw, upload.name)
            accepted.append(Accepted(document_id, source, len(upload.raw), at))
    except OSError as error:
        _log.error("A document could not be written: %s", error)
        raise _disk_problem(error, accepted) from None
    finally:
        if accepted:
            _record(here, accepted)
    return accepted


def _record(here: Site, accepted: list[Accepted]) -> None:
    """Tell the ledger of documents that it doesn't know yet. Ingest tells it too, so this may fail."""
    level = here.levels[len(here.levels) // 2]  # provisional: ingest routes by what is in the document
    keys = {each.id: ledger.key(each.id) for each in accepted}
    try:
        with here.redis.pipeline() as pipeline:
            # Ingest may have claimed one already, and its word must not be undone.
            pipeline.watch(*keys.values())  # type: ignore[no-untyped-call]
            new = [each for each in accepted if not pipeline.exists(keys[each.id])]
            pipeline.multi()
            for each in new:
                fields: ledger.Fields = {
                    "priority": level,
                    "queue": level,
                    "handler": here.config.default_handler,
                    "source": each.source,
                    "size": each.size,
                    "received_at": int(each.at * 1000),
                }
                ledger.move(pipeline, Status.RECEIVED, each.at, [(each.id, fields)])
            pipeline.execute()
    except WatchError:
        pass  # ingest was here in between, so it knows them
    except AWAY as error:
        here.lookout.failed()
        _log.warning("Accepted %d document(s) without Redis: %s", len(accepted), explain(error))


def _disk_problem(error: OSError, accepted: list[Accepted]) -> ProblemError:
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
    shown = [_shown(each) for each in accepted]
    rest = f" {len(accepted)} of the files were accepted before." if accepted else " Nothing was accepted."
    return ProblemError(
        status, f"{words}{rest} Send the rest again later.", retry_after=DISK_RETRY_SECONDS, accepted=shown
    )
