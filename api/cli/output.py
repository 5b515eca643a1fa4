"""What commands print: JSON for programs, tables and short phrases for people."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from rich import progress
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_scheduler.jobs.exit_codes import ExitCode

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]

_Step = TypeVar("_Step")
_PIPE_COLUMNS = 500  # wide enough that nothing is cut
_SPINNER_SECONDS = 0.1
# Each status is also a word in the table, so that nothing is lost without colour.
_COLOURS = {"done": "green", "rejected": "red", "retrying": "yellow", "cancelled": "magenta", "started": "cyan"}


def fail(message: str, code: ExitCode = ExitCode.NOT_WELL) -> NoReturn:
    """End the command with `message` on stderr and the exit code `code`."""
    typer.echo("\n".join(printable(line) for line in message.splitlines()), err=True)
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    """Print one JSON value, in UTF-8 whatever the terminal's encoding. The project's structs are allowed in it."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=msgspec.to_builtins)
    typer.echo(text.encode("utf-8", "backslashreplace"))


def console() -> Console:
    """For tables: stdout. Colours only on a terminal, and not with `NO_COLOR`."""
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, markup=False, emoji=False, width=None if has_width else _PIPE_COLUMNS)


def stderr_console() -> Console:
    """For progress and remarks."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def table(*columns: str, numbers: Iterable[str] = (), flexible: Iterable[str] = ()) -> Table:
    """A plain table. `numbers` are right-aligned; in a narrow terminal only the `flexible` columns wrap."""
    right, wrapped = set(numbers), set(flexible)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column not in wrapped,
            overflow="fold" if column in wrapped else "ellipsis",
        )
    return made


def print_pairs(pairs: Sequence[tuple[str, str | Text]]) -> None:
    """Print names and values, one pair a line."""
    made = table("name", "value", flexible=("value",))
    made.show_header = False
    for name, value in pairs:
        made.add_row(name, printable(value) if isinstance(value, str) else value)
    print_table(made)


def print_table(made: Table) -> None:
    """Print a table; in a pipe without trailing blanks."""
    out = console()
    if out.is_terminal:
        out.print(made)
        return
    with out.capture() as captured:
        out.print(made)
    for line in captured.get().splitlines():
        out.print(line.rstrip(), soft_wrap=True)


def status_text(status: str) -> Text:
    """A document's status in its colour."""
    return Text(status, style=_COLOURS.get(status, ""))


def printable(text: str) -> str:
    """`text` with control characters escaped: a file name may hold any byte, and must not steer the terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def truncate_left(text: str, width: int) -> str:
    """The end of `text` (the telling part of a path) in at most `width` columns."""
    text = printable(text)
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"


def short_time(epoch: float, now: float) -> str:
    """A moment in local time: the time for today, date and time for this year, else the date."""
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


def quantity(count: int, noun: str) -> str:
    """`1 document`, `2 documents`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def track(steps: Iterable[_Step], total: int, title: str) -> Iterator[_Step]:
    """The same steps, with a progress bar on stderr if that is a terminal."""
    out = stderr_console()
    hidden = not out.is_terminal
    yield from progress.track(steps, description=title, total=total, console=out, transient=True, disable=hidden)


@contextmanager
def spinner(title: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr while the block runs, if that is a terminal. Call what it yields to show how far the work is."""
    shown_at = 0.0
    with stderr_console().status(title) as line:

        def show(progress: str) -> None:
            nonlocal shown_at
            if time.monotonic() - shown_at > _SPINNER_SECONDS:
                line.update(f"{title}: {progress}")
                shown_at = time.monotonic()

        yield show
