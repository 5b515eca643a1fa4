"""`llmctl generate`: test documents into a watch folder."""

import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from llm_scheduler.api.cli.output import Json, fail, print_json, printable, quantity, track
from llm_scheduler.api.cli.samples import Sample, documents
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.ingest.spool import explain
from llm_scheduler.ingest.spool.file_io import rename_new
from llm_scheduler.ingest.spool.names import with_id
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.document import new_id

BrokenShare = Annotated[float, typer.Option("--broken", metavar="SHARE", min=0, max=1, help="Share of broken ones.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="The same seed makes the same documents.")]


def generate(
    context: typer.Context,
    count: Annotated[int, typer.Argument(metavar="N", min=1, help="How many.")],
    broken: BrokenShare = 0.0,
    seed: Seed = None,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="The folder; without it, the first watch folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The documents are JSON objects with id, timestamp, content and metadata, in English and Traditional Chinese."""
    folder = str(into) if into is not None else config_of(context).directories.watch[0]
    seed = random_seed() if seed is None else seed
    number_broken = 0
    try:
        os.makedirs(folder, exist_ok=True)
        for sample in track(drop(folder, documents(count, seed, broken)), count, "Writing"):
            number_broken += sample.is_broken
    except OSError as error:
        fail(explain(error))
    if as_json:
        print_json({"written": count, "broken": number_broken, "folder": folder, "seed": seed})
    else:
        typer.echo(f"{quantity(count, 'document')} ({number_broken} broken) in {printable(folder)}, seed {seed}")


def random_seed() -> int:
    """A seed for a command without `--seed`. The command prints it, so that the documents can be made again."""
    return secrets.randbelow(10**6)


def drop(folder: str, samples: Iterable[Sample]) -> Iterator[Sample]:
    """Write each into `folder`: whole or not at all, never over another file. Yields the written. Raises OSError."""
    for sample in samples:
        unfinished = os.path.join(folder, f".{os.getpid()}.{sample.name}.tmp")
        try:
            with open(unfinished, "wb", buffering=0) as file:
                file.write(sample.raw)
            try:
                rename_new(unfinished, os.path.join(folder, sample.name))
            except FileExistsError:
                rename_new(unfinished, os.path.join(folder, with_id(sample.name, new_id(SystemClock().now()))))
        except BaseException:
            if os.path.exists(unfinished):
                os.unlink(unfinished)
            raise
        yield sample
