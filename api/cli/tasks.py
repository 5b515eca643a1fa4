"""`llmctl tasks`: documents, the newest first."""

from collections.abc import Sequence
from typing import Annotated

import typer

from llm_scheduler.api.cli.output import (
    Json,
    console,
    duration,
    print_json,
    print_table,
    quantity,
    short_time,
    status_text,
    table,
    truncate_left,
)
from llm_scheduler.api.cli.redis_client import reachable_client
from llm_scheduler.api.cli.settings import config_of, one_of
from llm_scheduler.api.endpoints.jobs import job_summary
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.document import FINAL, Status
from llm_scheduler.jobs.store import ledger_queries
from llm_scheduler.jobs.store.ledger import Entry

_MIN_SOURCE = 24  # columns


def tasks(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")] = 20,
    status: Annotated[str | None, typer.Option("--status", help="Only with this status, e.g. rejected.")] = None,
    priority: Annotated[str | None, typer.Option("--priority", help="Only with this priority, e.g. high.")] = None,
    as_json: Json = False,
) -> None:
    config = config_of(context)
    levels = config.queue.priority_levels
    only = one_of(status, Status, "--status")
    wanted = ledger_queries.DocumentFilter(
        status=Status(only) if only else None, priority=one_of(priority, levels, "--priority")
    )
    with reachable_client(config) as redis:
        page = ledger_queries.page(redis, levels, wanted=wanted, limit=limit)
    if as_json:
        print_json([job_summary(entry) for entry in page.entries])
    elif not page.entries:
        typer.echo("No such documents." if status or priority else "No documents yet.", err=True)
    else:
        _print_tasks(page.entries, SystemClock().now())
        if page.cursor:
            typer.echo(f"The newest {quantity(limit, 'document')}; more with --limit.", err=True)


def _print_tasks(entries: Sequence[Entry], now: float) -> None:
    out = console()
    rows = []
    for entry in entries:
        received = entry.times.get("received")
        ended = entry.times.get(entry.status.value) if entry.status in FINAL else None
        took = "" if received is None or ended is None else duration(max(0.0, ended - received))
        rows.append(
            [entry.id, entry.status.value, entry.priority, "" if received is None else short_time(received, now), took]
        )
    names = ["id", "status", "priority", "received", "took"]
    widths = [max(len(name), *(len(row[index]) for row in rows)) + 2 for index, name in enumerate(names)]
    if out.width - sum(widths) < _MIN_SOURCE:  # the source matters more than how long it took
        names, widths = names[:-1], widths[:-1]
    made = table(*names, "source", numbers=("took",))
    for entry, row in zip(entries, rows, strict=True):
        cells = [status_text(cell) if name == "status" else cell for name, cell in zip(names, row, strict=False)]
        made.add_row(*cells, truncate_left(entry.source, max(_MIN_SOURCE // 2, out.width - sum(widths))))
    print_table(made)
