"""What commands need of one document: its ledger entry, its files, its original's bytes."""

from llm_scheduler.api.cli.output import fail
from llm_scheduler.api.cli.redis_client import reachable_client
from llm_scheduler.ingest.spool import Folders, originals
from llm_scheduler.ingest.spool.finished_files import FinishedFiles, find
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import is_id
from llm_scheduler.jobs.sealing import Seal, WrongKey
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.ledger import Entry


def find_document(config: Config, document_id: str) -> tuple[Entry, FinishedFiles | None]:
    """A document's ledger entry and its files. An unknown document ends the command."""
    wanted = document_id.strip().upper()
    if not is_id(wanted):
        fail(f"{document_id!r} is not a document id: an id has 26 letters and digits (see llmctl tasks).")
    with reachable_client(config) as redis:
        entry = ledger.get(redis, wanted)
    if entry is None:
        fail(f"No document {wanted} is known (the ledger forgets the oldest finished ones).")
    return entry, find(Folders.of(config.directories), entry)


def read_original(config: Config, path: str) -> bytes:
    """The bytes that arrived, decrypted where originals are. An original that cannot be read ends the command."""
    keys = config.security.encryption_keys
    try:
        return originals.read_original(path, Seal(keys) if keys else None)
    except (OSError, WrongKey) as error:
        fail(f"{path}: {error}")
