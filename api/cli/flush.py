"""`llmctl flush`: what waits in batches goes to the workers now."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_scheduler.api.cli.redis_client import reached
from llm_scheduler.api.cli.settings import settings
from llm_scheduler.api.cli.tasks import one_of


def flush(
    context: typer.Context,
    queue: Annotated[str | None, typer.Argument(metavar="[QUEUE]", help="One queue; without it, all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Hand waiting batches to the workers now."""
    from llm_scheduler.api.cli.output import counted, print_json
    from llm_scheduler.jobs.clock import SystemClock
    from llm_scheduler.jobs.store import batches

    config = settings(context).config
    levels = config.queue.priority_levels
    only = one_of(queue, levels, "QUEUE")
    with reached(config) as redis:
        moved = batches.flush_all(redis, [only] if only else levels, config.processing, SystemClock())
    if as_json:
        print_json({"flushed": moved})
    else:
        for level, count in moved.items():
            typer.echo(f"{level}: {counted(count, 'document')}")
