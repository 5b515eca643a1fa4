"""`llmctl backup` and `llmctl restore`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_scheduler.ingest.spool import Folders
    from llm_scheduler.ingest.spool.backup import Backup, Count, Told


def backup(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where the backup goes: outside of the spool.")],
    keep: Annotated[
        int, typer.Option("--keep", min=0, metavar="N", help="Remove all but the newest N of this host; 0: none.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Back up the spool into one file, as it is at one instant.

    Nothing has to be stopped: documents wait for about as long as it takes to link those that are in flight. The
    configuration, the secrets and what is in Redis are not part of it; the hashes of the API's keys are, and what the
    router was taught. Where files can't be read the backup is made without them, names them, and ends with status 1.
    """
    from llm_scheduler.ingest.spool.backup import BackupError, beside, make

    config = settings(context).config
    folders = _folders(context)
    try:
        with _progress("Backing up") as told:
            made = make(folders, folder, keep, beside(config), told)
    except BackupError as error:
        fail(str(error), ExitCode.NOT_WELL)
    _show(made, as_json)
    if made.left_out:
        fail(
            f"The backup is made, without what this user may not read ({len(made.left_out)}; see above). "
            "Change the owner or the mode of these files, and make it again.",
            ExitCode.NOT_WELL,
        )


def restore(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What llmctl backup made.")],
    check: Annotated[bool, typer.Option("--check", help="Read it from end to end, and restore nothing.")] = False,
    keep_waiting: Annotated[
        bool, typer.Option("--keep-waiting", help="Files in watch folders stay: they came after the backup.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Put a backup into the folders of an empty spool.

    The daemons have to be stopped. What was in flight is submitted anew when llm-ingest starts; llmctl reconcile
    --record tells Redis of what was finished.
    """
    from llm_scheduler.ingest.spool.backup import BackupError, beside, look_through
    from llm_scheduler.ingest.spool.backup import restore as put_back

    config = settings(context).config
    folders = _folders(context)
    try:
        with _progress("Reading" if check else "Restoring") as told:
            if check:
                found = look_through(file, told)
            else:
                found = put_back(file, folders, beside(config), told, keep_waiting=keep_waiting)
    except BackupError as error:
        fail(str(error), ExitCode.NOT_WELL)
    _show(found, as_json)


def _folders(context: typer.Context) -> Folders:
    from llm_scheduler.ingest.spool import Folders

    return Folders.of(settings(context).config.directories)


@contextmanager
def _progress(title: str) -> Iterator[Told]:
    from llm_scheduler.api.cli.output import chatter, size

    number = 0
    with chatter().status(title) as status:

        def told(count: Count) -> None:
            nonlocal number
            number += 1
            if number % 200 == 0:
                status.update(f"{title}: {number} files, {size(count.bytes)}")

        yield told


def _show(found: Backup, as_json: bool) -> None:
    from llm_scheduler.api.cli.output import duration, print_json, print_pairs, size

    if as_json:
        print_json(found)
        return
    count = found.count
    pairs = [
        ("file", f"{found.path} ({size(found.size)}, {size(count.bytes)} unpacked)"),
        ("SHA-256", found.sha256),
        ("made", f"{found.about.made_at} on {found.about.host} by version {found.about.version}"),
        ("waiting", f"{count.waiting:,}"),
        ("in flight", f"{count.in_flight:,}"),
        ("archived", f"{count.archived:,} with {count.results:,} results"),
        ("in error", f"{count.in_error:,}"),
    ]
    if found.stood_seconds:
        pairs.append(("ingest waited", duration(found.stood_seconds)))
    pairs += [("removed", path) for path in found.removed]
    pairs += [("left out", path) for path in found.left_out]
    print_pairs(pairs)
