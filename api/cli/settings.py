"""The configuration that a command works with: found once, loaded once, or the end of the command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail

if TYPE_CHECKING:
    from llm_scheduler.jobs.config import Config


class Settings:
    """What was said before the subcommand: `--config FILE`. Nothing is read until a command asks."""

    def __init__(self, explicit: str | None) -> None:
        self._explicit = explicit

    @property
    def path(self) -> Path | None:
        """The file that counts; None for the built-in defaults."""
        from llm_scheduler.jobs.config import find

        return find(self._explicit, os.environ)

    @property
    def config(self) -> Config:
        """The configuration; one that can't be used ends the command with every problem."""
        return loaded(self.path)


def loaded(path: Path | None) -> Config:
    """The configuration of `path`; one that can't be used ends the command with every problem."""
    from llm_scheduler.jobs.config import ConfigError, load

    try:
        return load(path)
    except ConfigError as error:
        fail(str(error), ExitCode.CONFIGURATION)


def settings(context: typer.Context) -> Settings:
    """The settings of this command line."""
    found = context.find_object(Settings)
    return found if found is not None else Settings(None)
