"""`llmctl up`: the whole system on this machine."""

import typer

from llm_scheduler.api.cli.settings import config_of, config_path
from llm_scheduler.api.local import system


def up(context: typer.Context) -> None:
    raise typer.Exit(system.up(config_of(context), config_path(context)))
