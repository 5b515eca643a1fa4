"""What Redis knows of the processes and queues, read in few round trips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from api.fleet import living_workers
from jobs import batch
from jobs.clock import rfc3339
from jobs.submission import queue_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

ROLES = ("ingest", "collector")


class Word(msgspec.Struct):
    """What a daemon says of itself."""

    pid: int = 0
    host: str = ""
    state: str = ""
    message: str = ""
    at: float = 0.0


def words(redis: Redis) -> dict[str, Word]:
    """Each daemon's own word, by role; a daemon that is not running has none."""
    found: dict[str, Word] = {}
    for role, raw in zip(ROLES, redis.mget([f"llm:process:{role}" for role in ROLES]), strict=True):
        if raw is not None:
            try:
                found[role] = msgspec.json.decode(raw, type=Word)
            except msgspec.DecodeError:
                found[role] = Word(state="unknown", message="its word in Redis can't be read")
    return found


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


def missing(redis: Redis, levels: Sequence[str]) -> list[str]:
    """Which of the parts that a document needs on its way are not running, by the names of their programs."""
    said = words(redis)
    manned = {worker["queue"] for worker in living_workers(redis)}
    absent = [f"llm-{role}" for role in ROLES if role not in said]
    return absent + [f"llm-worker {level}" for level in levels if level not in manned]
