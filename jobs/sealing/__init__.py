"""Sensitive fields: sealed wherever a document leaves the process that holds it, and opened only by who has a key."""

from jobs.sealing.policy import Sealing, masked, opened, seal_of_originals, sealing_of
from jobs.sealing.seal import Seal, WrongKey, new_key

__all__ = ["Seal", "Sealing", "WrongKey", "masked", "new_key", "opened", "seal_of_originals", "sealing_of"]
