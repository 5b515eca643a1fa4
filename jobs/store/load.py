"""The load: how much is in flight. Back-pressure and the sizes of jobs follow it."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from redis import Redis

from llm_scheduler.jobs.document import IN_FLIGHT, Status
from llm_scheduler.jobs.store import server_state
from llm_scheduler.jobs.store.keys import keys_of


class Load(NamedTuple):
    """What Redis holds that is not final.

    `in_flight` and `queued` (waiting for a worker) count documents by level; `bytes` is the size of their originals.
    `pace`: seconds that a worker takes for a document, for the levels where that is known. `batched`: how many of
    those in flight wait in a batch. `spare`: bytes that the server has room for, negative when its reserve is used.
    """

    in_flight: dict[str, int]
    queued: dict[str, int]
    bytes: int
    pace: dict[str, float]
    spare: float = float("inf")
    batched: int = 0

    @property
    def documents(self) -> int:
        """All documents in flight."""
        return sum(self.in_flight.values())


def read_load(redis: Redis, levels: Sequence[str]) -> Load:
    """The load, in one round trip."""
    keys = keys_of(redis)
    pipeline = redis.pipeline(transaction=False)
    for status, level in product(IN_FLIGHT, levels):
        pipeline.zcard(keys.status_set(status.value, level))
    pipeline.get(keys.in_flight_bytes)
    pipeline.hmget(keys.pace, list(levels))
    pipeline.info("memory")
    *answers, memory = pipeline.execute(raise_on_error=False)  # an ACL may forbid INFO
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    *sizes, held, paces = answers
    count = dict(zip(product(IN_FLIGHT, levels), sizes, strict=True))
    return Load(
        in_flight={level: sum(count[status, level] for status in IN_FLIGHT) for level in levels},
        queued={level: count[Status.QUEUED, level] for level in levels},
        bytes=int(held or 0),
        pace={level: float(pace) for level, pace in zip(levels, paces, strict=True) if pace},
        spare=server_state.parse(memory).spare,
        batched=sum(count[Status.BATCHED, level] for level in levels),
    )
