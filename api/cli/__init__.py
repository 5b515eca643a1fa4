"""`llmctl`: the command line. Each command is a function in a file of its topic; here they get their names.

Nothing heavy is imported before a command runs, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llm_scheduler.api.cli import (
    autoscale,
    backup,
    check,
    config,
    decrypt,
    demo,
    diff,
    exit_codes,
    explain,
    flush,
    generate,
    industry_model,
    key,
    reconcile,
    rehearse,
    status,
    tasks,
    torture,
)
from llm_scheduler.api.cli.settings import Settings, settings

app = typer.Typer(
    name="llmctl",
    help="Run and operate the LLM JSON scheduler.",
    epilog=exit_codes.epilog(),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
router_group = typer.Typer(
    help="Rehearse rules, and teach the router industries.", no_args_is_help=True, rich_markup_mode=None
)
key_group = typer.Typer(help="Make, list and revoke the API's keys.", no_args_is_help=True, rich_markup_mode=None)
config_group = typer.Typer(help="Check or show the configuration.", no_args_is_help=True, rich_markup_mode=None)


def _version(asked: bool) -> None:
    if asked:
        from llm_scheduler.jobs import __version__

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
    from llm_scheduler.api.local.up import up as run

    raise typer.Exit(run(checked, found.path))


app.command()(up)
app.command()(status.status)
app.command()(tasks.tasks)
app.command()(tasks.show)
app.command()(diff.diff)
app.command()(check.check)
app.command()(explain.explain)
app.command()(decrypt.decrypt)
app.command()(flush.flush)
app.command()(autoscale.autoscale)
app.command()(generate.generate)
app.command()(demo.demo)
app.command()(torture.torture)
app.command()(reconcile.reconcile)
app.command()(backup.backup)
app.command()(backup.restore)
app.add_typer(config_group, name="config")
app.add_typer(router_group, name="router")
app.add_typer(key_group, name="key")
router_group.command()(rehearse.rehearse)
router_group.command()(industry_model.train)
router_group.command("eval")(industry_model.evaluate)
router_group.command()(industry_model.label)
router_group.command()(industry_model.use)
router_group.command()(industry_model.rollback)
key_group.command()(key.create)
key_group.command("list")(key.list_keys)
key_group.command()(key.revoke)
config_group.command()(config.check)
config_group.command()(config.show)
config_group.command()(decrypt.new_key)


def main() -> None:
    """Entry point of `llmctl`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character still gets the rest
    app()
