"""Writes accepted documents into the watch folder. Concurrent requests share one sync (invariant 3)."""

import asyncio
import contextlib
import logging
from typing import NamedTuple

from redis import Redis
from starlette.concurrency import run_in_threadpool

from llm_scheduler.api.state.health import HealthMonitor
from llm_scheduler.ingest.spool.drop import NewDocument, drop
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import Route
from llm_scheduler.jobs.process.connection import AWAY, explain
from llm_scheduler.jobs.store import ledger

MAX_GROUP_DOCUMENTS = 256  # that share a sync
MAX_GROUP_BYTES = 32 * 1024 * 1024

_log = logging.getLogger("llm.api")


class _WriteRequest(NamedTuple):
    """One request's documents, received at epoch seconds `at`, and the future that is done once they are durable."""

    documents: list[NewDocument]
    at: float
    durable: asyncio.Future[None]


class DocumentWriter:
    """Writes documents in groups, one group at a time: documents that arrive during a sync form the next group.

    Belongs to one event loop. A single request is synced at once; 500 requests a second need about 100 syncs.
    """

    def __init__(self, config: Config, redis: Redis, health: HealthMonitor) -> None:
        self._watch = config.directories.watch[0]
        levels = config.queue.priority_levels
        self._level = levels[len(levels) // 2]  # provisional: ingest routes by the content
        self._handler = config.default_handler
        self._redis = redis
        self._health = health
        self._waiting: list[_WriteRequest] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, documents: list[NewDocument], at: float) -> None:
        """Return once all `documents` are durable, and in the ledger if Redis answers. `at`: when they were received.

        Raises OSError when they can't be written; then none of them is.
        """
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_WriteRequest(documents, at, durable))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_groups())
        # The group is written even if the client disconnects meanwhile.
        await asyncio.shield(durable)

    async def _write_groups(self) -> None:
        while self._waiting:
            group = self._next_group()
            try:
                failures = await run_in_threadpool(self._write_group, group)
            except BaseException as error:
                for each in group:
                    _settle(each.durable, error)
                raise
            for each, failure in zip(group, failures, strict=True):
                _settle(each.durable, failure)

    def _next_group(self) -> list[_WriteRequest]:
        count = size = 0
        for place, each in enumerate(self._waiting):
            count += len(each.documents)
            size += sum(len(document.raw) for document in each.documents)
            if place and (count > MAX_GROUP_DOCUMENTS or size > MAX_GROUP_BYTES):
                group, self._waiting = self._waiting[:place], self._waiting[place:]
                return group
        group, self._waiting = self._waiting, []
        return group

    def _write_group(self, requests: list[_WriteRequest]) -> list[OSError | None]:
        """Write the documents of all requests and record them in the ledger. Returns each request's failure."""
        failures = self._drop(requests)
        written = [request for request, failure in zip(requests, failures, strict=True) if not failure]
        if written:
            self._record(written)
        return failures

    def _drop(self, requests: list[_WriteRequest]) -> list[OSError | None]:
        try:
            drop(self._watch, [document for request in requests for document in request.documents])
        except OSError as error:
            if len(requests) == 1:
                return [error]
            # One request that is too large for the disk must not fail the others: each is written alone.
            return [failure for request in requests for failure in self._drop([request])]
        return [None] * len(requests)

    def _record(self, requests: list[_WriteRequest]) -> None:
        """Add documents to the ledger that it doesn't know yet. Ingest does it too, so this may fail."""
        route = Route(priority=self._level, queue=self._level, handler=self._handler, reasons=[])
        entries = [
            (document.id, ledger.document_fields(route, document.source, request.at, size=len(document.raw)))
            for request in requests
            for document in request.documents
        ]
        try:
            ledger.receive(self._redis, entries)
        except AWAY as error:
            self._health.redis_failed()
            _log.warning("Accepted %d document(s) without Redis: %s", len(entries), explain(error))


def _settle(durable: "asyncio.Future[None]", failure: BaseException | None) -> None:
    if durable.done():
        return
    if failure is None:
        durable.set_result(None)
    else:
        durable.set_exception(failure)
        with contextlib.suppress(BaseException):
            durable.exception()  # a request that was cancelled never reads it, and asyncio would log that
