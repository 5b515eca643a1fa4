"""The bounds of a file and of a document."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llm_scheduler.jobs.config import Intake, Processing


@dataclass(frozen=True)
class IntakeLimits:
    """The largest document in bytes, and how deep it may nest."""

    max_bytes: int
    max_depth: int

    @classmethod
    def from_config(cls, processing: "Processing") -> "IntakeLimits":
        return cls(processing.max_document_bytes, processing.max_depth)


class SizeLimit(NamedTuple):
    """A number of bytes, and the configuration key that sets it."""

    bytes: int
    key: str


def size_limit(processing: "Processing", intake: "Intake", *, by_line: bool) -> SizeLimit:
    """The largest file: of one document, or with `by_line` of one document per line."""
    if by_line:
        return SizeLimit(intake.max_lines_bytes, "intake.max_lines_bytes")
    return SizeLimit(processing.max_document_bytes, "processing.max_document_bytes")
