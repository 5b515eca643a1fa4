"""`llmctl`: the command line. Each command is a module, which is imported when the command is called."""

import inspect
import sys
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.exit_codes import ExitCode

# By the name of a command: its module and function, and the first line of its help.
Commands = dict[str, tuple[str, str]]

COMMANDS: Commands = {
    "up": ("up:up", "Run the whole system until Ctrl-C."),
    "status": ("status:status", "Show the state of the whole system."),
    "tasks": ("tasks:tasks", "List documents, the newest first."),
    "show": ("show:show", "Show all that is known of one document."),
    "diff": ("diff:diff", "Show what repair changed in a document."),
    "check": ("check:check", "Read files as a worker would, and say what came of it."),
    "explain": ("explain:explain", "Say where a document goes, and why."),
    "decrypt": ("decrypt:decrypt", "Decrypt the sealed values of a file, or a sealed original."),
    "flush": ("flush:flush", "Hand waiting batches to the workers now."),
    "autoscale": ("autoscale:autoscale", "Start and stop this host's workers as the queues need them."),
    "generate": ("generate:generate", "Write test documents into the watch folder."),
    "demo": ("demo:demo", "Send test documents through the system."),
    "torture": ("torture:torture", "Prove that no document is lost or published twice."),
    "reconcile": ("reconcile:reconcile", "Account for every document, on the disk and in Redis."),
    "backup": ("backup:backup", "Back up the spool into one file, as it is at one instant."),
    "restore": ("restore:restore", "Put a backup into the folders of an empty spool."),
}
CONFIG: Commands = {
    "check": ("config:check", "Check a configuration file: exit code 0, or 78 with all its problems."),
    "show": ("config:show", "Show the configuration in force, secrets masked."),
    "new-key": ("config:new_key", "Print a new key for security.encryption_key."),
}
ROUTER: Commands = {
    "rehearse": ("rehearse:rehearse", "Show what a new configuration would change."),
    "train": ("industry_model:train", "Train an industry model on labelled texts."),
    "eval": ("industry_model:evaluate", "Measure an industry model on labelled texts."),
    "label": ("industry_model:label", "Correct a document's industry for the next `llmctl router train`."),
    "use": ("industry_model:use", "Replace the configured model."),
    "rollback": ("industry_model:rollback", "Restore the previous model."),
}
KEY: Commands = {
    "create": ("key:create", "Create an API key and print it, this once."),
    "list": ("key:list_keys", "List the named API keys, without their secrets."),
    "revoke": ("key:revoke", "Revoke an API key and the tokens made with it."),
}
EXIT_MEANINGS = {
    ExitCode.OK: "success",
    ExitCode.NOT_WELL: "what was asked about is unknown, failed or incomplete",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.UNREACHABLE: "Redis can't be reached",
    ExitCode.CONFIGURATION: "the configuration can't be used",
}


class LazyCommand(TyperCommand):
    """A command that is imported when it is called, so that the help of all commands is quick.

    The callback returns the function. Its docstring follows the first line in the help of the command.
    """

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        assert self.callback
        function = self.callback()
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(help=f"{self.help}\n\n{inspect.getdoc(function) or ''}")(function)
        return typer.main.get_command(app).make_context(info_name, args, parent, **extra)


def _group(commands: Commands, **options: Any) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, **options)
    for name, (function, summary) in commands.items():
        group.command(name, cls=LazyCommand, help=summary)(_import_of(function))
    return group


def _import_of(function: str) -> Callable[[], Any]:
    return lambda: resolve_name(f"{__name__}.{function}")


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
    context.obj = config


def main() -> None:
    """Entry point of `llmctl`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
    app()
