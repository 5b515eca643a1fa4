"""A text on its way through intake, with the receipts for what has been changed so far."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from llm_scheduler.jobs.receipt import Repair

_SHOWN = 60  # characters of what was there before, and of what is there now
RECEIPTS = 100  # a text with more changes than this of one kind shows the first


@dataclass(frozen=True)
class Draft:
    """A text between two steps, and how it came about.

    `origin` leads from a place in `text` to the place in `arrived`, the decoded text as it came.
    """

    text: str
    arrived: str
    origin: Callable[[int], int] = field(default=lambda place: place, repr=False)
    repairs: tuple[Repair, ...] = ()
    cut: bool = False  # something of its end is known to be missing

    def part(self, start: int, end: int, step: str, code: str) -> "Draft":
        """Only `text[start:end]`; what stood before it and after it goes, and the receipt says so."""
        before, after = self.text[:start].strip(), self.text[end:].strip()
        gone = [(place, text) for place, text in ((0, before), (end, after)) if text]
        repairs = tuple(self.receipt(step, code, place, text, "") for place, text in gone)
        above = self.origin
        return replace(
            self,
            text=self.text[start:end],
            origin=lambda place: above(place + start),
            repairs=self.repairs + repairs,
        )

    def trimmed(self) -> "Draft":
        """Without white space around it; that needs no receipt."""
        start = len(self.text) - len(self.text.lstrip())
        above = self.origin
        return replace(self, text=self.text.strip(), origin=lambda place: above(place + start))

    def edited(self, edits: "list[Edit]", step: str) -> "Draft":
        """With `edits` (in order of their places, apart from one another) made. The first hundred are receipted."""
        if not edits:
            return self
        pieces: list[str] = []
        starts: list[tuple[int, int]] = []  # a place in the new text, and the one in the old that it stands for
        done = length = 0
        for edit in edits:
            pieces += (self.text[done : edit.start], edit.after)
            length += edit.start - done + len(edit.after)
            done = edit.end
            starts.append((length, done))
        pieces.append(self.text[done:])
        above = self.origin

        def origin(place: int) -> int:
            low, high = 0, len(starts)
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if starts[middle][0] <= place else (low, middle)
            new, old = starts[low - 1] if low else (0, 0)
            return above(old + place - new)

        repairs = tuple(
            self.receipt(step, edit.code, edit.start, self.text[edit.start : edit.end], edit.after)
            for edit in edits[:RECEIPTS]
        )
        return replace(self, text="".join(pieces), origin=origin, repairs=self.repairs + repairs)

    def receipt(self, step: str, code: str, place: int, before: str, after: str) -> Repair:
        """A receipt for a change at `place` of `text`."""
        at = min(max(self.origin(place), 0), len(self.arrived))
        line_start = self.arrived.rfind("\n", 0, at) + 1
        return Repair(
            step=step,
            code=code,
            offset=len(self.arrived[:at].encode()),
            line=self.arrived.count("\n", 0, at) + 1,
            column=at - line_start + 1,
            before=_shown(before),
            after=_shown(after),
        )


@dataclass(frozen=True)
class Edit:
    """`text[start:end]` becomes `after`."""

    start: int
    end: int
    after: str
    code: str


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
