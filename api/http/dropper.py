"""Putting accepted documents on disk: those of requests that come together share one sync (invariant 3)."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import NamedTuple

from redis import Redis
from starlette.concurrency import run_in_threadpool

from llm_scheduler.api.state.health import Lookout
from llm_scheduler.ingest.spool.drop import Dropped, drop
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.process.connection import AWAY, explain
from llm_scheduler.jobs.store import ledger

GROUP = 256  # documents at most that share a sync, and their bytes
GROUP_BYTES = 32 * 1024 * 1024

_log = logging.getLogger("llm.api")


class Accepted(NamedTuple):
    """A document, received at epoch seconds `at`."""

    dropped: Dropped
    at: float


class _Waiting(NamedTuple):
    """A request's documents, and where it waits for them to be durable."""

    accepted: list[Accepted]
    durable: asyncio.Future[None]


class Dropper:
    """Writes documents in groups, one group at a time: what comes while one is synced makes the next.

    Of one event loop. A request alone has its own sync at once; five hundred a second share some hundred.
    """

    def __init__(self, config: Config, redis: Redis, lookout: Lookout) -> None:
        self._watch = config.directories.watch[0]
        levels = config.queue.priority_levels
        self._level = levels[len(levels) // 2]  # provisional: ingest routes by what is in the document
        self._handler = config.default_handler
        self._redis = redis
        self._lookout = lookout
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    async def keep(self, accepted: list[Accepted]) -> None:
        """Return once all of `accepted` are durable, and the ledger knows of them if Redis is there.

        Raises OSError when they can't be written; then none of them is.
        """
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(accepted, durable))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        # The client may go away meanwhile: the group is written all the same.
        await asyncio.shield(durable)

    async def _write(self) -> None:
        while self._waiting:
            group = self._next()
            try:
                failures = await run_in_threadpool(self._keep, [each.accepted for each in group])
            except BaseException as error:
                for each in group:
                    _settle(each.durable, error)
                raise
            for each, failure in zip(group, failures, strict=True):
                _settle(each.durable, failure)

    def _next(self) -> list[_Waiting]:
        count = size = 0
        for place, each in enumerate(self._waiting):
            count += len(each.accepted)
            size += sum(len(document.dropped.raw) for document in each.accepted)
            if place and (count > GROUP or size > GROUP_BYTES):
                group, self._waiting = self._waiting[:place], self._waiting[place:]
                return group
        group, self._waiting = self._waiting, []
        return group

    def _keep(self, requests: Sequence[list[Accepted]]) -> list[OSError | None]:
        """Write the documents of all requests, and tell the ledger; what went wrong for each request."""
        failures = self._drop(requests)
        kept = [each for request, failure in zip(requests, failures, strict=True) if not failure for each in request]
        if kept:
            self._record(kept)
        return failures

    def _drop(self, requests: Sequence[list[Accepted]]) -> list[OSError | None]:
        try:
            drop(self._watch, [each.dropped for request in requests for each in request])
        except OSError as error:
            if len(requests) == 1:
                return [error]
            # One that is too large for what is left of the disk must not take the others with it.
            return [failure for request in requests for failure in self._drop([request])]
        return [None] * len(requests)

    def _record(self, accepted: Sequence[Accepted]) -> None:
        """Tell the ledger of documents that it doesn't know yet. Ingest tells it too, so this may fail."""
        entries: list[tuple[str, ledger.Fields]] = [
            (
                each.dropped.id,
                {
                    "priority": self._level,
                    "queue": self._level,
                    "handler": self._handler,
                    "source": each.dropped.source,
                    "size": len(each.dropped.raw),
                    "received_at": int(each.at * 1000),
                },
            )
            for each in accepted
        ]
        try:
            ledger.receive(self._redis, entries)
        except AWAY as error:
            self._lookout.failed()
            _log.warning("Accepted %d document(s) without Redis: %s", len(accepted), explain(error))


def _settle(durable: "asyncio.Future[None]", failure: BaseException | None) -> None:
    if durable.done():
        return
    if failure is None:
        durable.set_result(None)
    else:
        durable.set_exception(failure)
        with contextlib.suppress(BaseException):
            durable.exception()  # a client that has gone doesn't ask, and asyncio would complain
