"""`llmctl config`: check or show the configuration, and make an encryption key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from llm_scheduler.api.cli.output import Json, print_json, print_pairs, printable
from llm_scheduler.api.cli.settings import config_of, config_path
from llm_scheduler.jobs import sealing
from llm_scheduler.jobs.config import Config, ConfigError, load
from llm_scheduler.jobs.config.mask import masked
from llm_scheduler.jobs.exit_codes import ExitCode


def check(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="The file; without it, the one in force.")] = None,
    as_json: Json = False,
) -> None:
    path = file or config_path(context)
    try:
        load(path)
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "problems": [problem._asdict() for problem in error.problems]})
        else:
            for line in str(error).splitlines():
                typer.echo(printable(line), err=True)
        raise typer.Exit(ExitCode.CONFIGURATION) from None
    if as_json:
        print_json({"ok": True, "problems": []})
    else:
        typer.echo(f"{printable(str(path)) if path else 'built-in defaults'}: no problems")


def show(context: typer.Context, as_json: Json = False) -> None:
    path, config = config_path(context), config_of(context)
    if as_json:
        print_json(masked(config))
        return
    defaults = dict(_flatten(masked(Config())))
    pairs: list[tuple[str, str | Text]] = []
    for key, value in _flatten(masked(config)):
        pairs.append((key, Text(printable(value), style="" if defaults.get(key) == value else "bold")))
    print_pairs(pairs)
    typer.echo(f"From {printable(str(path)) if path else 'the built-in defaults'}; bold: not the default.", err=True)


def new_key() -> None:
    typer.echo(sealing.new_key())


def _flatten(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as text."""
    if isinstance(value, dict) and (value or not key):
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value:
        yield key, ", ".join(str(each) for each in value)
    elif isinstance(value, bool):
        yield key, "true" if value else "false"
    else:
        yield key, "-" if value in (None, "", {}, []) else str(value)
