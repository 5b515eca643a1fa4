"""`llmctl check`: how a worker would read files. Needs neither Redis nor the spool."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from llm_scheduler.api.cli.output import console, table
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.schemas import load_schemas
from llm_scheduler.jobs.worker.reader import Reader

_MAX_REMARK = 100  # characters


def check(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files to read; - is the standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout, with the documents.")] = False,
) -> None:
    """Each document is valid, repaired or truncated; refused means that a worker would reject it. The reason stands
    beside it. The exit status is 1 when one would be rejected.
    """
    config = config_of(context)
    reader = Reader(config.processing, config.intake, load_schemas(config.intake.schemas))
    found = [each for file in files for each in _check(file, config, reader)]
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))  # numbers keep all their digits
    else:
        rows = table("file", "quality", "", flexible=["file", ""])
        for each in found:
            rows.add_row(each["file"], _quality_text(each), _remark(each))
        console().print(rows)
    if not all(each["accepted"] for each in found):
        raise typer.Exit(ExitCode.NOT_WELL)


def _check(file: str, config: Config, reader: Reader) -> Iterator[dict[str, Any]]:
    """The finding for each document in `file`."""
    limits = intake.IntakeLimits.from_config(config.processing)
    try:
        if file == "-":
            raw = sys.stdin.buffer.read()
        else:
            with open(file, "rb") as opened:
                raw = opened.read()
        parts = intake.split(raw, file, limits, config.intake.max_lines)
    except OSError as error:
        yield _rejection(file, "unreadable", error.strerror or str(error))
        return
    except intake.IntakeRejection as refusal:
        yield _rejection(file, refusal.name, refusal.message)
        return
    for number, part in enumerate(parts, 1):
        name = file if len(parts) == 1 else f"{file}:{number}"
        yield _read(name, part, reader)


def _read(name: str, raw: bytes, reader: Reader) -> dict[str, Any]:
    try:
        reading = reader.parse(raw)
    except intake.IntakeRejection as refusal:
        return _rejection(name, refusal.name, refusal.message, refusal.position)
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
        found["warnings"] = reader.check(reading).warnings
    except intake.IntakeRejection as refusal:
        found |= {"accepted": False, "code": refusal.name, "message": refusal.message}
    return found


def _rejection(name: str, code: str, message: str, position: Any = None) -> dict[str, Any]:
    found: dict[str, Any] = {"file": name, "quality": "refused", "accepted": False, "code": code, "message": message}
    if position is not None:
        found |= {"line": position.line, "column": position.column, "offset": position.offset}
    return found


def _quality_text(found: dict[str, Any]) -> Text:
    colour = {"valid": "green", "repaired": "yellow", "truncated": "magenta"}.get(found["quality"], "red")
    return Text(found["quality"], colour if found["accepted"] else "red")


def _remark(found: dict[str, Any]) -> str:
    if not found["accepted"]:
        place = f" (line {found['line']}, column {found['column']})" if "line" in found else ""
        return f"{found['code']}: {found['message'][:_MAX_REMARK]}{place}"
    remarks = [f"{repair.step}: {repair.code}" for repair in found["repairs"]]
    remarks += [warning.message for warning in found["warnings"]]
    return ", ".join(dict.fromkeys(remarks))[:_MAX_REMARK]
