"""The state of a process and its host: memory, processor, load and free disk space."""

import contextlib
import os
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec
import psutil  # type: ignore[import-untyped]

from llm_scheduler.jobs.clock import Clock

_T = TypeVar("_T")


class HostVitals(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A host at epoch seconds `at`; None for what is not known.

    `cpu` (since the last reading) and `memory` are in percent of the host's. `load` is the load average of the last
    minute. `disk_free` and `disk_total` are bytes of the file system with the spool.
    """

    at: float = 0.0
    cpu: float | None = None
    memory: float | None = None
    load: float | None = None
    disk_free: int | None = None
    disk_total: int | None = None


class OwnVitals(NamedTuple):
    """This process: its memory in bytes, and its processor time since the last reading in percent of one core."""

    rss: int | None
    cpu: float | None


# A sandbox may hide all of /proc but the entries of the process itself.
_UNAVAILABLE = (psutil.Error, OSError, ValueError, NotImplementedError)


class Vitals:
    """Readings, from any thread. The first has no processor use, which is measured between two readings."""

    def __init__(self, clock: Clock, spool: str | None = None) -> None:
        """`spool`: a folder of the spool, if its free space is wanted."""
        self._clock = clock
        self._spool = spool
        self._host: tuple[float, float] | None = None
        self._own: tuple[float, float] | None = None

    def host(self) -> HostVitals:
        disk = _reading(lambda: psutil.disk_usage(self._spool)) if self._spool is not None else None
        return HostVitals(
            at=self._clock.now(),
            cpu=_reading(self._host_cpu),
            memory=_reading(lambda: float(psutil.virtual_memory().percent)),
            load=_reading(lambda: round(os.getloadavg()[0], 2)),
            disk_free=disk.free if disk else None,
            disk_total=disk.total if disk else None,
        )

    def own(self) -> OwnVitals:
        spent, at = time.process_time(), self._clock.monotonic()
        before, self._own = self._own, (spent, at)
        passed = at - before[1] if before else 0.0
        cpu = round(100 * (spent - before[0]) / passed, 1) if before and passed > 0 else None
        return OwnVitals(_reading(lambda: int(psutil.Process().memory_info().rss)), cpu)

    def _host_cpu(self) -> float | None:
        # Not psutil.cpu_percent, which keeps its last reading for each thread.
        times = psutil.cpu_times()
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy = total - times.idle - getattr(times, "iowait", 0.0)
        before, self._host = self._host, (busy, total)
        if before and total > before[1]:
            return round(float(min(100.0, max(0.0, 100 * (busy - before[0]) / (total - before[1])))), 1)
        return None


def _reading(read: Callable[[], _T]) -> _T | None:
    with contextlib.suppress(*_UNAVAILABLE):
        return read()
    return None
