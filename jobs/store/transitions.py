"""Transitions: which documents came to which status, in a stream for whoever follows them.

Every script that moves documents in the ledger adds one entry for all that it moved.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from llm_scheduler.jobs.document import Status

STREAM = "llm:transitions"
MOST = 2000  # entries that the stream keeps, about


class Transition(NamedTuple):
    """Documents that came to `status` together, at epoch seconds `at`."""

    status: Status
    at: float
    ids: list[str]


_ids = msgspec.msgpack.Decoder(list[str])


def decode(fields: Mapping[bytes, bytes]) -> Transition:
    """An entry of the stream. Raises ValueError (`msgspec.DecodeError` is one) when it is none."""
    try:
        status, at, ids = fields[b"s"], fields[b"t"], fields[b"i"]
    except KeyError as error:
        raise ValueError(f"A transition has no {error}.") from None
    return Transition(Status(status.decode()), int(at) / 1000, _ids.decode(ids))
