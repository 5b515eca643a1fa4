"""Why a text is not a document, and where in it."""

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.receipt import Position


class Refused(Exception):
    """The text is no document: `code`, a sentence, and the place where there is one.

    `kind` says what a binary file is: `png`, say. `cut` is set when the text ends too early.
    """

    def __init__(
        self, code: Code, message: str, position: Position | None = None, *, kind: str = "", cut: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.position = position
        self.kind = kind
        self.cut = cut

    @property
    def name(self) -> str:
        """The code as reports show it: with the kind of a binary file, as in `binary:png`."""
        return f"{self.code.value}:{self.kind}" if self.kind else self.code.value


def position_at(raw: bytes, offset: int) -> Position:
    """The place of byte `offset` in UTF-8 `raw`."""
    offset = min(max(offset, 0), len(raw))
    before = raw[:offset]
    line_start = before.rfind(b"\n") + 1
    return Position(
        line=before.count(b"\n") + 1,
        column=len(before[line_start:].decode("utf-8", errors="replace")) + 1,
        offset=offset,
    )
