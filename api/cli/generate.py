"""`llmctl generate`: test documents into a watch folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from llm_scheduler.api.cli.samples import Specimen

Seed = Annotated[int | None, typer.Option("--seed", min=0, help="The same seed makes the same documents.")]


def generate(
    context: typer.Context,
    count: Annotated[int, typer.Argument(metavar="N", min=1, help="How many.")],
    broken: Annotated[
        float, typer.Option("--broken", metavar="SHARE", min=0, max=1, help="Share of spoilt ones.")
    ] = 0.0,
    seed: Seed = None,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Where to; without it, the first watch folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Write test documents into the watch folder.

    In English and Traditional Chinese, in the guide's format.
    """
    from llm_scheduler.api.cli.output import counted, print_json, printable, shown_progress
    from llm_scheduler.api.cli.samples import documents
    from llm_scheduler.ingest.spool import explain

    folder = str(into) if into is not None else settings(context).config.directories.watch[0]
    sown = new_seed() if seed is None else seed
    spoilt = 0
    try:
        os.makedirs(folder, exist_ok=True)
        for specimen in shown_progress(drop(folder, documents(count, sown, broken)), count, "Writing"):
            spoilt += specimen.is_broken
    except OSError as error:
        fail(explain(error), ExitCode.NOT_WELL)
    if as_json:
        print_json({"written": count, "broken": spoilt, "folder": folder, "seed": sown})
    else:
        typer.echo(f"{counted(count, 'document')} ({spoilt} broken) in {printable(folder)}, seed {sown}")


def new_seed() -> int:
    """A seed for whoever gave none; it is told, so that the documents can be had again."""
    return secrets.randbelow(10**6)


def drop(folder: str, specimens: Iterable[Specimen]) -> Iterator[Specimen]:
    """Write each into `folder`, whole or not at all and never over another file. Raises OSError."""
    from llm_scheduler.ingest.spool.renames import rename_new, with_id
    from llm_scheduler.jobs.clock import SystemClock
    from llm_scheduler.jobs.document import new_id

    for specimen in specimens:
        unfinished = os.path.join(folder, f".{os.getpid()}.{specimen.name}.tmp")
        try:
            with open(unfinished, "wb", buffering=0) as file:
                file.write(specimen.raw)
            try:
                rename_new(unfinished, os.path.join(folder, specimen.name))
            except FileExistsError:
                rename_new(unfinished, os.path.join(folder, with_id(specimen.name, new_id(SystemClock().now()))))
        except BaseException:
            if os.path.exists(unfinished):
                os.unlink(unfinished)
            raise
        yield specimen
