"""What a process tells systemd of itself: that it is ready, what it is doing, and that its loop goes round.

The protocol is sd_notify(3): datagrams of `NAME=value` lines to the socket in `$NOTIFY_SOCKET`. Without that variable
(everywhere but in a unit of `Type=notify`) nothing is sent.
"""

import contextlib
import os
import socket
from collections.abc import MutableMapping

from llm_scheduler.jobs.clock import Clock, SystemClock

_SAY_AGAIN_SECONDS = 1.0  # what it does may change a thousand times a second
_MAX_BYTES = 500


class Notify:
    """Tells systemd, from the loop that does the work: a thread beside it would say that all is well with a loop that
    hangs."""

    def __init__(self, address: str = "", watchdog_seconds: float | None = None, clock: Clock | None = None) -> None:
        """`address` of the socket, `@...` for an abstract one; empty: nothing is sent. `watchdog_seconds`: how long
        systemd waits for a word."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every = watchdog_seconds / 2 if watchdog_seconds else float("inf")
        self._clock = clock or SystemClock()
        self._is_ready = False
        self._said = ""
        self._said_at = self._fed_at = float("-inf")

    @classmethod
    def of(cls, environ: MutableMapping[str, str], clock: Clock) -> "Notify":
        """As systemd asks for it. It takes the variables out of `environ`: what a handler starts has nothing to say."""
        address = environ.pop("NOTIFY_SOCKET", "")
        micros, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_meant = not pid or pid == str(os.getpid())
        return cls(address, int(micros) / 1e6 if micros.isdigit() and is_meant else None, clock)

    def turn(self, status: str) -> None:
        """The loop has come round; it is ready from the first time on. `status`: what it is doing, for people."""
        if not self._address:
            return
        now = self._clock.monotonic()
        lines = []
        if not self._is_ready:
            self._is_ready = True
            lines.append("READY=1")
        if now - self._fed_at >= min(self._every, 60.0) or lines:
            self._fed_at = now
            lines.append("WATCHDOG=1")
        lines += self._changed(status, now, at_once=bool(lines))
        self._send(lines)

    def say(self, status: str) -> None:
        """What it is doing, without a word on its loop."""
        if self._address:
            self._send(self._changed(status, self._clock.monotonic()))

    def stopping(self, status: str = "Stops once it has finished what it has in hand.") -> None:
        """It has been told to stop, and does."""
        if self._address:
            self._send(["STOPPING=1", *self._changed(status, self._clock.monotonic(), at_once=True)])

    def _changed(self, status: str, now: float, *, at_once: bool = False) -> list[str]:
        line = " ".join(status.split())
        if line == self._said or (now - self._said_at < _SAY_AGAIN_SECONDS and not at_once):
            return []
        self._said, self._said_at = line, now
        return [f"STATUS={line.encode()[:_MAX_BYTES].decode(errors='ignore')}"]

    def _send(self, lines: list[str]) -> None:
        if not lines:
            return
        # Whoever listens may be restarting itself: the next word is as good.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), self._address)
