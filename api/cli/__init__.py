"""`llmctl`: the command line. Each command is a function in a file of its topic; here they get their names.

Nothing heavy is imported before a command runs, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from api.cli import (
    accounting,
    autoscaling,
    backing_up,
    checking,
    comparing,
    configuring,
    decrypting,
    demo,
    exits,
    explaining,
    flushing,
    generate,
    keys,
    learning,
    rehearsing,
    status,
    tasks,
    torturing,
)
from api.cli.settings import Settings, settings

app = typer.Typer(
    name="llmctl",
    help="Run and operate the LLM JSON scheduler.",
    epilog=exits.epilog(),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
router = typer.Typer(
    help="Rehearse rules, and teach the router industries.", no_args_is_help=True, rich_markup_mode=None
)
key = typer.Typer(help="Make, list and revoke the API's keys.", no_args_is_help=True, rich_markup_mode=None)
config = typer.Typer(help="Check or show the configuration.", no_args_is_help=True, rich_markup_mode=None)


def _version(asked: bool) -> None:
    if asked:
        from jobs import __version__

        typer.echo(f"llmctl {__version__}")
        raise typer.Exit


@app.callback()
def _before(
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


def up(context: typer.Context) -> None:
    """Run the whole system until Ctrl-C."""
    found = settings(context)
    checked = found.config
    from api.local.up import up as run

    raise typer.Exit(run(checked, found.path))


app.command()(up)
app.command()(status.status)
app.command()(tasks.tasks)
app.command()(tasks.show)
app.command()(comparing.diff)
app.command()(checking.check)
app.command()(explaining.explain)
app.command()(decrypting.decrypt)
app.command()(flushing.flush)
app.command()(autoscaling.autoscale)
app.command()(generate.generate)
app.command()(demo.demo)
app.command()(torturing.torture)
app.command()(accounting.reconcile)
app.command()(backing_up.backup)
app.command()(backing_up.restore)
app.add_typer(config, name="config")
app.add_typer(router, name="router")
app.add_typer(key, name="key")
router.command()(rehearsing.rehearse)
router.command()(learning.train)
router.command("eval")(learning.evaluate)
router.command()(learning.label)
router.command()(learning.use)
router.command()(learning.rollback)
router.command("train-base")(learning.train_base)
key.command()(keys.create)
key.command("list")(keys.list_keys)
key.command()(keys.revoke)
config.command()(configuring.check)
config.command()(configuring.show)
config.command()(decrypting.new_key)


def main() -> None:
    """Entry point of `llmctl`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character still gets the rest
    app()
