"""Reads that are shared: whoever asks the same while a read goes on gets the answer of the next one, together.

Nobody is told anything older than their question: a read that had begun before is not shared. Ten dashboards that show
the same page cost Redis what one does.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")


class Shared(Generic[T]):
    """Reads by what they ask for. Of one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[asyncio.Future[T]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, what: Hashable, how: Callable[[], T]) -> T:
        """What `how` gives, called in a thread after now. Raises what it raises."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(what)
        if waiting is not None:
            waiting.append(answer)
        else:
            self._waiting[what] = [answer]
            task = asyncio.create_task(self._serve(what, how))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _serve(self, what: Hashable, how: Callable[[], T]) -> None:
        while waiting := self._waiting[what]:
            self._waiting[what] = []
            try:
                found = await run_in_threadpool(how)
            except BaseException as error:
                for each in waiting:
                    if not each.done():
                        each.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                for each in waiting:
                    if not each.done():
                        each.set_result(found)
        del self._waiting[what]
