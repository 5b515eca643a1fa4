"""`llmctl flush`: batches to the workers, now."""

from typing import Annotated

import typer

from llm_scheduler.api.cli.output import Json, print_json, quantity
from llm_scheduler.api.cli.redis_client import reachable_client
from llm_scheduler.api.cli.settings import config_of, one_of
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.store import batches


def flush(
    context: typer.Context,
    queue: Annotated[str | None, typer.Argument(metavar="[QUEUE]", help="One queue; without it, all.")] = None,
    as_json: Json = False,
) -> None:
    config = config_of(context)
    levels = config.queue.priority_levels
    only = one_of(queue, levels, "QUEUE")
    with reachable_client(config) as redis:
        moved = batches.flush_all(redis, [only] if only else levels, config.processing, SystemClock())
    if as_json:
        print_json({"flushed": moved})
    else:
        for level, count in moved.items():
            typer.echo(f"{level}: {quantity(count, 'document')}")
