"""How a process is told to stop: by SIGTERM or SIGINT, or because its parent died."""

import contextlib
import ctypes
import os
import select
import signal
import sys
from types import FrameType
from typing import Any

# `llmctl up` sets it for the processes it starts.
PARENT_VARIABLE = "LLM_PARENT_PID"

_PR_SET_PDEATHSIG = 1  # prctl(2)
_DEFAULTS: dict[signal.Signals, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}


class Stop:
    """A request to stop: signals set it, and loops check it. No signal handler raises an exception.

    The handler only assigns and writes to a pipe. `threading.Event.set` would not do: it takes a lock, and a second
    signal that arrives during the first one's `set` waits for that lock forever. (This has happened.)
    """

    def __init__(self) -> None:
        self._requested = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def __bool__(self) -> bool:
        return self._requested

    def set(self) -> None:
        self._requested = True
        self.wake()

    def wake(self) -> None:
        """End the current or the next `wait` without a request to stop. Signal handlers may call it."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full of earlier calls
            os.write(self._write, b"s")

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds`; `wake` and `set` end the wait early. Returns whether to stop."""
        if self:
            return True
        if select.select([self._read], [], [], max(0.0, seconds))[0] and not self:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
            if self:  # set meanwhile: the byte may have been meant for another waiting thread
                self.wake()
        return bool(self)

    def handle_signals(self) -> None:
        """Let SIGTERM and SIGINT set this flag."""
        for each in _DEFAULTS:
            if signal.getsignal(each) != self._on_signal:
                signal.signal(each, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.set()

    def restore_signals(self) -> None:
        """Give SIGTERM and SIGINT their default handlers back, unless others have been set."""
        for each, default in _DEFAULTS.items():
            if signal.getsignal(each) == self._on_signal:
                signal.signal(each, default)

    def __del__(self) -> None:
        for descriptor in (self._read, self._write):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def signal_on_parent_death(parent: int, number: signal.Signals) -> None:
    """Receive signal `number` when process `parent` dies, which started this one (prctl(2); Linux only)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        raise SystemExit(0)
