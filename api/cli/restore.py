"""`llmctl restore`: a backup into an empty spool."""

from typing import Annotated

import typer

from llm_scheduler.api.cli.backup import print_backup
from llm_scheduler.api.cli.output import Json, fail, size, spinner
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.ingest.spool import Folders
from llm_scheduler.ingest.spool.backup_file import BackupError, extra_files, verify
from llm_scheduler.ingest.spool.restore import restore as restore_backup


def restore(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What llmctl backup made.")],
    check: Annotated[bool, typer.Option("--check", help="Read it from end to end, and restore nothing.")] = False,
    keep_waiting: Annotated[
        bool, typer.Option("--keep-waiting", help="Keep files in watch folders: they came after the backup.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Stop the daemons first. What was in flight is submitted again when llm-ingest starts. Redis learns of finished
    documents by llmctl reconcile --record.
    """
    config = config_of(context)
    folders = Folders.of(config.directories)
    try:
        with spinner("Reading" if check else "Restoring") as show:
            if check:
                found = verify(file, lambda count: show(size(count.bytes)))
            else:
                found = restore_backup(
                    file, folders, extra_files(config), lambda count: show(size(count.bytes)), keep_waiting=keep_waiting
                )
    except BackupError as error:
        fail(str(error))
    print_backup(found, as_json)
