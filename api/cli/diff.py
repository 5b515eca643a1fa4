"""`llmctl diff`: what arrived beside what was published."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from llm_scheduler.jobs.config import Config


def diff(
    context: typer.Context,
    document_id: Annotated[str, typer.Argument(metavar="ID", help="A document that is done.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout: the receipt, and both texts.")] = False,
) -> None:
    """Show what repair made of a document.

    The original against the published text, and the receipt.
    """
    from llm_scheduler.api.cli.output import console, print_json
    from llm_scheduler.api.cli.tasks import finished
    from llm_scheduler.ingest.spool.finished_files import published

    entry, place = finished(settings(context).config, document_id)
    if entry.status != "done" or place is None or place.original is None:
        why = "only a done document whose files are here can be compared."
        fail(f"{entry.id} is {entry.status}, and {why}", ExitCode.NOT_WELL)
    result = published(place.report)
    original = _original(place.original, settings(context).config)
    if as_json:
        receipt = {"id": entry.id, "quality": result.quality, "repairs": result.repairs}
        print_json({**receipt, "original": original, "published": result.text})
        return
    out = console()
    if result.quality == "valid" and result.envelope is None:
        out.print(f"{entry.source} is valid: what was published is the original's own text.")
        return
    for line in _lines(original, result.text):
        out.print(line)
    for repair in result.repairs:
        at = f" at line {repair['line']}, column {repair['column']}" if "line" in repair else ""
        out.print(f"{repair['step']}: {repair['code']}{at}")


def _original(path: str, config: Config) -> str:
    """The original's text, with `***` for what is sensitive in it."""
    from llm_scheduler.ingest.spool.originals import read_original
    from llm_scheduler.jobs.sealing import Seal, WrongKey, sealing_of
    from llm_scheduler.jobs.worker.reader import Reader

    keys = config.security.encryption_keys
    try:
        raw = read_original(path, Seal(keys) if keys else None)
    except WrongKey as error:
        fail(f"{path}: {error}", ExitCode.NOT_WELL)
    text = raw.decode("utf-8", "backslashreplace")
    sealing = sealing_of(config.security)
    return sealing.hidden(text, Reader(config.processing, config.intake).look(raw).text) if sealing else text


def _lines(original: str, published: str) -> list[Any]:
    """A unified difference (as of diff -u), coloured."""
    from rich.text import Text

    colours = {"+": "green", "-": "red", "@": "cyan"}
    found = difflib.unified_diff(
        original.splitlines(), published.splitlines(), "original", "published", lineterm="", n=2
    )
    return [Text(line, colours.get(line[:1], "")) for line in found]
