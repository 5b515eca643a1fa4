"""`llmctl decrypt`: a file with its sealed values in plain text."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from llm_scheduler.api.cli.output import fail
from llm_scheduler.api.cli.settings import settings
from llm_scheduler.jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_scheduler.jobs.sealing import Seal


def decrypt(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A result, a report or a sealed original.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; without it, stdout.")
    ] = None,
) -> None:
    """Decrypt the sealed values of a file, or a sealed original.

    The keys are those of security.encryption_key.
    """
    from llm_scheduler.jobs.config.encryption import KEY, is_key
    from llm_scheduler.jobs.sealing import Seal, WrongKey

    keys = settings(context).config.security.encryption_keys
    if not keys or not all(is_key(key) for key in keys):
        what = "There is no key" if not keys else "One of the keys is invalid"
        fail(f"{what}: set security.encryption_key, or $LLM_ENCRYPTION_KEY, to {KEY}.", ExitCode.CONFIGURATION)
    pieces = _decrypt(file, Seal(keys))
    try:
        first = next(pieces, b"")
        if output is None:
            _write(sys.stdout.buffer, first, pieces)
        else:
            _write_file(output, first, pieces)
    except WrongKey as error:
        fail(f"{file}: {error}", ExitCode.NOT_WELL)
    except OSError as error:
        fail(f"{error.filename or file}: {error.strerror}.", ExitCode.NOT_WELL)


def _decrypt(file: str, seal: Seal) -> Iterator[bytes]:
    """The decrypted content of `file` in pieces. Raises OSError and WrongKey."""
    from llm_scheduler.ingest.spool.originals import is_sealed, original_chunks
    from llm_scheduler.jobs.sealing import opened

    if is_sealed(file):
        yield from original_chunks(file, seal)
    else:
        with open(file, "rb") as found:
            yield opened(found.read(), seal)


def _write_file(output: str, first: bytes, rest: Iterator[bytes]) -> None:
    """Write a file that only its owner may read; it appears only when it is complete."""
    hidden = f"{output}.part"
    try:
        with open(hidden, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            _write(file, first, rest)
        os.replace(hidden, output)
    finally:
        if os.path.lexists(hidden):
            os.unlink(hidden)


def _write(file: BinaryIO, first: bytes, rest: Iterator[bytes]) -> None:
    file.write(first)
    file.writelines(rest)
    file.flush()
