"""`llmctl`: the command line. Each command is a module; here they get their names.

Nothing heavy is imported before a command runs, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_scheduler.api.cli import (
    autoscale,
    backup,
    check,
    config,
    decrypt,
    demo,
    diff,
    explain,
    flush,
    generate,
    industry_model,
    key,
    reconcile,
    rehearse,
    restore,
    show,
    status,
    tasks,
    torture,
    up,
)
from llm_scheduler.api.cli.settings import Settings
from llm_scheduler.jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    Commands = dict[str, Callable[..., Any]]

COMMANDS: Commands = {
    "up": up.up,
    "status": status.status,
    "tasks": tasks.tasks,
    "show": show.show,
    "diff": diff.diff,
    "check": check.check,
    "explain": explain.explain,
    "decrypt": decrypt.decrypt,
    "flush": flush.flush,
    "autoscale": autoscale.autoscale,
    "generate": generate.generate,
    "demo": demo.demo,
    "torture": torture.torture,
    "reconcile": reconcile.reconcile,
    "backup": backup.backup,
    "restore": restore.restore,
}
CONFIG: Commands = {"check": config.check, "show": config.show, "new-key": config.new_key}
ROUTER: Commands = {
    "rehearse": rehearse.rehearse,
    "train": industry_model.train,
    "eval": industry_model.evaluate,
    "label": industry_model.label,
    "use": industry_model.use,
    "rollback": industry_model.rollback,
}
KEY: Commands = {"create": key.create, "list": key.list_keys, "revoke": key.revoke}
EXIT_MEANINGS = {
    ExitCode.OK: "success",
    ExitCode.NOT_WELL: "what was asked about is unknown, failed or incomplete",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.UNREACHABLE: "Redis can't be reached",
    ExitCode.CONFIGURATION: "the configuration can't be used",
}


def _group(commands: Commands, **options: Any) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, **options)
    for name, command in commands.items():
        group.command(name)(command)
    return group


app = _group(
    COMMANDS,
    name="llmctl",
    help="Run and operate the LLM JSON scheduler.",
    # `\b` keeps the lines apart.
    epilog="\n".join(["\b", "Exit codes:", *(f"  {code:>2}  {meaning}" for code, meaning in EXIT_MEANINGS.items())]),
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(_group(CONFIG, help="Check or show the configuration."), name="config")
app.add_typer(_group(ROUTER, help="Rehearse routing rules, and train the industry model."), name="router")
app.add_typer(_group(KEY, help="Create, list and revoke the API's keys."), name="key")


def _version(wanted: bool) -> None:
    if wanted:
        from llm_scheduler.jobs import __version__

        typer.echo(f"llmctl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="The configuration; else $LLM_CONFIG, else ./scheduler_config.json, else built-in defaults.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    context.obj = Settings(config)


def main() -> None:
    """Entry point of `llmctl`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
    app()
