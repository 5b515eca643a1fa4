"""Result files (`<name>` in the output folder) and error reports (`<name>.error.json` in the error folder).

Both are one line of JSON that begins with `{"id":"<id>"`. That identifies the document that a file belongs to.
"""

import hashlib
import re
from typing import Any

import msgspec

from llm_scheduler.ingest.spool.claims import Claim
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.crash import CrashReport
from llm_scheduler.jobs.document import ID_PATTERN, Status
from llm_scheduler.jobs.receipt import DocumentWarning, Envelope, Repair
from llm_scheduler.jobs.sealing import masked
from llm_scheduler.jobs.store.outcomes import Outcome, Read

_HEAD = re.compile(rb'\{\s*"id":\s*"(%s)"' % ID_PATTERN.pattern.encode())  # it may have been reformatted
_encode = msgspec.json.Encoder().encode


class RouteRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The route of a document in its result or report. Unknown place, industry and language are left out."""

    priority: str
    queue: str
    handler: str
    schema: str = ""
    tags: list[str] = []
    country: str = ""
    city: str = ""
    industry: str = ""
    language: str = ""
    reasons: list[str]


class ResultFile(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The content of a file in the output folder. `id` has to stay the first field."""

    id: str
    source: str
    status: str
    received_at: str
    completed_at: str
    attempts: int
    priority: str
    route: RouteRecord
    quality: str
    repairs: list[Repair]
    warnings: list[DocumentWarning] = []
    coverage: float | None = None
    repaired_with: dict[str, str] = {}
    envelope: Envelope | None = None
    sha256: str | None
    document_sha256: str | None = None
    rq_job_id: str
    seconds: float
    document: msgspec.Raw
    result: msgspec.Raw


class ErrorReport(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The content of an error report. `id` has to stay the first field."""

    id: str
    source: str
    code: str
    message: str
    line: int | None
    column: int | None
    offset: int | None
    attempts: int
    received_at: str
    failed_at: str
    sha256: str | None
    route: RouteRecord
    evidence: list[CrashReport] = []


class FinishedReport(msgspec.Struct, frozen=True):
    """What is read from a result or an error report of either kind. Fields that the other kind has are empty."""

    id: str
    source: str
    received_at: str
    attempts: int
    route: RouteRecord
    completed_at: str = ""
    failed_at: str = ""
    quality: str = ""
    rq_job_id: str = ""
    code: str = ""
    message: str = ""
    sha256: str | None = None
    line: int | None = None
    column: int | None = None
    offset: int | None = None
    repairs: list[Repair] = []
    warnings: list[DocumentWarning] = []
    evidence: list[CrashReport] = []


class PublishedDocument(msgspec.Struct):
    """What a result file says of the document in it."""

    quality: str
    repairs: list[dict[str, Any]]
    document: msgspec.Raw
    envelope: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The document, indented, with `***` for encrypted fields."""
        return msgspec.json.format(masked(bytes(self.document)), indent=2).decode("utf-8", "backslashreplace")


def encode_result(outcome: Outcome, claim: Claim, raw: bytes) -> bytes:
    """The result file of a document with the original bytes `raw`."""
    read = outcome.read or Read()
    result = ResultFile(
        id=outcome.id,
        source=claim.source,
        status=Status.DONE.value,
        received_at=rfc3339(claim.received_at),
        completed_at=rfc3339(outcome.completed_at),
        attempts=outcome.attempts,
        priority=outcome.route.priority,
        route=msgspec.convert(outcome.route, RouteRecord, from_attributes=True),
        quality=read.quality,
        repairs=read.repairs,
        warnings=read.warnings,
        coverage=read.coverage,
        repaired_with=read.tools,
        envelope=read.envelope,
        sha256=claim.sha256,
        document_sha256=hashlib.sha256(read.document).hexdigest() if read.document else None,
        rq_job_id=outcome.rq_job_id,
        seconds=round(outcome.seconds, 6),
        document=msgspec.Raw(read.document or intake.body(raw)),
        result=msgspec.Raw(outcome.result),
    )
    return _encode(result) + b"\n"


def encode_report(outcome: Outcome, claim: Claim, sha256: str | None) -> bytes:
    """The error report of a document. `sha256`: the digest of its original."""
    position = outcome.position
    report = ErrorReport(
        id=outcome.id,
        source=claim.source,
        code=outcome.code,
        message=outcome.message,
        line=position.line if position else None,
        column=position.column if position else None,
        offset=position.offset if position else None,
        attempts=outcome.attempts,
        received_at=rfc3339(claim.received_at),
        failed_at=rfc3339(outcome.completed_at),
        sha256=sha256,
        route=msgspec.convert(outcome.route, RouteRecord, from_attributes=True),
        evidence=outcome.evidence,
    )
    return _encode(report) + b"\n"


def id_of(path: str) -> str | None:
    """The document id in a result or report; None when the file is not ours or can't be read."""
    try:
        with open(path, "rb") as file:
            found = _HEAD.match(file.read(64))
    except OSError:
        return None
    return found[1].decode() if found else None


def read_report(path: str) -> FinishedReport | None:
    """A result or an error report; None when it is neither or can't be read."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=FinishedReport)
    except (OSError, msgspec.DecodeError):
        return None


def read_published(result: str) -> PublishedDocument:
    """The document in a result file. Raises OSError and msgspec.DecodeError."""
    with open(result, "rb") as file:
        return msgspec.json.decode(file.read(), type=PublishedDocument)
