"""Reads the documents of a request, within bounds: one body, the files of a form, or JSONL (one document a line)."""

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import NamedTuple

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import is_id
from llm_scheduler.jobs.intake import LINE_SUFFIXES, SizeLimit, size_limit

LINES_TYPES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines")
ACCEPTED_TYPES = ("application/json", "multipart/form-data", *LINES_TYPES)
FRAME_BYTES = 64 * 1024  # that a form may need besides its documents
MAX_FILES = 100
BODY_SECONDS = 60.0  # for a whole request to arrive


class Upload(NamedTuple):
    """One file of a request: its bytes, and its name if the sender gave one."""

    raw: bytes
    name: str | None


async def read(request: Request, config: Config) -> list[Upload]:
    """The documents of a request. Raises a 400, 408, 413, 415 or 422."""
    kind = _media_type(request)
    lines = kind in LINES_TYPES
    limit = size_limit(config.processing, config.intake, by_line=lines)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if kind == "multipart/form-data":
                return await _form(request, limit)
            return [await _body(request, limit, "documents.jsonl" if lines else None)]
    except TimeoutError:
        raise ProblemError(408, f"The request did not arrive within {BODY_SECONDS:.0f} s. Send it again.") from None


def _media_type(request: Request) -> str:
    given = request.headers.get("content-type", "")
    kind = given.split(";", 1)[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _unsupported("A compressed body is not accepted: send it without Content-Encoding.")
    # Without a content type it is a document too: intake finds out what it is.
    if kind in ("", "application/octet-stream", *ACCEPTED_TYPES) or kind.endswith("+json"):
        return kind
    raise _unsupported(
        f"Content-Type {given[:100]} is not accepted. Send one JSON document as application/json "
        "(curl: -H 'content-type: application/json'), one document a line as application/x-ndjson, "
        "or files as multipart/form-data."
    )


def _unsupported(detail: str) -> ProblemError:
    return ProblemError(415, detail, headers={"Accept-Post": ", ".join(ACCEPTED_TYPES)}, allowed=list(ACCEPTED_TYPES))


async def _capped(request: Request, cap: int, limit: SizeLimit) -> AsyncGenerator[bytes, None]:
    """The body in pieces. Raises a 413, whose text names `limit`, before more than `cap` bytes are read."""
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


async def _body(request: Request, limit: SizeLimit, name: str | None) -> Upload:
    body = bytearray()
    async for piece in _capped(request, limit.bytes, limit):
        body += piece
    if not body:
        raise ProblemError(422, "The body is empty. Send one JSON document.")
    return Upload(bytes(body), name)


async def _form(request: Request, limit: SizeLimit) -> list[Upload]:
    # A form is held in memory as a whole, so it may be as large as one document.
    stream = _capped(request, limit.bytes + FRAME_BYTES, limit)
    parser = MultiPartParser(request.headers, stream, max_files=MAX_FILES, max_fields=MAX_FILES)
    # The form is bounded already, and nothing goes to a disk before it is accepted.
    parser.spool_max_size = 0
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ProblemError(400, f"The form can't be read: {error.message}") from None
    uploads = []
    try:
        for field, part in form.multi_items():
            if not isinstance(part, UploadFile):
                text = f"The form's field {field[:50]!r} is not a file. Send files only."
                raise ProblemError(422, text, field=field[:50])
            name, raw = part.filename or "", await part.read()
            if not raw:
                raise ProblemError(422, f"The file {name[-100:]!r} is empty.")
            if len(raw) > limit.bytes:
                text = f"The file {name[-100:]!r} is larger than {limit.bytes} bytes ({limit.key})."
                raise ProblemError(413, text, limit=limit.bytes)
            uploads.append(Upload(raw, _plain_name(name)))
    finally:
        await form.close()
    if not uploads:
        raise ProblemError(422, "The form has no file. With curl: -F file=@document.json")
    return uploads


def _plain_name(name: str) -> str | None:
    """A sender's file name, changed so that ingest takes the file for a document and finds no other id in its name.

    Ingest would ignore `answer.tmp` as unfinished, and would use an id in the name as the document's id. A JSONL file
    keeps its suffix, because ingest splits it by that.
    """
    stem, suffix = os.path.splitext(os.path.basename(name))
    kept = suffix.lower() if suffix.lower() in LINE_SUFFIXES else ".json"
    if suffix.lower() not in (*LINE_SUFFIXES, ".json"):
        stem += suffix
    stem = stem.replace(".", "_")
    if not stem.strip("_") or is_id(stem):
        return None if kept == ".json" else f"documents{kept}"
    return f"{stem}{kept}"
