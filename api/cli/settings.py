"""The configuration of a command, and option values that depend on it."""

import os
from collections.abc import Iterable
from pathlib import Path

import typer

from llm_scheduler.api.cli.output import fail
from llm_scheduler.jobs.config import Config, ConfigError, find, load
from llm_scheduler.jobs.exit_codes import ExitCode


def config_path(context: typer.Context) -> Path | None:
    """The configuration file in force; None for the built-in defaults."""
    return find(context.find_root().obj, os.environ)


def config_of(context: typer.Context) -> Config:
    """The configuration of this command line. An invalid one ends the command with every problem."""
    return load_config(config_path(context))


def load_config(path: Path | None) -> Config:
    """The configuration of `path`. An invalid one ends the command with every problem."""
    try:
        return load(path)
    except ConfigError as error:
        fail(str(error), ExitCode.CONFIGURATION)


def one_of(value: str | None, allowed: Iterable[str], option: str) -> str | None:
    """`value` if it is allowed or None; anything else is a usage error."""
    known = [str(each) for each in allowed]
    if value is not None and value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}.", param_hint=option)
    return value
