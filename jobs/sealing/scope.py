"""What is sealed or hidden. Ingest, workers, the collector and the command line all use these functions."""

import re
from dataclasses import replace
from typing import Any

import msgspec

from llm_scheduler.jobs.config import Security
from llm_scheduler.jobs.intake import ReadDocument
from llm_scheduler.jobs.receipt import DocumentWarning, Repair
from llm_scheduler.jobs.sealing import fields
from llm_scheduler.jobs.sealing.fields import Fields
from llm_scheduler.jobs.sealing.seal import Seal, is_sealed_value

HIDDEN = "***"
_MIN_LENGTH = 4  # characters; a shorter value is hidden only where it is a whole word
_LITERALS = (b"true", b"false", b"null")


class Sealing:
    """The sensitive fields of a configuration, and the seal for them."""

    def __init__(self, security: Security) -> None:
        self.seal = Seal(security.encryption_keys)
        self._fields = Fields(security.encrypt_sensitive_fields)

    def sealed(self, text: bytes) -> bytes:
        """A JSON text with its sensitive values sealed; the same object if it has none."""
        return fields.replace(text, self._fields.spans(text), self.seal.lock_value)

    def without(self, value: Any) -> Any:
        """A parsed document without its sensitive members, for routing and for reasons that are shown."""
        return self._fields.without(value)

    def sealed_reading(self, reading: ReadDocument) -> ReadDocument:
        """`reading` as it may leave the process: with sealed text, and without quotations in receipts and warnings."""
        text = self.sealed(reading.text)
        if text is reading.text and not reading.repairs:
            return reading
        return replace(
            reading,
            text=text,
            value=self.without(reading.value),
            repairs=tuple(_hidden(repair) for repair in reading.repairs),
            warnings=tuple(
                DocumentWarning(each.code, self.hidden(each.message, reading.text)) for each in reading.warnings
            ),
        )

    def hidden(self, message: str, text: bytes) -> str:
        """`message` with `***` for each sensitive value of `text` in it."""
        forms: set[str] = set()
        for begin, end in self._fields.spans(text):
            for written in fields.scalars(text[begin:end]):
                if written not in _LITERALS:
                    forms |= _forms(written)
        for form in sorted(forms, key=len, reverse=True):
            message = _pattern(form).sub(HIDDEN, message)
        return message


def sealing_of(security: Security) -> Sealing | None:
    """The sealing that is configured; None if none is."""
    return Sealing(security) if security.encryption_enabled else None


def seal_of_originals(security: Security) -> Seal | None:
    """The seal for whole originals; None if originals are kept as they are."""
    return Seal(security.encryption_keys) if security.encryption_enabled and security.encrypt_originals else None


def masked(text: bytes) -> bytes:
    """A JSON text with `***` for each sealed value, to be shown."""
    sealed = (span for span in fields.strings(text) if is_sealed_value(text[slice(*span)]))
    return fields.replace(text, sealed, lambda _: f'"{HIDDEN}"'.encode())


def opened(text: bytes, seal: Seal) -> bytes:
    """A JSON text with its sealed values opened. Raises `WrongKey`."""
    sealed = (span for span in fields.strings(text) if is_sealed_value(text[slice(*span)]))
    return fields.replace(text, sealed, seal.unlock_value)


def _forms(written: bytes) -> set[str]:
    """A value as a message may quote it."""
    text = written.decode("utf-8", "replace")
    if not text.startswith('"'):
        return {text}
    value = msgspec.json.decode(written, type=str)
    return {form for form in (text[1:-1], value, repr(value)[1:-1]) if form.strip()}


def _pattern(form: str) -> re.Pattern[str]:
    around = (r"(?<!\w)", r"(?!\w)") if len(form) < _MIN_LENGTH else ("", "")
    return re.compile(around[0] + re.escape(form) + around[1], re.IGNORECASE)


def _hidden(repair: Repair) -> Repair:
    """`repair` without the text that it quotes, unless that has no letter or digit and so no part of a value."""
    quotes = any(letter.isalnum() for letter in repair.before + repair.after)
    return msgspec.structs.replace(repair, before=HIDDEN, after=HIDDEN) if quotes else repair
