"""What Redis knows of the processes and queues, read in few round trips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from api.rollcall import ROLES, words
from jobs import batch
from jobs.clock import rfc3339
from jobs.submission import queue_key

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
        pipeline.llen(batch.key(level))
    lengths = iter(pipeline.execute())
    return [{"name": level, "jobs": next(lengths), "batched": next(lengths)} for level in levels]
