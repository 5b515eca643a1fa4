"""How things look on the command line: JSON for programs, tables and short words for people."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_Step = TypeVar("_Step")
_WIDE = 500  # columns where nobody looks on: nothing is cut in a pipe
# The colours of statuses; the words say the same, so that nothing is lost without them.
_COLOURS = {"done": "green", "rejected": "red", "retrying": "yellow", "cancelled": "magenta", "started": "cyan"}


# For programs


def print_json(value: Any) -> None:
    """One JSON value on stdout, in UTF-8 whatever the terminal's encoding."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=_plain)
    typer.echo(text.encode("utf-8", "backslashreplace"))


def _plain(value: Any) -> Any:
    """What the project's structs and dataclasses are in JSON; anything else is a mistake, and says so."""
    import msgspec

    return msgspec.to_builtins(value)


def print_list(values: list[Any]) -> None:
    """The same for values with raw JSON in them, whose numbers keep every digit."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(values), indent=2))


# For people


def console() -> Console:
    """Where tables go: stdout. Colour on a terminal only, and not with `NO_COLOR`."""
    from rich.console import Console

    looked_at = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, markup=False, emoji=False, width=None if looked_at else _WIDE)


def chatter() -> Console:
    """Where progress and remarks go: stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def table(*columns: str, numbers: Iterable[str] = (), rubber: Iterable[str] = ()) -> Table:
    """A plain table. `numbers` are set to the right; where room is short, only the `rubber` columns give way."""
    from rich.table import Table

    right, gives = set(numbers), set(rubber)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column not in gives,
            overflow="fold" if column in gives else "ellipsis",
        )
    return made


def print_pairs(pairs: Sequence[tuple[str, str | Text]], out: Console | None = None) -> None:
    """Names and values, one pair a line."""
    made = table("name", "value", rubber=("value",))
    made.show_header = False
    for name, value in pairs:
        made.add_row(name, printable(value) if isinstance(value, str) else value)
    emit(made, out or console())


def emit(made: Table, out: Console) -> None:
    """Print a table; in a pipe without the blanks that fill up its last column."""
    if out.is_terminal:
        out.print(made)
        return
    with out.capture() as captured:
        out.print(made)
    for line in captured.get().splitlines():
        out.print(line.rstrip(), soft_wrap=True)


def coloured(status: str) -> Text:
    from rich.text import Text

    return Text(status, style=_COLOURS.get(status, ""))


def printable(text: str) -> str:
    """`text` without anything that would steer a terminal: a file name may hold any byte."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def tail(text: str, width: int) -> str:
    """The end of `text`, where a path says the most, in at most `width` columns."""
    from rich.cells import cell_len

    text = printable(text)
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"


def short_time(epoch: float, now: float) -> str:
    """A moment in local time, as short as it can be told: today's by the clock, others by the date too."""
    moment, today = datetime.fromtimestamp(epoch).astimezone(), datetime.fromtimestamp(now).astimezone()
    if moment.date() == today.date():
        return f"{moment:%H:%M:%S}"
    return f"{moment:%m-%d %H:%M}" if moment.year == today.year else f"{moment:%Y-%m-%d}"


def duration(seconds: float) -> str:
    """`0.012 s`, `4.2 s`, `3 min 20 s`, `5 h 3 min`."""
    if seconds < 1:
        return f"{seconds:.3f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def size(count: int) -> str:
    """`512 B`, `1.2 kB`, `16.8 MB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def counted(count: int, noun: str) -> str:
    """`1 document`, `2 documents`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shown_progress(steps: Iterable[_Step], total: int, title: str) -> Iterator[_Step]:
    """The same steps, with a progress bar on stderr if that is a terminal."""
    out = chatter()
    if not out.is_terminal:
        yield from steps
        return
    from rich.progress import track

    yield from track(steps, description=title, total=total, console=out, transient=True)
