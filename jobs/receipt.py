"""What was done to a text until it was a document: its quality, and a receipt for every change."""

from enum import StrEnum

import msgspec


class Position(msgspec.Struct, frozen=True):
    """A place in a text: `line` and `column` from 1, `column` in characters; `offset` in bytes from 0."""

    line: int
    column: int
    offset: int


class Quality(StrEnum):
    """`valid`: untouched. `repaired`: changed beyond doubt, with a receipt. `truncated`: its end is missing."""

    VALID = "valid"
    REPAIRED = "repaired"
    TRUNCATED = "truncated"


class Repair(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change. The place is where it begins in the text as it arrived (for an answer inside an envelope: in the
    answer): `offset` counts the bytes of its UTF-8 form from 0, `line` and `column` (in characters) count from 1.
    `before` and `after` are the text there, cut to 60 characters.
    """

    step: str
    code: str
    offset: int | None = None
    line: int | None = None
    column: int | None = None
    before: str = ""
    after: str = ""


class Warned(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something odd that does not make the document any less a document."""

    code: str
    message: str


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """The line of a batch in which an answer came. `kind` is `openai.chat`, `openai.responses` or `anthropic`."""

    kind: str
    custom_id: str = ""
    model: str = ""
