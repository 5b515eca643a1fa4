"""How a command ends: the exit codes, and the one way to end with one."""

from enum import IntEnum
from typing import NoReturn

import typer


class ExitCode(IntEnum):
    """The exit codes of `llmctl`. Those above 64 are the ones of sysexits.h."""

    OK = 0
    NOT_WELL = 1
    USAGE = 2
    UNREACHABLE = 69
    CONFIGURATION = 78


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "all is well",
    ExitCode.NOT_WELL: "what was asked about is unknown, failed or incomplete",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.UNREACHABLE: "Redis can't be reached",
    ExitCode.CONFIGURATION: "the configuration can't be used",
}


def epilog() -> str:
    """The table of exit codes for the main help (`\\b` keeps its lines apart)."""
    return "\n".join(["\b", "Exit codes:", *(f"  {code.value:>2}  {meaning}" for code, meaning in MEANINGS.items())])


def fail(message: str, code: ExitCode) -> NoReturn:
    """End the command: `message` on stderr, `code` as the exit code."""
    from llm_scheduler.api.cli.output import printable

    typer.echo("\n".join(printable(line) for line in message.splitlines()), err=True)
    raise typer.Exit(code)
