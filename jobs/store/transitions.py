"""The stream of transitions: which documents got which status.

Every script that moves documents in the ledger adds one entry for all that it moved.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from llm_scheduler.jobs.document import Status

MAX_ENTRIES = 2000  # entries that the stream keeps, about


class Transition(NamedTuple):
    """Documents that got `status` together, at epoch seconds `at`."""

    status: Status
    at: float
    ids: list[str]


_ids = msgspec.msgpack.Decoder(list[str])


def decode(fields: Mapping[bytes, bytes]) -> Transition:
    """An entry of the stream. Raises ValueError (`msgspec.DecodeError` is one) for anything else."""
    try:
        status, at, ids = fields[b"s"], fields[b"t"], fields[b"i"]
    except KeyError as error:
        raise ValueError(f"A transition has no {error}.") from None
    return Transition(Status(status.decode()), int(at) / 1000, _ids.decode(ids))
