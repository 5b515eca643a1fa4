"""Outcomes: what a worker reports of a document, and how it travels.

One stream entry carries the outcomes of one RQ job. The collector reads entries, commits them to disk and only then
deletes them: an outcome is delivered at least once, and committed exactly once.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from llm_scheduler.jobs.crash import CrashReport
from llm_scheduler.jobs.document import Route
from llm_scheduler.jobs.groups import bounded
from llm_scheduler.jobs.receipt import DocumentWarning, Envelope, Position, Repair

FIELD = "o"


class Read(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True, kw_only=True):
    """What intake reports of a document that was not simply valid, or has a known producer.

    `document`: its JSON text, where that differs from the original's. `producer` and `model`: its origin as it says
    itself. `count`: the number of entries in its longest list, -1 without a list.
    """

    quality: str = "valid"
    document: bytes = b""
    repairs: list[Repair] = []
    warnings: list[DocumentWarning] = []
    coverage: float | None = None
    tools: dict[str, str] = {}
    envelope: Envelope | None = None
    producer: str = ""
    model: str = ""
    count: int = -1


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The end of one document. (A document that is to be retried has no outcome yet: it is scheduled in Redis.)

    `result`: JSON text of a document that is done. `code`, `message` and `position`: why it is rejected or cancelled.
    `evidence`: crash reports of the workers that died with it. `read`: set where there is more to say than "valid".
    """

    kind: Literal["done", "rejected", "cancelled"]
    id: str
    group: str = msgspec.field(name="claim")
    attempts: int
    completed_at: float
    route: Route
    result: bytes = b""
    code: str = ""
    message: str = ""
    position: Position | None = None
    seconds: float = 0.0
    rq_job_id: str = ""
    evidence: list[CrashReport] = []
    read: Read | None = None

    @property
    def size(self) -> int:
        """The bytes of its result, and of the document where that is included."""
        return len(self.result) + (len(self.read.document) if self.read else 0)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Outcome])


def encode(outcomes: list[Outcome]) -> bytes:
    return _encoder.encode(outcomes)


def parts(outcomes: list[Outcome], most: int) -> Iterator[list[Outcome]]:
    """`outcomes` in order, in parts of at most `most` bytes. An outcome that is larger is a part of its own.

    A server accepts at most 512 MB in one value (proto-max-bulk-len), and closes the connection beyond that.
    """
    for count in bounded((each.size for each in outcomes), most):
        yield outcomes[:count]
        outcomes = outcomes[count:]


def decode(raw: bytes) -> list[Outcome]:
    """Raises `msgspec.DecodeError` when `raw` is not a list of outcomes."""
    return _decoder.decode(raw)
