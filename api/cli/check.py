"""`llmctl check`: what would become of files, without a server and without a folder."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_scheduler.jobs.config import Config
    from llm_scheduler.jobs.worker.reader import Reader

_SHOWN = 100  # characters of a reason in the table


def check(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files to read; - is the standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout, with the documents.")] = False,
) -> None:
    """Say what would become of files.

    Each is read as a worker would: valid, repaired, truncated or refused, and why. The exit status is 1 when one is
    refused.
    """
    from llm_scheduler.api.cli.output import console, print_list, table
    from llm_scheduler.jobs.schemas import load_schemas
    from llm_scheduler.jobs.worker.reader import Reader

    config = settings(context).config
    reader = Reader(config.processing, config.intake, load_schemas(config.intake.schemas))
    found = [each for file in files for each in _checked(file, config, reader)]
    if as_json:
        print_list(found)
    else:
        rows = table("file", "quality", "", rubber=["file", ""])
        for each in found:
            rows.add_row(each["file"], _coloured(each), _remark(each))
        console().print(rows)
    if not all(each["accepted"] for each in found):
        raise typer.Exit(ExitCode.NOT_WELL)


def _checked(file: str, config: Config, reader: Reader) -> Iterator[dict[str, Any]]:
    """What is said of each document in `file`."""
    from llm_scheduler.jobs import intake

    limits = intake.Limits(config.processing.max_document_bytes, config.processing.max_depth)
    try:
        raw = sys.stdin.buffer.read() if file == "-" else _content(file)
        parts = intake.split(raw, file, limits, config.intake.max_lines)
    except OSError as error:
        yield _refused(file, "unreadable", error.strerror or str(error))
        return
    except intake.Refused as refusal:
        yield _refused(file, refusal.name, refusal.message)
        return
    for number, part in enumerate(parts, 1):
        name = file if len(parts) == 1 else f"{file}:{number}"
        yield _read(name, part, reader)


def _content(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()


def _read(name: str, raw: bytes, reader: Reader) -> dict[str, Any]:
    import msgspec

    from llm_scheduler.jobs import intake

    try:
        reading = reader.look(raw)
    except intake.Refused as refusal:
        return _refused(name, refusal.name, refusal.message, refusal.position)
    found: dict[str, Any] = {
        "file": name,
        "quality": reading.quality.value,
        "accepted": True,
        "repairs": reading.repairs,
        "warnings": reading.warnings,
        "coverage": reading.coverage,
        "envelope": reading.envelope,
        "document": msgspec.Raw(reading.text),
    }
    try:
        found["warnings"] = reader.admit(reading).warnings
    except intake.Refused as refusal:
        found |= {"accepted": False, "code": refusal.name, "message": refusal.message}
    return found


def _refused(name: str, code: str, message: str, position: Any = None) -> dict[str, Any]:
    found: dict[str, Any] = {"file": name, "quality": "refused", "accepted": False, "code": code, "message": message}
    if position is not None:
        found |= {"line": position.line, "column": position.column, "offset": position.offset}
    return found


def _coloured(found: dict[str, Any]) -> Any:
    from rich.text import Text

    colour = {"valid": "green", "repaired": "yellow", "truncated": "magenta"}.get(found["quality"], "red")
    return Text(found["quality"], colour if found["accepted"] else "red")


def _remark(found: dict[str, Any]) -> str:
    if not found["accepted"]:
        place = f" (line {found['line']}, column {found['column']})" if "line" in found else ""
        return f"{found['code']}: {found['message'][:_SHOWN]}{place}"
    said = [f"{repair.step}: {repair.code}" for repair in found["repairs"]]
    said += [warned.message for warned in found["warnings"]]
    return ", ".join(dict.fromkeys(said))[:_SHOWN]
