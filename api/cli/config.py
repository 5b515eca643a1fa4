"""`llmctl config check` and `llmctl config show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def check(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="The file; without it, the one that would be used.")] = None,
    as_json: Json = False,
) -> None:
    """Check a configuration file: exit code 0, or 78 with every problem it has."""
    from llm_scheduler.api.cli.output import print_json, printable
    from llm_scheduler.jobs.config import ConfigError, load

    path = file or settings(context).path
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
    """Show the configuration that is in force, secrets masked."""
    from rich.text import Text

    from llm_scheduler.api.cli.output import console, print_json, print_pairs, printable
    from llm_scheduler.jobs.config import Config
    from llm_scheduler.jobs.config.mask import masked

    found = settings(context)
    config = found.config
    if as_json:
        print_json(masked(config))
        return
    defaults = dict(_flat(masked(Config())))
    pairs: list[tuple[str, str | Text]] = []
    for key, value in _flat(masked(config)):
        pairs.append((key, Text(printable(value), style="" if defaults.get(key) == value else "bold")))
    print_pairs(pairs, console())
    path = found.path
    typer.echo(f"From {printable(str(path)) if path else 'the built-in defaults'}; bold: not the default.", err=True)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values in words."""
    if isinstance(value, dict) and (value or not key):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value:
        yield key, ", ".join(str(each) for each in value)
    else:
        yield key, _in_words(value)


def _in_words(value: Any) -> str:
    match value:
        case None | "" | {} | []:
            return "-"
        case bool():
            return "true" if value else "false"
    return str(value)
