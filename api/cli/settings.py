"""The configuration of a command, and option values that depend on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llm_scheduler.api.cli.output import fail
from llm_scheduler.jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llm_scheduler.jobs.config import Config


class Settings:
    """The option `--config FILE`. Nothing is read until a command asks."""

    def __init__(self, explicit: str | None) -> None:
        self._explicit = explicit

    @property
    def path(self) -> Path | None:
        """The configuration file in force; None for the built-in defaults."""
        from llm_scheduler.jobs.config import find

        return find(self._explicit, os.environ)

    @property
    def config(self) -> Config:
        """The configuration. An invalid one ends the command with every problem."""
        return load_config(self.path)


def load_config(path: Path | None) -> Config:
    """The configuration of `path`. An invalid one ends the command with every problem."""
    from llm_scheduler.jobs.config import ConfigError, load

    try:
        return load(path)
    except ConfigError as error:
        fail(str(error), ExitCode.CONFIGURATION)


def settings(context: typer.Context) -> Settings:
    """The settings of this command line."""
    return context.find_object(Settings) or Settings(None)


def one_of(value: str | None, allowed: Iterable[str], option: str) -> str | None:
    """`value` if it is allowed or None; anything else is a usage error."""
    known = [str(each) for each in allowed]
    if value is not None and value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}.", param_hint=option)
    return value
