"""Taskiq with the list broker of taskiq-redis and its default result backend, which stores nothing."""

import asyncio
import os

import work
from taskiq_redis import ListQueueBroker

SPOOL = os.environ["BENCH_SPOOL"]
broker = ListQueueBroker(os.environ["BENCH_REDIS"])
_loop: asyncio.AbstractEventLoop | None = None


# A coroutine, although it blocks: Taskiq runs a plain function in a thread, which is slower.
@broker.task
async def finish(source: str) -> None:
    work.finish(SPOOL, source)


def send(sources: list[str]) -> None:
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        _loop.run_until_complete(broker.startup())
    _loop.run_until_complete(_send(sources))


async def _send(sources: list[str]) -> None:
    await asyncio.gather(*(finish.kiq(source) for source in sources))
