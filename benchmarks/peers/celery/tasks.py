"""Celery with the Redis transport: no result backend, no events, acknowledged early (its default, the cheapest)."""

import os

import work
from celery import Celery

SPOOL = os.environ["BENCH_SPOOL"]
app = Celery(
    "tasks", broker=os.environ["BENCH_REDIS"].replace("unix://", "redis+socket://").replace("?db=", "?virtual_host=")
)
app.conf.update(
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_send_task_events=False,
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
    task_compression=None,
)


@app.task(name="finish")
def finish(source: str) -> None:
    work.finish(SPOOL, source)


def send(sources: list[str]) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for source in sources:
            finish.apply_async((source,), producer=producer)
