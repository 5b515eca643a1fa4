"""`llmctl show`: everything that is known of one document."""

import os
from datetime import datetime
from typing import Annotated, Any

import typer
from msgspec import to_builtins
from rich.text import Text

from llm_scheduler.api.cli.documents import find_document
from llm_scheduler.api.cli.output import Json, duration, print_json, print_pairs, size, status_text
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.api.endpoints.jobs import job_detail
from llm_scheduler.ingest.spool.finished_files import FinishedFiles
from llm_scheduler.jobs.store.ledger import Entry


def show(
    context: typer.Context,
    document_id: Annotated[str, typer.Argument(metavar="ID", help="The document's id, as `llmctl tasks` lists it.")],
    as_json: Json = False,
) -> None:
    """Shows the timeline, the route with the reasons, the error and the files."""
    entry, files = find_document(config_of(context), document_id)
    document = {**to_builtins(job_detail(entry, files)), "files": _files(entry, files)}
    if as_json:
        print_json(document)
    else:
        _print_document(document)


def _files(entry: Entry, files: FinishedFiles | None) -> dict[str, str]:
    if files is None:
        return {}
    report = {"result" if entry.status == "done" else "report": files.report}
    return {**report, "original": files.original} if files.original else report


def _print_document(document: dict[str, Any]) -> None:
    pairs: list[tuple[str, str | Text]] = [
        ("id", document["id"]),
        ("status", status_text(document["status"])),
        ("source", document["source"]),
        ("size", size(document["size"])),
        ("priority", document["priority"]),
        ("queue", document["queue"]),
        ("handler", document["handler"]),
        ("attempts", str(document["attempts"])),
        ("rq job", document["rq_job_id"] or "-"),
    ]
    pairs += [("reason" if index == 0 else "", reason) for index, reason in enumerate(document["reasons"])]
    error = document["error"]
    if error:
        pairs += [("error", error["code"] or "-"), ("", error["message"] or "-")]
        if "line" in error:
            pairs.append(("", f"at line {error['line']}, column {error['column']} (byte {error['offset']})"))
    before: datetime | None = None
    for step in document["timeline"]:
        at = datetime.fromisoformat(step["at"])
        since = "" if before is None else f"  +{duration((at - before).total_seconds())}"
        pairs.append((step["status"], step["at"] + since))
        before = at
    pairs += [(name, os.path.relpath(path)) for name, path in document["files"].items()]
    if not document["files"] and document["status"] in ("done", "rejected"):
        pairs.append(("files", "not in the configured folders of this machine"))
    print_pairs(pairs)
