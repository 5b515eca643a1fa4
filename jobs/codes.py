"""The closed list of reasons why a document is rejected. A code never changes its meaning.

tests/test_docs.py checks `docs/errors.md` against this list.
"""

from enum import StrEnum
from typing import Self


class Code(StrEnum):
    """A code, as it is in reports, and its `meaning`."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        code = str.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    EMPTY = "empty", "The file is empty, or holds only white space."
    BINARY = "binary", "The file is not text: it holds NUL bytes, or starts like a known binary format."
    ENCODING = "encoding", "The encoding of the text is unclear: it is not UTF-8, and no other encoding is certain."
    TOO_LARGE = "too_large", "The file is larger than processing.max_document_bytes. It was not read."
    TOO_DEEP = "too_deep", "The JSON nests deeper than processing.max_depth."
    INVALID_JSON = "invalid_json", "The text is not one JSON value, and its meaning is not beyond doubt."
    TRUNCATED = "truncated", "The text ends too early, and intake.accept does not include truncated documents."
    NOT_ACCEPTED = "not_accepted", "The quality of the document is not in intake.accept."
    NO_ANSWER = "no_answer", "The line of a provider batch holds an error or a refusal instead of an answer."
    SCHEMA = "schema", "The document does not fit the JSON Schema of its route."
    NOT_A_FILE = "not_a_file", "A symbolic link, FIFO, socket or device was dropped. Drop the file itself."
    UNREADABLE = "unreadable", "The file could not be read: the user of the scheduler needs read permission."
    HANDLER_REJECTED = "handler_rejected", "The handler rejected the document by raising Reject, with this message."
    HANDLER_FAILED = (
        "handler_failed",
        "The handler raised an exception on every attempt; the message is the last one's.",
    )
    HANDLER_MISSING = "handler_missing", "The route names a handler that no worker could import."
    WRONG_KEY = "wrong_key", "The worker has no key that opens the document: ingest sealed it with another key."
    TIMEOUT = "timeout", "The handler ran longer than processing.worker_timeout on every attempt."
    WORKER_LOST = "worker_lost", "The worker died on every attempt to run this document."
    CANCELLED = "cancelled", "Somebody cancelled the document before it was done; the message says who it was."
