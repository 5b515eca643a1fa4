"""Shared reads: callers that ask for the same thing while a read runs share the next read.

No caller gets an answer that is older than its request: a read that had already begun is not shared. Ten dashboards
that show the same page cost Redis as much as two reads.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")


class SharedReads(Generic[T]):
    """Reads by key. Belongs to one event loop."""

    def __init__(self) -> None:
        self._next: dict[Hashable, asyncio.Future[T]] = {}  # the answers of reads that have not begun
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}

    async def read(self, key: Hashable, function: Callable[[], T]) -> T:
        """The result of `function`, called in a thread after this moment. Raises what it raises."""
        if key not in self._next:
            self._next[key] = asyncio.get_running_loop().create_future()
            if key not in self._tasks:
                self._tasks[key] = asyncio.create_task(self._serve(key, function))
        return await asyncio.shield(self._next[key])  # a caller that is cancelled leaves the answer to the others

    async def _serve(self, key: Hashable, function: Callable[[], T]) -> None:
        while answer := self._next.pop(key, None):
            try:
                answer.set_result(await run_in_threadpool(function))
            except BaseException as error:
                answer.set_exception(error)
                answer.exception()  # asyncio would log it if all callers were cancelled
                if not isinstance(error, Exception):
                    raise
        del self._tasks[key]
