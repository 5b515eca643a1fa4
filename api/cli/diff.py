"""`llmctl diff`: the original beside what was published."""

import difflib
from typing import Annotated

import typer
from rich.text import Text

from llm_scheduler.api.cli.documents import find_document, read_original
from llm_scheduler.api.cli.output import console, fail, print_json
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.ingest.spool.result_files import read_published
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.sealing import sealing_of
from llm_scheduler.jobs.worker.reader import Reader


def diff(
    context: typer.Context,
    document_id: Annotated[str, typer.Argument(metavar="ID", help="A document that is done.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout: the receipt, and both texts.")] = False,
) -> None:
    """Shows the original beside the published text, and the receipt."""
    config = config_of(context)
    entry, files = find_document(config, document_id)
    if entry.status != "done" or files is None or files.original is None:
        why = "only a done document whose files are here can be compared."
        fail(f"{entry.id} is {entry.status}, and {why}")
    result = read_published(files.report)
    original = _original_text(files.original, config)
    if as_json:
        receipt = {"id": entry.id, "quality": result.quality, "repairs": result.repairs}
        print_json({**receipt, "original": original, "published": result.text})
        return
    out = console()
    if result.quality == "valid" and result.envelope is None:
        out.print(f"{entry.source} is valid: what was published is the original's own text.")
        return
    for line in _unified_diff(original, result.text):
        out.print(line)
    for repair in result.repairs:
        at = f" at line {repair['line']}, column {repair['column']}" if "line" in repair else ""
        out.print(f"{repair['step']}: {repair['code']}{at}")


def _original_text(path: str, config: Config) -> str:
    """The original's text, with `***` for its sensitive values."""
    raw = read_original(config, path)
    text = raw.decode("utf-8", "backslashreplace")
    sealing = sealing_of(config.security)
    return sealing.hidden(text, Reader(config.processing, config.intake).parse(raw).text) if sealing else text


def _unified_diff(original: str, published: str) -> list[Text]:
    """As `diff -u` prints it, coloured."""
    colours = {"+": "green", "-": "red", "@": "cyan"}
    found = difflib.unified_diff(
        original.splitlines(), published.splitlines(), "original", "published", lineterm="", n=2
    )
    return [Text(line, colours.get(line[:1], "")) for line in found]
