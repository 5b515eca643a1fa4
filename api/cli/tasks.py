"""`llmctl tasks` and `llmctl show`: documents, and one document."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail
from llm_scheduler.api.cli.redis_client import reached
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.text import Text

    from llm_scheduler.ingest.spool.finished_files import Place
    from llm_scheduler.jobs.config import Config
    from llm_scheduler.jobs.store.ledger import Entry

FINAL_WORDS = ("done", "rejected", "cancelled")
_MIN_SOURCE = 24  # columns

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def tasks(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 20,
    status: Annotated[str | None, typer.Option("--status", help="Only those, e.g. rejected.")] = None,
    priority: Annotated[str | None, typer.Option("--priority", help="Only those, e.g. high.")] = None,
    as_json: Json = False,
) -> None:
    """List documents, the newest first."""
    from llm_scheduler.api.cli.output import counted, print_json
    from llm_scheduler.api.endpoints.jobs import shown
    from llm_scheduler.jobs.clock import SystemClock
    from llm_scheduler.jobs.document import Status
    from llm_scheduler.jobs.store import ledger

    config = settings(context).config
    levels = config.queue.priority_levels
    only = one_of(status, Status, "--status")
    with reached(config) as redis:
        page = ledger.page(
            redis,
            levels,
            wanted=ledger.Wanted(
                status=Status(only) if only else None, priority=one_of(priority, levels, "--priority")
            ),
            limit=limit,
        )
    if as_json:
        print_json([shown(entry) for entry in page.entries])
    elif not page.entries:
        typer.echo("No such documents." if status or priority else "No documents yet.", err=True)
    else:
        _print_tasks(page.entries, SystemClock().now())
        if page.cursor:
            typer.echo(f"The newest {counted(limit, 'document')}; more with --limit.", err=True)


def _print_tasks(entries: Sequence[Entry], now: float) -> None:
    from llm_scheduler.api.cli.output import coloured, console, duration, emit, short_time, table, tail

    out = console()
    rows = []
    for entry in entries:
        received = entry.times.get("received")
        ended = entry.times.get(entry.status.value) if entry.status in FINAL_WORDS else None
        took = "" if received is None or ended is None else duration(max(0.0, ended - received))
        rows.append(
            [entry.id, entry.status.value, entry.priority, "" if received is None else short_time(received, now), took]
        )
    names = ["id", "status", "priority", "received", "took"]
    widths = [max(len(name), *(len(row[index]) for row in rows)) + 2 for index, name in enumerate(names)]
    if out.width - sum(widths) < _MIN_SOURCE:  # the source says more than how long it took
        names, widths = names[:-1], widths[:-1]
    made = table(*names, "source", numbers=("took",))
    for entry, row in zip(entries, rows, strict=True):
        cells = [coloured(cell) if name == "status" else cell for name, cell in zip(names, row, strict=False)]
        made.add_row(*cells, tail(entry.source, max(_MIN_SOURCE // 2, out.width - sum(widths))))
    emit(made, out)


def show(
    context: typer.Context,
    document_id: Annotated[str, typer.Argument(metavar="ID", help="The document's id, as `llmctl tasks` lists it.")],
    as_json: Json = False,
) -> None:
    """Show all that is known of one document.

    Its way, the reasons for it, its error and its files.
    """
    from llm_scheduler.api.cli.output import print_json

    entry, place = finished(settings(context).config, document_id)
    document = _everything(entry, place)
    if as_json:
        print_json(document)
    else:
        _print_document(document)


def finished(config: Config, document_id: str) -> tuple[Entry, Place | None]:
    """What the ledger knows of a document, and where its files are. Ends the command when it knows none."""
    from llm_scheduler.ingest.spool import Folders
    from llm_scheduler.ingest.spool.finished_files import find
    from llm_scheduler.jobs.document import is_id
    from llm_scheduler.jobs.store import ledger

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
    return entry, find(Folders.of(config.directories), entry)


def _everything(entry: Entry, place: Place | None) -> dict[str, Any]:
    """What `GET /jobs/{id}` says, and where the files are."""
    from llm_scheduler.api.endpoints.jobs import detailed
    from llm_scheduler.jobs.document import plain

    return {**plain(detailed(entry, place)), "files": _files(entry, place)}


def _files(entry: Entry, place: Place | None) -> dict[str, str]:
    if place is None:
        return {}
    report = {"result" if entry.status == "done" else "report": place.report}
    return {**report, "original": place.original} if place.original else report


def _print_document(document: dict[str, Any]) -> None:
    from llm_scheduler.api.cli.output import coloured, console, duration, print_pairs, size

    pairs: list[tuple[str, str | Text]] = [
        ("id", document["id"]),
        ("status", coloured(document["status"])),
        ("source", document["source"]),
        ("size", size(document["size"])),
        ("priority", document["priority"]),
        ("queue", document["queue"]),
        ("handler", document["handler"]),
        ("attempts", str(document["attempts"])),
        ("rq job", document["rq_job_id"] or "-"),
    ]
    pairs += [("reason" if index == 0 else "", reason) for index, reason in enumerate(document["reasons"])]
    error = document["error"]
    if error:
        pairs += [("error", error["code"] or "-"), ("", error["message"] or "-")]
        if "line" in error:
            pairs.append(("", f"at line {error['line']}, column {error['column']} (byte {error['offset']})"))
    before: datetime | None = None
    for step in document["timeline"]:
        at = datetime.fromisoformat(step["at"])
        since = "" if before is None else f"  +{duration((at - before).total_seconds())}"
        pairs.append((step["status"], step["at"] + since))
        before = at
    pairs += [(name, os.path.relpath(path)) for name, path in document["files"].items()]
    if not document["files"] and document["status"] in ("done", "rejected"):
        pairs.append(("files", "not in the configured folders of this machine"))
    print_pairs(pairs, console())


def one_of(value: str | None, allowed: Iterable[str], option: str) -> str | None:
    """`value` if it is one of `allowed` (or not given); anything else is a usage error."""
    known = [str(each) for each in allowed]
    if value is not None and value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}.", param_hint=option)
    return value
