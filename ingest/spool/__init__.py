"""The spool: the folders, and the only code that moves documents between them.

    watch --claim--> temp/<group>/<id> --commit--> archive + processed, or errors

Each step is one rename, so the original bytes of a document are in exactly one of these places at every instant.
"""

from llm_scheduler.ingest.spool.claims import Candidate, Claim, Claims, FileStamp
from llm_scheduler.ingest.spool.folders import FolderError, Folders, explain
from llm_scheduler.ingest.spool.locks import FreezeLock, SpoolLock

__all__ = ["Candidate", "Claim", "Claims", "FileStamp", "FolderError", "Folders", "FreezeLock", "SpoolLock", "explain"]
