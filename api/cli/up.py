"""`llmctl up`: the whole system on this machine."""

from __future__ import annotations

import typer

from llm_scheduler.api.cli.settings import settings


def up(context: typer.Context) -> None:
    """Run the whole system until Ctrl-C."""
    found = settings(context)
    config = found.config
    from llm_scheduler.api.local.system import up

    raise typer.Exit(up(config, found.path))
