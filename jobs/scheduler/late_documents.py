"""The alert for documents that wait in their queue for longer than `processing.queue_timeout`. They are not failed.

A document waits from the moment at which it is put on its queue. Time in a batch, or before a retry, does not count.
"""

import logging
from collections.abc import Sequence

from redis import Redis

from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.store import ledger, waiting_documents
from llm_scheduler.jobs.store.alerts import Event, clear_alert, raise_alert, standing
from llm_scheduler.jobs.store.waiting_documents import OldestDocument

KIND = "queue_timeout"
OVER = "queue_timeout_over"


def check_late(redis: Redis, queues: Sequence[str], limit: float, clock: Clock, log: logging.Logger) -> None:
    """Raise an alert for each queue with late documents, and clear the others. `limit` in seconds; 0: no limit."""
    stand = {name for name, event in standing(redis).items() if event.kind == KIND}
    now = clock.now()
    if limit:
        found = waiting_documents.parse(waiting_documents.ask(redis, queues, now - limit), queues)
        for queue, waiting in found.items():
            if waiting.queued and waiting.queued.late:
                _raise(redis, queue, waiting.queued, limit, now, log)
                stand.discard(_name(queue))
    for name in stand:
        _clear(redis, name, clock.now(), log)


def _raise(redis: Redis, queue: str, oldest: OldestDocument, limit: float, now: float, log: logging.Logger) -> None:
    entry = ledger.get(redis, oldest.id)
    source = entry.source if entry else ""
    waited = now - oldest.since
    documents = "1 document" if oldest.late == 1 else f"{oldest.late} documents"
    message = (
        f"{documents} of {queue} waited longer than queue_timeout ({limit:g} s); "
        f"the oldest, {source} ({oldest.id}), {waited:.0f} s. "
        "Are there enough workers, and do they run? See `llmctl status`."
    )
    details: dict[str, str | int | float] = {
        "queue": queue,
        "count": oldest.late,
        "oldest_id": oldest.id,
        "oldest_source": source,
        "oldest_seconds": round(waited, 1),
        "queue_timeout": limit,
    }
    if raise_alert(redis, _name(queue), Event(kind=KIND, at=now, message=message, details=details)):
        log.warning("%s", message, extra={"queue": queue})


def _clear(redis: Redis, name: str, now: float, log: logging.Logger) -> None:
    queue = name.partition(":")[2]
    message = f"No document of {queue} waits longer than queue_timeout any more."
    if clear_alert(redis, name, Event(kind=OVER, at=now, message=message, details={"queue": queue})):
        log.info("%s", message, extra={"queue": queue})


def _name(queue: str) -> str:
    return f"{KIND}:{queue}"
