"""How a process and its host are: memory, processor, load and room on the disk, as far as the system tells."""

import contextlib
import os
import time
from typing import NamedTuple

import msgspec
import psutil  # type: ignore[import-untyped]

from llm_scheduler.jobs.clock import Clock


class HostVitals(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A host at epoch seconds `at`; what isn't known is None.

    `cpu` (since the look before) and `memory` are percent of all there is, `load` is the average number of processes
    that ran or wanted to in the last minute, and the disk's figures are bytes of the file system that holds the spool.
    """

    at: float = 0.0
    cpu: float | None = None
    memory: float | None = None
    load: float | None = None
    disk_free: int | None = None
    disk_total: int | None = None


class OwnVitals(NamedTuple):
    """This process: its memory in bytes, and its processor time since the look before in percent of one core."""

    rss: int | None
    cpu: float | None


# What the system says when it doesn't tell: a sandbox may hide all of /proc but the process's own.
_UNTOLD = (psutil.Error, OSError, ValueError, NotImplementedError)


class Vitals:
    """Looks now and then, from any thread. The first look knows no processor's use, which lies between two."""

    def __init__(self, clock: Clock, spool: str | None = None) -> None:
        """`spool`: a folder of it, for who works on it."""
        self._clock = clock
        self._spool = spool
        self._host: tuple[float, float] | None = None
        self._own: tuple[float, float] | None = None

    def host(self) -> HostVitals:
        """The host now."""
        free, total = self._disk()
        return HostVitals(
            at=self._clock.now(), cpu=self._host_cpu(), memory=_memory(), load=_load(), disk_free=free, disk_total=total
        )

    def own(self) -> OwnVitals:
        """This process now."""
        spent, at = time.process_time(), self._clock.monotonic()
        before, self._own = self._own, (spent, at)
        passed = at - before[1] if before else 0.0
        cpu = round(100 * (spent - before[0]) / passed, 1) if before and passed > 0 else None
        return OwnVitals(_rss(), cpu)

    def _host_cpu(self) -> float | None:
        # Not psutil.cpu_percent, which remembers its last look by thread.
        with contextlib.suppress(*_UNTOLD):
            times = psutil.cpu_times()
            total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
            busy = total - times.idle - getattr(times, "iowait", 0.0)
            before, self._host = self._host, (busy, total)
            if before and total > before[1]:
                return round(float(min(100.0, max(0.0, 100 * (busy - before[0]) / (total - before[1])))), 1)
        return None

    def _disk(self) -> tuple[int | None, int | None]:
        if self._spool is not None:
            with contextlib.suppress(*_UNTOLD):
                usage = psutil.disk_usage(self._spool)
                return usage.free, usage.total
        return None, None


def _memory() -> float | None:
    with contextlib.suppress(*_UNTOLD):
        return float(psutil.virtual_memory().percent)
    return None


def _load() -> float | None:
    with contextlib.suppress(*_UNTOLD):
        return round(os.getloadavg()[0], 2)
    return None


def _rss() -> int | None:
    with contextlib.suppress(*_UNTOLD):
        return int(psutil.Process().memory_info().rss)
    return None
