"""RQ, for both kinds of worker. Results and failures are not kept."""

import os

import work
from redis import Redis
from rq import Queue

SPOOL = os.environ["BENCH_SPOOL"]
queue = Queue("default", connection=Redis.from_url(os.environ["BENCH_REDIS"]))


def finish(source: str) -> None:
    work.finish(SPOOL, source)


def send(sources: list[str]) -> None:
    jobs = [Queue.prepare_data(finish, (source,), result_ttl=0, failure_ttl=0) for source in sources]
    queue.enqueue_many(jobs)
