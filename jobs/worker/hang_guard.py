"""Ends the process when a handler hangs in C code, where Python runs no signal handler."""

import faulthandler
import threading
from collections.abc import Callable
from dataclasses import dataclass

from llm_scheduler.jobs.clock import Clock

_NEVER = float("-inf")


@dataclass
class HangGuard:
    """Exits with a stack dump when a document runs for much longer than its time. Its job is then returned to the
    queue like that of any dead worker.

    The watchdog is a thread of faulthandler, which needs no interpreter lock. To start and stop it for each job took
    30 % of a worker's time (40 % for each document). So it is set again only when its end is wrong by a tenth of the
    grace period; and with `lingers` only `disarm_if_idle` stops it, which another thread calls now and then.
    """

    clock: Clock
    lingers: bool = False
    on_renew: Callable[[float], None] = lambda seconds: None  # called with the seconds of each `renew`

    GRACE_SECONDS = 10.0  # from the end of a document's time until the process exits

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._ends = _NEVER
        self._busy = False

    def renew(self, seconds: float) -> None:
        """What begins now may take `seconds`; the process ends up to a tenth of the grace period earlier."""
        ends = self.clock.monotonic() + seconds
        self.on_renew(seconds)
        with self._lock:
            self._busy = True
            if not 0 <= ends - self._ends < self.GRACE_SECONDS / 10:
                self._ends = ends
                faulthandler.dump_traceback_later(seconds, exit=True)

    def end(self) -> None:
        """Nothing runs now."""
        self._busy = False
        if not self.lingers:
            self.disarm_if_idle()

    def disarm_if_idle(self) -> None:
        """Stop the watchdog, unless something runs."""
        with self._lock:
            if not self._busy and self._ends != _NEVER:
                self._ends = _NEVER
                faulthandler.cancel_dump_traceback_later()
