"""What a process tells systemd: that it is ready, what it does, and that its loop is alive.

The protocol is sd_notify(3): datagrams of `NAME=value` lines to the socket in `$NOTIFY_SOCKET`. Without that variable
(everywhere but in a unit of `Type=notify`) nothing is sent.
"""

import contextlib
import os
import socket
from collections.abc import MutableMapping

from llm_scheduler.jobs.clock import Clock, SystemClock

_STATUS_SECONDS = 1.0  # between two status lines: what a process does may change a thousand times a second
_MAX_BYTES = 500


class Notify:
    """Called by the loop that does the work. A thread of its own would report a loop that hangs as alive."""

    def __init__(self, address: str = "", watchdog_seconds: float | None = None, clock: Clock | None = None) -> None:
        """`address` of the socket, `@...` for an abstract one; empty: nothing is sent. `watchdog_seconds`: systemd's
        limit between two signs of life."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every = watchdog_seconds / 2 if watchdog_seconds else float("inf")
        self._clock = clock or SystemClock()
        self._is_ready = False
        self._sent = ""
        self._sent_at = self._fed_at = float("-inf")

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], clock: Clock) -> "Notify":
        """From systemd's variables, which are removed: programs that a handler starts must not notify systemd."""
        address = environ.pop("NOTIFY_SOCKET", "")
        micros, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_meant = not pid or pid == str(os.getpid())
        return cls(address, int(micros) / 1e6 if micros.isdigit() and is_meant else None, clock)

    def alive(self, status: str) -> None:
        """The loop has come round: feed the watchdog. The first call also says that the process is ready."""
        if not self._address:
            return
        now = self._clock.monotonic()
        lines = [] if self._is_ready else ["READY=1"]
        self._is_ready = True
        if now - self._fed_at >= min(self._every, 60.0) or lines:
            self._fed_at = now
            lines.append("WATCHDOG=1")
        lines += self._status_lines(status, now, at_once=bool(lines))
        self._send(lines)

    def status(self, status: str) -> None:
        """Send only what the process does."""
        if self._address:
            self._send(self._status_lines(status, self._clock.monotonic()))

    def stopping(self) -> None:
        if self._address:
            status = "Stops once it has finished what it has in hand."
            self._send(["STOPPING=1", *self._status_lines(status, self._clock.monotonic(), at_once=True)])

    def _status_lines(self, status: str, now: float, *, at_once: bool = False) -> list[str]:
        line = " ".join(status.split())
        if line == self._sent or (now - self._sent_at < _STATUS_SECONDS and not at_once):
            return []
        self._sent, self._sent_at = line, now
        return [f"STATUS={line.encode()[:_MAX_BYTES].decode(errors='ignore')}"]

    def _send(self, lines: list[str]) -> None:
        if not lines:
            return
        # systemd may be restarting itself: the next datagram is as good.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), self._address)
