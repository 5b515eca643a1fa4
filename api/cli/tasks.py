"""`llmctl tasks` and `llmctl show`: documents, and one document."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.connecting import reached
from api.cli.exits import ExitCode, fail
from api.cli.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.text import Text

    from api.cli.finding import Place
    from jobs.ledger import Entry

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def tasks(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 20,
    status: Annotated[str | None, typer.Option("--status", help="Only those, e.g. rejected.")] = None,
    priority: Annotated[str | None, typer.Option("--priority", help="Only those, e.g. high.")] = None,
    as_json: Json = False,
) -> None:
    """List documents, the newest first."""
    from api.cli.presenting import counted, job, print_json
    from jobs import ledger
    from jobs.clock import SystemClock
    from jobs.document import Status

    config = settings(context).config
    levels = config.queue.priority_levels
    only = one_of(status, Status, "--status")
    with reached(config) as redis:
        page = ledger.page(
            redis,
            levels,
            status=Status(only) if only else None,
            priority=one_of(priority, levels, "--priority"),
            limit=limit,
        )
    if as_json:
        print_json([job(entry) for entry in page.entries])
    elif not page.entries:
        typer.echo("No such documents." if status or priority else "No documents yet.", err=True)
    else:
        _print_tasks(page.entries, SystemClock().now())
        if page.cursor:
            typer.echo(f"The newest {counted(limit, 'document')}; more with --limit.", err=True)


def _print_tasks(entries: Sequence[Entry], now: float) -> None:
    from api.cli.presenting import coloured, console, duration, emit, short_time, table, tail

    out = console()
    room = max(12, out.width - 26 - 9 - 8 - 11 - 10 - 10)
    made = table("id", "status", "priority", "received", "took", "source", numbers=("took",))
    for entry in entries:
        received = entry.times.get("received")
        ended = entry.times.get(entry.status.value) if entry.status in ("done", "rejected", "cancelled") else None
        made.add_row(
            entry.id,
            coloured(entry.status.value),
            entry.priority,
            "" if received is None else short_time(received, now),
            "" if received is None or ended is None else duration(max(0.0, ended - received)),
            tail(entry.source, room),
        )
    emit(made, out)


def show(
    context: typer.Context,
    document_id: Annotated[str, typer.Argument(metavar="ID", help="The document's id, as `llmctl tasks` lists it.")],
    as_json: Json = False,
) -> None:
    """Show all that is known of one document.

    Its way, the reasons for it, its error and its files.
    """
    from api.cli.finding import find
    from api.cli.presenting import print_json
    from jobs import ledger
    from jobs.document import is_id

    config = settings(context).config
    wanted = document_id.strip().upper()
    if not is_id(wanted):
        fail(
            f"{document_id!r} is not a document id: those are 26 letters and digits (see llmctl tasks).",
            ExitCode.NOT_WELL,
        )
    with reached(config) as redis:
        entry = ledger.get(redis, wanted)
    if entry is None:
        fail(f"No document {wanted} is known (the ledger forgets the oldest finished ones).", ExitCode.NOT_WELL)
    place = find(config, entry)
    if as_json:
        print_json(_shown(entry, place))
    else:
        _print_shown(entry, place)


def _shown(entry: Entry, place: Place | None) -> dict[str, Any]:
    from api.cli.finding import position
    from api.cli.presenting import job, timeline
    from jobs.clock import rfc3339

    shown = job(entry)
    shown["reasons"] = entry.reasons
    shown["timeline"] = [{"status": status, "at": rfc3339(at)} for status, at in timeline(entry)]
    if shown["error"] and place:
        shown["error"] |= position(place.report)
    shown["files"] = dict(_files(entry, place))
    return shown


def _files(entry: Entry, place: Place | None) -> Iterable[tuple[str, str]]:
    if place is None:
        return
    yield ("result" if entry.status == "done" else "report"), place.report
    if place.original:
        yield "original", place.original


def _print_shown(entry: Entry, place: Place | None) -> None:
    from api.cli.presenting import coloured, console, duration, print_pairs, size, timeline
    from jobs.clock import rfc3339

    shown = _shown(entry, place)
    pairs: list[tuple[str, str | Text]] = [
        ("id", entry.id),
        ("status", coloured(entry.status.value)),
        ("source", entry.source),
        ("size", size(entry.size)),
        ("priority", entry.priority),
        ("queue", entry.queue),
        ("handler", entry.handler),
        ("attempts", str(entry.attempts)),
        ("rq job", entry.rq_job_id or "-"),
    ]
    pairs += [("reason" if index == 0 else "", reason) for index, reason in enumerate(entry.reasons)]
    error = shown["error"]
    if error:
        pairs.append(("error", error["code"] or "-"))
        pairs.append(("", error["message"] or "-"))
        if "line" in error:
            pairs.append(("", f"at line {error['line']}, column {error['column']} (byte {error['offset']})"))
    before: float | None = None
    for status, at in timeline(entry):
        pairs.append((status, rfc3339(at) if before is None else f"{rfc3339(at)}  +{duration(max(0.0, at - before))}"))
        before = at
    pairs += [(name, os.path.relpath(path)) for name, path in _files(entry, place)]
    if place is None and entry.status in ("done", "rejected"):
        pairs.append(("files", "not in the configured folders of this machine"))
    print_pairs(pairs, console())


def one_of(value: str | None, allowed: Iterable[str], option: str) -> str | None:
    """`value` if it is one of `allowed` (or not given); anything else is a usage error."""
    known = [str(each) for each in allowed]
    if value is not None and value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}.", param_hint=option)
    return value
