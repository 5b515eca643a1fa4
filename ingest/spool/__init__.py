"""The spool: the folders, and the only code that moves documents between them.

    watch --claim--> temp/<group>/<id> --commit--> archive + processed, or errors

A document's original bytes are in exactly one of these places at every instant, because each step is one rename.
"""

from llm_scheduler.ingest.spool.claims import Claim, Claims, Found
from llm_scheduler.ingest.spool.folders import Folders, Trouble, explain
from llm_scheduler.ingest.spool.spool_lock import SpoolLock

__all__ = ["Claim", "Claims", "Folders", "Found", "SpoolLock", "Trouble", "explain"]
