"""Waiting while Redis is away."""

import logging
import time
from collections.abc import Callable

from redis import Redis

from llm_scheduler.jobs.process.connection import AWAY, explain, refusal
from llm_scheduler.jobs.process.termination import Stop


class Outage:
    """Follows one outage of Redis. It logs the start, a reminder every `REMIND_SECONDS`, and the end.

    A Redis that refuses writes still answers reads. Such an outage is over when no write was refused for
    `CALM_SECONDS`.
    """

    REMIND_SECONDS = 30.0
    CALM_SECONDS = 5.0

    def __init__(
        self,
        log: logging.Logger,
        monotonic: Callable[[], float] = time.monotonic,
        report: Callable[[str], None] = lambda status: None,
    ) -> None:
        """`report` receives a status line at each failure: the loop that waits is still alive."""
        self._log = log
        self._report = report
        self._monotonic = monotonic
        self._since: float | None = None
        self._logged_at = 0.0
        self._refused_at = float("-inf")

    @property
    def seconds(self) -> float:
        """How long Redis has been away; 0 while it is there."""
        return 0.0 if self._since is None else self._monotonic() - self._since

    def failed(self, error: Exception) -> float:
        """Note a failure. Returns the seconds to wait before the next try: from 0.1, growing to 2."""
        now = self._monotonic()
        refused = refusal(error) is not None
        if refused:
            self._refused_at = now
        trouble = "refuses writes" if refused else "unreachable"
        if self._since is None:
            self._since = self._logged_at = now
            self._log.warning("Redis %s: %s. Waiting for it; nothing is lost.", trouble, explain(error))
        elif now - self._logged_at >= self.REMIND_SECONDS:
            self._logged_at = now
            self._log.warning("Redis %s for %.0f s: %s. Still waiting.", trouble, now - self._since, explain(error))
        self._report(f"Waits for Redis ({trouble} for {self.seconds:.0f} s): {explain(error)}. Nothing is lost.")
        return min(2.0, 0.1 + self.seconds / 4)

    def over(self) -> None:
        """Note that Redis answers."""
        if self._since is not None and self._monotonic() - self._refused_at >= self.CALM_SECONDS:
            self._log.info("Redis is back after %.0f s.", self.seconds)
            self._since = None


def await_redis(redis: Redis, outage: Outage, stop: Stop) -> bool:
    """Wait until Redis answers. False when asked to stop first."""
    while not stop:
        try:
            redis.ping()
        except AWAY as error:
            stop.wait(outage.failed(error))
        else:
            outage.over()
            return True
    return False
