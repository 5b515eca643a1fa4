"""Waiting while Redis is away."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from llm_scheduler.jobs.process.connection import AWAY, explain, refusal
from llm_scheduler.jobs.process.termination import Stop

_T = TypeVar("_T")


@dataclass
class Outage:
    """Follows one outage of Redis. It logs the start, a reminder every `REMIND_SECONDS`, and the end.

    A Redis that refuses writes still answers reads: it is back when no write was refused for `CALM_SECONDS`.
    """

    log: logging.Logger
    monotonic: Callable[[], float] = time.monotonic
    report: Callable[[str], None] = lambda status: None  # gets a status line at each failure: the loop is still alive

    REMIND_SECONDS = 30.0
    CALM_SECONDS = 5.0

    def __post_init__(self) -> None:
        self._since: float | None = None
        self._logged_at = 0.0
        self._refused_at = float("-inf")

    @property
    def seconds(self) -> float:
        """How long Redis has been away; 0 while it is there."""
        return 0.0 if self._since is None else self.monotonic() - self._since

    def failed(self, error: Exception) -> float:
        """Note a failure. Returns the seconds to wait before the next try: from 0.1, growing to 2."""
        now = self.monotonic()
        refused = refusal(error) is not None
        if refused:
            self._refused_at = now
        trouble = "refuses writes" if refused else "unreachable"
        if self._since is None:
            self._since = self._logged_at = now
            self.log.warning("Redis %s: %s. Waiting for it; nothing is lost.", trouble, explain(error))
        elif now - self._logged_at >= self.REMIND_SECONDS:
            self._logged_at = now
            self.log.warning("Redis %s for %.0f s: %s. Still waiting.", trouble, now - self._since, explain(error))
        self.report(f"Waits for Redis ({trouble} for {self.seconds:.0f} s): {explain(error)}. Nothing is lost.")
        return min(2.0, 0.1 + self.seconds / 4)

    def over(self) -> None:
        """Note that Redis answers."""
        if self._since is not None and self.monotonic() - self._refused_at >= self.CALM_SECONDS:
            self.log.info("Redis is back after %.0f s.", self.seconds)
            self._since = None


def when_redis_answers(action: Callable[[], _T], outage: Outage, stop: Stop) -> _T | None:
    """The result of `action`, which is tried until Redis answers. None when asked to stop first."""
    while not stop:
        try:
            done = action()
        except AWAY as error:
            stop.wait(outage.failed(error))
        else:
            outage.over()
            return done
    return None
