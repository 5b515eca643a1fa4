"""Job locations: every place where somebody will bring a document to its end, read in one round trip.

An RQ job is safe in four places, and nowhere else: on its queue (a worker takes it); between queue and worker, in RQ's
intermediate list (the worker begins it, or the reaper puts it back); with a worker, in RQ's registry of begun jobs (the
worker ends it, or the reaper sees that the worker is dead or does not have it); in rq-scheduler's schedule. A document
may also wait in a batch. A job's hash that is in none of these places is a leftover, and so is a name without a hash.
Only the queues of the present configuration count: nobody works on others.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from redis import Redis

from llm_scheduler.jobs.store import batches
from llm_scheduler.jobs.store.keys import keys_of

_CHUNK = 1000
# KEYS: a stream. The id of its first entry, without the content.
_FIRST = "local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1] return first and first[1]"


class JobLocations(NamedTuple):
    """What was where at one moment, `at` (milliseconds of the server's clock).

    `jobs`: ids of RQ jobs. `batched`: ids of documents. `oldest_outcomes`: the time (ms) of the oldest outcome that
    waits for the collector, for the queues that have one.
    """

    at: int
    jobs: frozenset[str]
    batched: frozenset[str]
    oldest_outcomes: Mapping[str, int]


def read_locations(redis: Redis, queues: Sequence[str]) -> JobLocations:
    """The locations of everything that is on its way through `queues`."""
    keys = keys_of(redis)
    jobs: set[str] = set()
    batched: set[str] = set()
    oldest: dict[str, int] = {}
    with redis.pipeline() as pipeline:  # one transaction: nothing moves in the meantime
        pipeline.time()
        pipeline.zrange(keys.schedule, 0, -1)
        for queue in queues:
            pipeline.lrange(keys.queue(queue), 0, -1)
            pipeline.lrange(keys.intermediate(queue), 0, -1)
            pipeline.zrange(keys.begun(queue), 0, -1)
            batches.members(pipeline, queue)
            pipeline.eval(_FIRST, 1, keys.outcomes(queue))
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
            oldest[queue] = int(first.partition(b"-")[0])
    return JobLocations(seconds * 1000 + microseconds // 1000, frozenset(jobs), frozenset(batched), oldest)


def discard(redis: Redis, queue: str, job_ids: Iterable[str]) -> None:
    """Forget everything on its way through a queue that no longer exists, `job_ids` included.

    Only for documents that were submitted to another queue. If a process with the earlier configuration still adds
    something, its claim is on disk, and recovery submits it.
    """
    keys = keys_of(redis)
    places = keys.queue(queue), keys.intermediate(queue)
    listed: list[Any] = [member for place in places for member in redis.lrange(place, 0, -1)]
    jobs = [keys.job(job_id) for job_id in {*_names(listed), *job_ids}]
    with redis.pipeline() as pipeline:
        for start in range(0, len(jobs), _CHUNK):
            pipeline.unlink(*jobs[start : start + _CHUNK])
        pipeline.unlink(*places, keys.begun(queue), keys.outcomes(queue))
        pipeline.srem(keys.queues, keys.queue(queue))
        batches.discard(pipeline, queue)
        pipeline.execute()


def _names(members: Iterable[bytes]) -> list[str]:
    return [member.decode(errors="replace") for member in members]
