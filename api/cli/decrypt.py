"""`llmctl decrypt`: a file with its sealed values in plain text."""

import os
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from llm_scheduler.api.cli.output import fail
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.ingest.spool.originals import is_sealed, original_chunks
from llm_scheduler.jobs.config.key_checks import KEY, is_key
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.sealing import Seal, WrongKey, opened


def decrypt(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A result, a report or a sealed original.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; without it, stdout.")
    ] = None,
) -> None:
    """The keys are those of security.encryption_key."""
    keys = config_of(context).security.encryption_keys
    if not keys or not all(is_key(key) for key in keys):
        what = "There is no key" if not keys else "One of the keys is invalid"
        fail(f"{what}: set security.encryption_key, or $LLM_ENCRYPTION_KEY, to {KEY}.", ExitCode.CONFIGURATION)
    pieces = _decrypt(file, Seal(keys))
    try:
        if output is None:
            sys.stdout.buffer.writelines(pieces)
            sys.stdout.buffer.flush()
        else:
            _write_file(output, pieces)
    except WrongKey as error:
        fail(f"{file}: {error}")
    except OSError as error:
        fail(f"{error.filename or file}: {error.strerror}.")


def _decrypt(file: str, seal: Seal) -> Iterator[bytes]:
    """The decrypted content of `file` in pieces. Raises OSError and WrongKey."""
    if is_sealed(file):
        yield from original_chunks(file, seal)
    else:
        with open(file, "rb") as found:
            yield opened(found.read(), seal)


def _write_file(output: str, pieces: Iterator[bytes]) -> None:
    """Write a file that only its owner may read; it appears only when it is complete."""
    hidden = f"{output}.part"
    try:
        with open(hidden, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.writelines(pieces)
        os.replace(hidden, output)
    finally:
        if os.path.lexists(hidden):
            os.unlink(hidden)
