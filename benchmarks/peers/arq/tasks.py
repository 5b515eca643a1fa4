"""arq, without results. It polls its queue: the interval is 0.02 s instead of 0.5 s."""

import asyncio
import os
from typing import Any

import work
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings

SPOOL = os.environ["BENCH_SPOOL"]
_settings = RedisSettings.from_dsn(os.environ["BENCH_REDIS"])
_loop: asyncio.AbstractEventLoop | None = None
_pool: ArqRedis | None = None


async def finish(context: dict[Any, Any], source: str) -> None:
    work.finish(SPOOL, source)


class WorkerSettings:
    functions = (finish,)
    redis_settings = _settings
    max_jobs = 20
    poll_delay = 0.02
    keep_result = 0
    max_tries = 3


def send(sources: list[str]) -> None:
    global _loop, _pool
    if _loop is None or _pool is None:
        _loop = asyncio.new_event_loop()
        _pool = _loop.run_until_complete(create_pool(_settings))
    _loop.run_until_complete(_send(_pool, sources))


async def _send(pool: ArqRedis, sources: list[str]) -> None:
    await asyncio.gather(*(pool.enqueue_job("finish", source) for source in sources))
