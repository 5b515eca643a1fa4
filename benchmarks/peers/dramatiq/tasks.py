"""Dramatiq with its Redis broker and no result backend."""

import os

import dramatiq
import work
from dramatiq.brokers.redis import RedisBroker

SPOOL = os.environ["BENCH_SPOOL"]
dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_REDIS"]))


@dramatiq.actor
def finish(source: str) -> None:
    work.finish(SPOOL, source)


def send(sources: list[str]) -> None:
    for source in sources:
        finish.send(source)
