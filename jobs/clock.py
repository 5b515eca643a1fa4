"""Time as a parameter: code that depends on it gets a `Clock`, so that a test can set the time."""

import math
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the Unix epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back. Only differences have a meaning."""
        ...


class SystemClock:
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


def rfc3339(epoch: float) -> str:
    """An epoch time as RFC 3339 UTC with milliseconds: `2026-11-23T09:30:00.125Z`."""
    milliseconds = math.floor(epoch * 1000 + 1e-3)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=64)
def _second(epoch: int) -> str:
    """Cached: thousands of documents share a second, and to format a date takes ten microseconds."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%S")
