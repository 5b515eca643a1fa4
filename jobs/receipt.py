"""How a document differs from the text that arrived: its quality, and a receipt for every change."""

from enum import StrEnum

import msgspec


class Position(msgspec.Struct, frozen=True):
    """A position in a text. `line` and `column` (in characters) count from 1, `offset` (in bytes of UTF-8) from 0."""

    line: int
    column: int
    offset: int


class Quality(StrEnum):
    """`valid`: unchanged. `repaired`: changed, and the meaning is beyond doubt. `truncated`: the end is missing."""

    VALID = "valid"
    REPAIRED = "repaired"
    TRUNCATED = "truncated"


class Repair(msgspec.Struct, frozen=True, omit_defaults=True):
    """A receipt for one change. `offset`, `line` and `column` are its `Position` in the text that arrived (for an
    answer in an envelope: in the answer). `before` and `after` are the text there, cut to 60 characters.
    """

    step: str
    code: str
    offset: int | None = None
    line: int | None = None
    column: int | None = None
    before: str = ""
    after: str = ""


class DocumentWarning(msgspec.Struct, frozen=True, omit_defaults=True):
    """A peculiarity that does not prevent the document from being accepted."""

    code: str
    message: str


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """The line of a provider batch that held the answer. `kind`: `openai.chat`, `openai.responses`, `anthropic`."""

    kind: str
    custom_id: str = ""
    model: str = ""
