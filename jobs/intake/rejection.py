"""The exception for a text that is no document, and positions in a text."""

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.receipt import Position


class IntakeRejection(Exception):
    """A text is rejected: `code`, a sentence for people, and the position if there is one.

    `kind` is the format of a binary file, such as `png`. `cut`: the text ends too early.
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


def invalid_json(message: str, *, cut: bool = False) -> IntakeRejection:
    """A rejection without a position."""
    return IntakeRejection(Code.INVALID_JSON, message, cut=cut)


def position_after(before: bytes) -> Position:
    """The position right after `before`, the UTF-8 beginning of a text."""
    line_start = before.rfind(b"\n") + 1
    return Position(
        line=before.count(b"\n") + 1,
        column=len(before[line_start:].decode("utf-8", errors="replace")) + 1,
        offset=len(before),
    )
