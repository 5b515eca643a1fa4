"""Reading the documents of a request: one body, the files of a form, or a document a line. All within bounds."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import is_id

LINES_TYPES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines")
ACCEPTED_TYPES = ("application/json", "multipart/form-data", *LINES_TYPES)
FRAME_BYTES = 64 * 1024  # what a form may need beside the documents in it
MAX_FILES = 100
BODY_SECONDS = 60.0  # for a whole request to come in
_LINES = (".jsonl", ".ndjson")


class Upload(NamedTuple):
    """One file of a request: its bytes, and what the sender calls it."""

    raw: bytes
    name: str | None


class Limit(NamedTuple):
    """How many bytes, and the configuration's key that says so."""

    bytes: int
    key: str


async def read(request: Request, config: Config) -> list[Upload]:
    """The documents of a request. Raises `ProblemError`: 400, 408, 413, 415 or 422."""
    kind = _media_type(request)
    async with _in_time():
        if kind == "multipart/form-data":
            return await _form(request, config)
        lines = kind in LINES_TYPES
        return [await _body(request, _limit(config, lines=lines), "documents.jsonl" if lines else None)]


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            yield
    except TimeoutError:
        raise ProblemError(408, f"The request did not come in within {BODY_SECONDS:.0f} s. Send it again.") from None


def _limit(config: Config, *, lines: bool) -> Limit:
    if lines:
        return Limit(config.intake.max_lines_bytes, "intake.max_lines_bytes")
    return Limit(config.processing.max_document_bytes, "processing.max_document_bytes")


def _media_type(request: Request) -> str:
    given = request.headers.get("content-type", "")
    kind = given.split(";", 1)[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _unsupported("A compressed body is not taken: send it without Content-Encoding.")
    # Bytes of no stated kind are a document like any other: what they are is for the pipeline to say.
    if kind in ("", "application/octet-stream", *ACCEPTED_TYPES) or kind.endswith("+json"):
        return kind
    raise _unsupported(
        f"Content-Type {given[:100]} is not taken. Send one JSON document as application/json "
        "(curl: -H 'content-type: application/json'), a document a line as application/x-ndjson, "
        "or files as multipart/form-data."
    )


def _unsupported(detail: str) -> ProblemError:
    return ProblemError(415, detail, headers={"Accept-Post": ", ".join(ACCEPTED_TYPES)}, allowed=list(ACCEPTED_TYPES))


async def _capped(request: Request, cap: int, limit: Limit) -> AsyncIterator[bytes]:
    """The body in pieces; a 413 ends it before more than `cap` bytes are taken. `limit` is what the words say."""
    too_large = ProblemError(413, f"The request is larger than {limit.bytes} bytes ({limit.key}).", limit=limit.bytes)
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > cap:
        raise too_large
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > cap:
            raise too_large
        yield piece


async def _body(request: Request, limit: Limit, name: str | None) -> Upload:
    body = bytearray()
    async for piece in _capped(request, limit.bytes, limit):
        body += piece
    if not body:
        raise ProblemError(422, "The body is empty. Send one JSON document.")
    return Upload(bytes(body), name)


async def _form(request: Request, config: Config) -> list[Upload]:
    # The whole of a form is held in memory, so it may have no more bytes than one document, whatever is in it.
    limit = _limit(config, lines=False)

    async def stream() -> AsyncIterator[bytes]:
        async for piece in _capped(request, limit.bytes + FRAME_BYTES, limit):
            yield piece

    parser = MultiPartParser(request.headers, stream(), max_files=MAX_FILES, max_fields=MAX_FILES)  # type: ignore[arg-type]
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


def _upload(raw: bytes, name: str, limit: Limit) -> Upload:
    if not raw:
        raise ProblemError(422, f"The file {name[-100:]!r} is empty.")
    if len(raw) > limit.bytes:
        raise ProblemError(
            413, f"The file {name[-100:]!r} is larger than {limit.bytes} bytes ({limit.key}).", limit=limit.bytes
        )
    return Upload(raw, _plain_name(name))


def _plain_name(name: str) -> str | None:
    """A sender's file name as one that ingest takes for a document, and whose id can only be the one given here.

    `answer.tmp` would be ignored as unfinished, and a name that holds an id would be taken for that id. A file of a
    document a line keeps its suffix, since it is taken apart by it.
    """
    stem, suffix = os.path.splitext(os.path.basename(name))
    kept = suffix.lower() if suffix.lower() in _LINES else ".json"
    if suffix.lower() not in (*_LINES, ".json"):
        stem += suffix
    stem = stem.replace(".", "_")
    if not stem.strip("_") or is_id(stem):
        return None if kept == ".json" else f"documents{kept}"
    return f"{stem}{kept}"
