"""A text between two steps of intake, with a receipt for every change so far, and the document in the end."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

from llm_scheduler.jobs.intake.rejection import IntakeRejection, position_after
from llm_scheduler.jobs.receipt import DocumentWarning, Envelope, Quality, Repair

_MAX_QUOTED = 60  # characters of `before` and of `after` in a receipt
MAX_RECEIPTS = 100  # of one step; further changes have none


@dataclass(frozen=True)
class Draft:
    """A text and its receipts. `arrived` is the decoded text that came in; `origin` maps an index of `text` to one of
    `arrived`. `cut`: the end is known to be missing.
    """

    text: str
    arrived: str
    origin: Callable[[int], int] = field(default=lambda place: place, repr=False)
    repairs: tuple[Repair, ...] = ()
    cut: bool = False

    def part(self, start: int, end: int, code: str) -> "Draft":
        """Only `text[start:end]`. The removed text before and after it has a receipt each."""
        removed = ((0, self.text[:start].strip()), (end, self.text[end:].strip()))
        repairs = tuple(self.receipt("unwrap", code, place, text, "") for place, text in removed if text)
        return replace(self._cropped(start, end), repairs=self.repairs + repairs)

    def trimmed(self) -> "Draft":
        """Without surrounding white space, which needs no receipt."""
        start = len(self.text) - len(self.text.lstrip())
        return self._cropped(start, start + len(self.text.strip()))

    def _cropped(self, start: int, end: int) -> "Draft":
        above = self.origin
        return replace(self, text=self.text[start:end], origin=lambda place: above(place + start))

    def edited(self, edits: "list[Edit]", step: str) -> "Draft":
        """With `edits` applied, which are sorted and do not overlap."""
        if not edits:
            return self
        pieces: list[str] = []
        starts: list[tuple[int, int]] = []  # after each edit: the index in the new text, and the same in the old one
        done = length = 0
        for edit in edits:
            pieces += (self.text[done : edit.start], edit.after)
            length += edit.start - done + len(edit.after)
            done = edit.end
            starts.append((length, done))
        pieces.append(self.text[done:])
        above = self.origin

        def origin(place: int) -> int:
            index = bisect_right(starts, place, key=itemgetter(0))
            new, old = starts[index - 1] if index else (0, 0)
            return above(old + place - new)

        repairs = tuple(
            self.receipt(step, edit.code, edit.start, self.text[edit.start : edit.end], edit.after)
            for edit in edits[:MAX_RECEIPTS]
        )
        return replace(self, text="".join(pieces), origin=origin, repairs=self.repairs + repairs)

    def receipt(self, step: str, code: str, place: int, before: str, after: str) -> Repair:
        """A receipt for a change at index `place` of `text`."""
        position = position_after(self.arrived[: max(self.origin(place), 0)].encode())
        return Repair(
            step, code, position.offset, position.line, position.column, before=_quoted(before), after=_quoted(after)
        )


@dataclass(frozen=True)
class Edit:
    """A change: `text[start:end]` becomes `after`. `code` names it in the receipt."""

    start: int
    end: int
    after: str
    code: str


@dataclass(frozen=True)
class ReadDocument:
    """A document: its JSON text, its value, and how they differ from what arrived.

    While `quality` is valid, `text` is the original's own. `coverage` is the share of the words of the original that
    were kept (None without a repair), `tools` the name and release of the libraries that agreed on a repair, and
    `rejection` the reason why the original is not valid.
    """

    text: bytes
    value: Any
    quality: Quality
    repairs: tuple[Repair, ...] = ()
    warnings: tuple[DocumentWarning, ...] = ()
    coverage: float | None = None
    tools: tuple[tuple[str, str], ...] = ()
    envelope: Envelope | None = None
    rejection: IntakeRejection | None = None


def _quoted(text: str) -> str:
    return text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 1] + "…"
