"""Huey with Redis, without results."""

import os

import work
from huey import RedisHuey

SPOOL = os.environ["BENCH_SPOOL"]
huey = RedisHuey("bench", url=os.environ["BENCH_REDIS"], results=False)


@huey.task()
def finish(source: str) -> None:
    work.finish(SPOOL, source)


def send(sources: list[str]) -> None:
    for source in sources:
        finish(source)
