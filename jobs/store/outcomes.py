"""What a worker says of a document, and the streams in which it says so.

One stream entry carries the outcomes of one RQ job. The collector reads entries, commits them to disk and only
then deletes them, so an outcome is told at least once; the commit is what happens once.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from llm_scheduler.jobs.crash import Evidence
from llm_scheduler.jobs.document import Route
from llm_scheduler.jobs.groups import bounded
from llm_scheduler.jobs.receipt import Envelope, Position, Repair, Warned

FIELD = "o"


class Read(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True, kw_only=True):
    """What intake had to say of a document that was not simply valid, or came from a known producer.

    `document` is its JSON text where that is not the original's own. `producer` and `model` are what the document
    says of its origin; `count` is the number of items in its longest list, -1 where it has none.
    """

    quality: str = "valid"
    document: bytes = b""
    repairs: list[Repair] = []
    warnings: list[Warned] = []
    coverage: float | None = None
    tools: dict[str, str] = {}
    envelope: Envelope | None = None
    producer: str = ""
    model: str = ""
    count: int = -1


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One document's end. (A document that will be tried again has no outcome yet: it is scheduled in Redis.)

    `result` is JSON text when `kind` is done; `code`, `message` and `position` say why when it is rejected (or
    cancelled), and `evidence` tells of the workers that died with it. `read` is there when there is more to say than
    "valid".
    """

    kind: Literal["done", "rejected", "cancelled"]
    id: str
    claim: str
    attempts: int
    completed_at: float
    route: Route
    result: bytes = b""
    code: str = ""
    message: str = ""
    position: Position | None = None
    seconds: float = 0.0
    rq_job_id: str = ""
    evidence: list[Evidence] = []
    read: Read | None = None

    @property
    def size(self) -> int:
        """The bytes of its result, and of the document where that travels with it."""
        return len(self.result) + (len(self.read.document) if self.read else 0)


def stream(queue: str) -> str:
    """The stream for outcomes of `queue`: each has its own, so that urgent ones don't wait behind the others."""
    return f"llm:outcomes:{queue}"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Outcome])


def encode(outcomes: list[Outcome]) -> bytes:
    return _encoder.encode(outcomes)


def parts(outcomes: list[Outcome], most: int) -> Iterator[list[Outcome]]:
    """`outcomes` in order, in parts of about `most` bytes of results at most; one that is larger is a part alone.

    A server takes 512 MB in one value at most (proto-max-bulk-len), and cuts the connection to who sends more.
    """
    for count in bounded((each.size for each in outcomes), most):
        yield outcomes[:count]
        outcomes = outcomes[count:]


def decode(raw: bytes) -> list[Outcome]:
    """Raises `msgspec.DecodeError` when `raw` is not a list of outcomes."""
    return _decoder.decode(raw)
