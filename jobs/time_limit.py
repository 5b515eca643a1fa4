"""A limit on the run time of a block of Python."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(BaseException):
    """The time is up. Not an `Exception`: a handler's `except Exception` must not swallow it."""


def _on_alarm(signum: int, frame: FrameType | None) -> None:
    raise OutOfTime


class TimeLimit:
    """Raises `OutOfTime` in the block after `seconds`, and again each second if the block catches it.

    It uses SIGALRM, so it works only in the main thread. Blocks cannot be nested.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        # A handler may have replaced the signal handler. To check is cheap; to set costs more than most documents.
        if signal.getsignal(signal.SIGALRM) is not _on_alarm:
            signal.signal(signal.SIGALRM, _on_alarm)
        signal.setitimer(signal.ITIMER_REAL, self._seconds, 1.0)

    def __exit__(self, *error: object) -> None:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # the alarm may have gone off just before the line above


@contextmanager
def alarm_handler_kept() -> Iterator[None]:
    """After this block, SIGALRM has the handler that it had before."""
    previous = signal.getsignal(signal.SIGALRM)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, previous)
