"""Sensitive fields: sealed (encrypted) before a document leaves the process, opened only with a key."""

from llm_scheduler.jobs.sealing.scope import Sealing, masked, opened, seal_of_originals, sealing_of
from llm_scheduler.jobs.sealing.seal import Seal, WrongKey, new_key

__all__ = ["Seal", "Sealing", "WrongKey", "masked", "new_key", "opened", "seal_of_originals", "sealing_of"]
