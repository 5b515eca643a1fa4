"""The memory that a worker shares with its supervisor."""

import ctypes
import mmap

_NOT_BEGUN = float("inf")
_ENDED = float("-inf")


class _Page(ctypes.Structure):
    _fields_ = (
        ("beat_at", ctypes.c_double),
        ("stop", ctypes.c_bool),
        ("deadline", ctypes.c_double),
        ("activity", ctypes.c_char * 400),
    )


class Pulse:
    """One shared page. The worker writes when its lease thread last ran, and what its loop does and until when. The
    supervisor writes that the worker is to stop, because a handler may have replaced the signal handler.

    The lease thread needs the interpreter lock, and a handler deep in C may hold that for longer than the lease. Such
    a worker is alive: its supervisor sees that the pulse is silent, and renews the lease in its place.
    """

    BEAT_SECONDS = 1.5  # between two renewals of the lease
    SILENT_BEATS = 2.25  # without a beat for so long, the thread counts as held up; the lease has not run out yet

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._page = _Page.from_buffer(self._memory)
        self._page.beat_at = _NOT_BEGUN

    def beat(self, at: float) -> None:
        """The lease thread ran at `at` (monotonic)."""
        self._page.beat_at = at

    def end(self) -> None:
        """The worker has finished its work."""
        self._page.beat_at = _ENDED

    def request_stop(self) -> None:
        self._page.stop = True

    @property
    def stop_requested(self) -> bool:
        return bool(self._page.stop)

    def set_deadline(self, until: float, activity: str = "") -> None:
        """The worker's loop comes round again before monotonic `until`; `activity`: what it does until then."""
        self._page.deadline = until
        if activity:
            self._page.activity = activity.encode()[: _Page.activity.size]

    @property
    def deadline(self) -> float:
        """When the loop comes round at the latest; 0 before the first round."""
        return float(self._page.deadline)

    @property
    def activity(self) -> str:
        """What the worker does, for people: the worker may be writing it at this moment."""
        return bytes(self._page.activity).decode(errors="ignore")

    @property
    def has_begun(self) -> bool:
        """Whether the worker has come so far as to take jobs."""
        return bool(self._page.beat_at != _NOT_BEGUN)

    @property
    def has_ended(self) -> bool:
        return bool(self._page.beat_at == _ENDED)

    def is_silent(self, now: float) -> bool:
        """Whether the lease thread runs, but has missed its beats for a while."""
        return self.silent_in(now) <= 0

    def silent_in(self, now: float) -> float:
        """Seconds until the pulse is silent, unless the thread beats before. It never is before the first beat."""
        at = self._page.beat_at
        return self.SILENT_BEATS * self.BEAT_SECONDS - (now - at if at not in (_NOT_BEGUN, _ENDED) else 0.0)

    def close(self) -> None:
        del self._page  # it holds a reference to the memory
        self._memory.close()
