"""What ingest learns from a file before a worker reads it."""

from functools import cached_property
from typing import Any

from llm_scheduler.jobs.intake import binary, envelope, pipeline, strict
from llm_scheduler.jobs.intake.limits import IntakeLimits
from llm_scheduler.jobs.intake.rejection import IntakeRejection
from llm_scheduler.jobs.intake.split import is_by_line, split

_MAX_UNWRAPPED_BYTES = 1024 * 1024


class Preview:
    """A first look at a file: whether it is complete, which value to route it by, and the documents in it.

    `is_complete`: the bytes are strict JSON, so the file needs no `settle_seconds`. A file with one document per line
    is never complete, since another line may follow.
    """

    def __init__(self, raw: bytes, name: str, limits: IntakeLimits) -> None:
        self._raw = raw
        self._name = name
        self._limits = limits
        self._value: Any = None
        try:
            _, self._value = strict.read(raw, limits)
        except IntakeRejection:
            pass
        else:
            if envelope.is_envelope(self._value):
                self._value = self._unwrapped()
        self.is_complete = isinstance(self._value, dict | list | str) and not is_by_line(name)

    @cached_property
    def value(self) -> Any:
        """The value of the document, to route it by. None when only a repair could tell, or the text is too large."""
        return self._value if self.is_complete else self._unwrapped()

    def parts(self, max_documents: int) -> list[bytes]:
        """The documents to split the file into; see `parts_of`."""
        if self.is_complete and b'"custom_id"' not in self._raw:
            return []
        return parts_of(self._raw, self._name, self._limits, max_documents)

    def _unwrapped(self) -> Any:
        if len(self._raw) > _MAX_UNWRAPPED_BYTES:
            return None
        try:
            return pipeline.read(self._raw, self._limits, repair_max_bytes=0).value
        except Exception:  # a rejection, or a bug in intake: the worker reports both
            return None


def parts_of(raw: bytes, name: str, limits: IntakeLimits, max_documents: int) -> list[bytes]:
    """The documents to split a file into; empty when the file is one document.

    Raises `IntakeRejection` (too_large) for more than `max_documents`.
    """
    try:
        parts = split(raw, name, limits, max_documents)
    except IntakeRejection:
        raise
    except Exception:  # a bug in intake: the worker reports it, as an error of the whole file
        return []
    return parts if len(parts) > 1 or (is_by_line(name) and binary.is_text(parts[0])) else []
