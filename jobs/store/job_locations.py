"""Where every document is that somebody will bring to an end, asked for in one round trip.

An RQ job is in good hands in four places, and nowhere else:
on its queue (a worker takes it); between queue and worker (RQ's intermediate list: the worker that took it, or the
reaper, puts it in hand or back); in a worker's hand (RQ's registry of begun jobs: the worker ends it, or the reaper
finds that the worker is dead or has moved on); in rq-scheduler's schedule (the scheduler delivers it). A document that
waits for company is in its batch. A job's hash that is in none of these, or a name in them without a hash, is a
leftover. All of it holds for the queues of today's configuration only: nobody looks at the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from redis import Redis
from rq import Queue
from rq.intermediate_queue import IntermediateQueue

from llm_scheduler.jobs.store import batches, outcomes
from llm_scheduler.jobs.store.rq_job import DocumentJob
from llm_scheduler.jobs.store.submission import SCHEDULE, queue_key

_AT_ONCE = 1000
# KEYS: a stream. The id of its first entry, without what that holds.
_FIRST = "local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1] return first and first[1]"


class Whereabouts(NamedTuple):
    """What was where at one moment: `at`, in milliseconds of the server's clock.

    `jobs` are ids of RQ jobs, `batched` ids of documents. `untold` is the time (ms) of the oldest outcome that waits
    for the collector, by queue; a queue without any has none.
    """

    at: int
    jobs: frozenset[str]
    batched: frozenset[str]
    untold: Mapping[str, int]


def look(redis: Redis, queues: Sequence[str]) -> Whereabouts:
    """The whereabouts of all that is on its way through `queues`."""
    jobs: set[str] = set()
    batched: set[str] = set()
    untold: dict[str, int] = {}
    with redis.pipeline() as pipeline:  # one transaction: nothing moves from one place to another meanwhile
        pipeline.time()
        pipeline.zrange(SCHEDULE, 0, -1)
        for queue in queues:
            pipeline.lrange(queue_key(queue), 0, -1)
            pipeline.lrange(_between(queue), 0, -1)
            pipeline.zrange(_begun(queue), 0, -1)
            batches.members(pipeline, queue)
            pipeline.eval(_FIRST, 1, outcomes.stream(queue))
        (seconds, microseconds), scheduled, *rest = pipeline.execute()
    jobs.update(_names(scheduled))
    answers = iter(rest)
    for queue in queues:
        jobs.update(_names(next(answers)))
        jobs.update(_names(next(answers)))
        jobs.update(member.rpartition(":")[0] for member in _names(next(answers)))
        batched.update(_names(next(answers)))
        first = next(answers)
        if first:
            untold[queue] = int(first.partition(b"-")[0])
    return Whereabouts(seconds * 1000 + microseconds // 1000, frozenset(jobs), frozenset(batched), untold)


def discard(redis: Redis, queue: str, job_ids: Iterable[str]) -> None:
    """Forget all that is on its way through a queue that is no more, `job_ids` included.

    Only for documents that have been submitted elsewhere. Whatever a process of the former configuration still adds is
    a claim on disk, too.
    """
    listed: list[Any] = [*redis.lrange(queue_key(queue), 0, -1), *redis.lrange(_between(queue), 0, -1)]
    keys = [DocumentJob.key_for(job_id) for job_id in {*_names(listed), *job_ids}]
    with redis.pipeline() as pipeline:
        for start in range(0, len(keys), _AT_ONCE):
            pipeline.unlink(*keys[start : start + _AT_ONCE])
        pipeline.unlink(queue_key(queue), _between(queue), _begun(queue), outcomes.stream(queue))
        pipeline.srem(Queue.redis_queues_keys, queue_key(queue))
        batches.discard(pipeline, queue)
        pipeline.execute()


def _between(queue: str) -> str:
    return IntermediateQueue.get_intermediate_queue_key(queue_key(queue))


def _begun(queue: str) -> str:
    return f"rq:wip:{queue}"


def _names(members: Iterable[bytes]) -> list[str]:
    return [member.decode(errors="replace") for member in members]
