"""What waits on each queue and since when, read in one round trip, whatever the size of the ledger."""

from collections.abc import Sequence
from typing import NamedTuple

from redis import Redis

from llm_scheduler.jobs.document import ACTIVE, Status
from llm_scheduler.jobs.store import waiting_documents
from llm_scheduler.jobs.store.keys import keys_of


class QueueBacklog(NamedTuple):
    """One queue at one moment: `jobs` RQ jobs wait, and `batched` documents wait in its batch. `documents` counts the
    unfinished documents by status. The oldest has been queued or batched for `oldest` seconds; None: nothing waits.
    """

    queue: str
    jobs: int
    batched: int
    documents: dict[str, int]
    oldest: float | None
    paused: bool

    @property
    def depth(self) -> int:
        """Documents that wait for a worker."""
        return self.documents[Status.QUEUED.value] + self.documents[Status.BATCHED.value]


def read_backlog(redis: Redis, levels: Sequence[str], now: float) -> list[QueueBacklog]:
    """Every queue at epoch seconds `now`. Raises RedisError."""
    keys = keys_of(redis)
    pipeline = redis.pipeline(transaction=False)
    pipeline.smembers(keys.paused)
    waiting_documents.ask(pipeline, levels)
    for level in levels:
        pipeline.llen(keys.queue(level))
        pipeline.llen(keys.batch(level))
        for status in ACTIVE:
            pipeline.zcard(keys.status_set(status.value, level))
    paused, answer, *sizes = pipeline.execute()
    oldest = waiting_documents.parse(answer, levels)
    rest = iter(sizes)
    return [
        QueueBacklog(
            queue=level,
            jobs=next(rest),
            batched=next(rest),
            documents={status.value: next(rest) for status in ACTIVE},
            oldest=max(0.0, now - since) if (since := oldest[level].since) is not None else None,
            paused=level.encode() in paused,
        )
        for level in levels
    ]
