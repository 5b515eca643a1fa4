"""The closed list of reasons why a document ends in the error folder.

A code never changes its meaning; `docs/errors.md` is checked against this list.
"""

from enum import StrEnum


class Code(StrEnum):
    EMPTY = "empty"
    BINARY = "binary"
    ENCODING = "encoding"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    INVALID_JSON = "invalid_json"
    TRUNCATED = "truncated"
    NOT_ACCEPTED = "not_accepted"
    NO_ANSWER = "no_answer"
    SCHEMA = "schema"
    NOT_A_FILE = "not_a_file"
    UNREADABLE = "unreadable"
    HANDLER_REJECTED = "handler_rejected"
    HANDLER_FAILED = "handler_failed"
    HANDLER_MISSING = "handler_missing"
    WRONG_KEY = "wrong_key"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    CANCELLED = "cancelled"


MEANING: dict[Code, str] = {
    Code.EMPTY: "The file holds nothing, or nothing but white space.",
    Code.BINARY: "The file is not text: it holds NUL bytes or starts like a known binary format (binary:png, say).",
    Code.ENCODING: "No encoding explains the text: it is not UTF-8, and nothing else beyond doubt.",
    Code.TOO_LARGE: "The file is larger than processing.max_document_bytes. It was not read.",
    Code.TOO_DEEP: "The JSON nests deeper than processing.max_depth.",
    Code.INVALID_JSON: "The text is not one JSON value, and what was meant is not beyond doubt.",
    Code.TRUNCATED: "The text ends too early, and intake.accept does not let truncated documents pass.",
    Code.NOT_ACCEPTED: "The document had to be repaired, and intake.accept lets only valid ones pass.",
    Code.NO_ANSWER: "The line of a batch holds an error or a refusal instead of a model's answer.",
    Code.SCHEMA: "The document does not fit the JSON Schema of its route.",
    Code.NOT_A_FILE: "A symbolic link, FIFO, socket or device was dropped. Drop the file itself.",
    Code.UNREADABLE: "The file could not be read: its owner has to let the scheduler's user read it.",
    Code.HANDLER_REJECTED: "The handler refused the document by raising Reject; the message is the handler's.",
    Code.HANDLER_FAILED: "The handler raised an exception on every attempt; the message is the last one's last line.",
    Code.HANDLER_MISSING: "The route names a handler that no worker could import.",
    Code.WRONG_KEY: "The worker has no key that opens the document: ingest sealed it with another one.",
    Code.TIMEOUT: "The handler ran longer than processing.worker_timeout on every attempt.",
    Code.WORKER_LOST: "The worker died while working on this document, every time it was tried.",
    Code.CANCELLED: "Somebody cancelled the document before it was done; the message says who.",
}
