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
        self._waiting: dict[Hashable, list[asyncio.Future[T]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, key: Hashable, function: Callable[[], T]) -> T:
        """The result of `function`, called in a thread after this moment. Raises what it raises."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(answer)
        else:
            self._waiting[key] = [answer]
            task = asyncio.create_task(self._serve(key, function))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _serve(self, key: Hashable, function: Callable[[], T]) -> None:
        while waiting := self._waiting[key]:
            self._waiting[key] = []
            try:
                result = await run_in_threadpool(function)
            except BaseException as error:
                for each in waiting:
                    if not each.done():
                        each.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                for each in waiting:
                    if not each.done():
                        each.set_result(result)
        del self._waiting[key]
