"""What Redis knows of the processes and queues, read in few round trips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llm_scheduler.api.state.rollcall import ROLES, words
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.store import batches
from llm_scheduler.jobs.store.submission import queue_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis


def processes(redis: Redis) -> list[dict[str, Any]]:
    """Every role with its word, those that are not running too."""
    said = words(redis)
    shown = []
    for role in ROLES:
        word = said.get(role)
        if word is None:
            shown.append({"name": role, "state": "not running", "pid": None, "host": None, "message": "", "at": None})
        else:
            fields = msgspec.structs.asdict(word)
            shown.append({"name": role, **fields, "at": rfc3339(word.at)})
    return shown


def queues(redis: Redis, levels: Sequence[str]) -> list[dict[str, Any]]:
    """RQ jobs that wait on each queue, and documents that wait for company before they become one."""
    pipeline = redis.pipeline(transaction=False)
    for level in levels:
        pipeline.llen(queue_key(level))
        pipeline.llen(batches.key(level))
    lengths = iter(pipeline.execute())
    return [{"name": level, "jobs": next(lengths), "batched": next(lengths)} for level in levels]
