"""`llmctl backup`: the spool in one file."""

from typing import Annotated

import typer

from llm_scheduler.api.cli.output import Json, duration, fail, print_json, print_pairs, size, spinner
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.ingest.spool import Folders
from llm_scheduler.ingest.spool.backup import make
from llm_scheduler.ingest.spool.backup_file import Backup, BackupError, extra_files


def backup(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where the backup goes: outside the spool.")],
    keep: Annotated[
        int, typer.Option("--keep", min=0, metavar="N", help="Remove all but the newest N of this host; 0: none.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Nothing has to be stopped. Ingest waits only while files in flight are linked. The backup also has the hashes of
    the API's keys and what the router has learned. It lacks the configuration, the secrets and what is in Redis. Files
    that cannot be read are left out and named; the exit status is then 1.
    """
    config = config_of(context)
    try:
        with spinner("Backing up") as show:
            made = make(
                Folders.of(config.directories), folder, keep, extra_files(config), lambda count: show(size(count.bytes))
            )
    except BackupError as error:
        fail(str(error))
    print_backup(made, as_json)
    if made.left_out:
        fail(
            f"The backup is made without the files that this user may not read ({len(made.left_out)}; see above). "
            "Change their owner or mode, and make it again."
        )


def print_backup(found: Backup, as_json: bool) -> None:
    """Print what a backup holds."""
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
