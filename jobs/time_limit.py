"""A bound on how long a block of Python may run."""

import signal
from types import FrameType


class OutOfTime(BaseException):
    """The time is up. Not an `Exception`, so that a handler's `except Exception` doesn't swallow it."""


def _ring(signum: int, frame: FrameType | None) -> None:
    raise OutOfTime


class TimeLimit:
    """Raises `OutOfTime` in the block after `seconds`, and again each second while it is swallowed.

    For the main thread: it uses SIGALRM. Blocks don't nest.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        # To ask is cheap and to set costs more than most documents. A handler may have set it for its own purposes.
        if signal.getsignal(signal.SIGALRM) is not _ring:
            signal.signal(signal.SIGALRM, _ring)
        signal.setitimer(signal.ITIMER_REAL, self._seconds, 1.0)

    def __exit__(self, *error: object) -> None:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # again: the alarm may have gone off at the very line above
