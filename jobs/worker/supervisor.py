"""The keeper of a worker: a small parent that sees how its worker dies, and gives back its work at once.

`llm-worker QUEUE` is the keeper. It forks the worker, which does all the work; it passes on what the worker writes to
stderr and remembers the end of it; it turns a request to stop into one SIGTERM. When the worker dies of anything else,
its job goes back to the queue with the evidence, and a new worker is forked. It has no threads, imports no handlers,
and speaks to Redis only then, and when its worker is too busy to (docs/decisions/0006-worker-keeper.md).
"""

import contextlib
import logging
import mmap
import os
import random
import select
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from redis import Redis

from llm_scheduler.jobs.clock import Clock, rfc3339
from llm_scheduler.jobs.crash import Evidence, ending, evidence_of
from llm_scheduler.jobs.process import liveness
from llm_scheduler.jobs.process.connection import AWAY, connect
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.process.startup import tie_to
from llm_scheduler.jobs.worker.reaper import Reaper

# A worker's lease: how often it is renewed, and for how long. From the death of a whole machine until its work runs
# elsewhere it takes the lease, the reaper's grace and the two looks around it: 9 s at most.
BEAT_SECONDS = 1.5
LEASE_SECONDS = 4
_SILENT_BEATS = 2.25  # after which a worker counts as held up: the lease has some time left then
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
BACK_OFF_SECONDS = 0.2  # before a new worker is started
MAX_BACK_OFF = 10.0  # when one after the other dies without having had work
_LONG_LIFE = 10.0  # a worker that lived so long had a good start
_ANSWER_SECONDS = 2.0  # the keeper can't wait long for Redis: the worker's stderr waits for it
_RETRY_SECONDS = 1.0
_GIVE_UP_SECONDS = 30.0  # the reaper has found the work without the keeper long before
_PARTING_SECONDS = 5.0  # how long a keeper that is to stop goes on trying
_BEGINNING_SECONDS = 0.1  # so often it looks whether a new worker has begun: systemd waits for that
_LEAVE_SECONDS = 2.0  # that a worker with nothing in hand has to leave
_TAIL_BYTES = 16 * 1024
EXIT_RESTART = 75  # of a worker that ends for its keeper to be started anew, too (EX_TEMPFAIL of sysexits.h)


class Pulse:
    """A page of memory that worker and keeper share. In it the worker says that its lease thread runs, and the keeper
    that the worker is to stop, beside the signal, which a handler may have caught.

    The thread needs the interpreter lock. A handler that is deep in C may hold it for longer than the lease, and is
    no dead worker for that: then the keeper renews the lease instead.
    """

    _NOBODY = float("inf")
    _ASKED_AT = 8  # behind the moment of the beat
    _PROMISE_AT = 16
    _WORDS_AT = 24  # their length, and then they themselves
    _MAX_WORDS = 400

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._write(self._NOBODY)

    def beat(self, at: float) -> None:
        """The lease thread ran at `at` (monotonic)."""
        self._write(at)

    def end(self) -> None:
        """The worker has said goodbye."""
        self._write(-self._NOBODY)

    def ask(self) -> None:
        """The worker is to stop."""
        self._page[self._ASKED_AT] = 1

    @property
    def is_asked(self) -> bool:
        return self._page[self._ASKED_AT] == 1

    def promise(self, until: float, words: str = "") -> None:
        """The worker's loop will come round again before monotonic `until`; `words`: what it does meanwhile."""
        struct.pack_into("d", self._page, self._PROMISE_AT, until)
        if words:
            text = words.encode()[: self._MAX_WORDS]
            struct.pack_into(f"H{len(text)}s", self._page, self._WORDS_AT, len(text), text)

    @property
    def promised(self) -> float:
        """Until when it will have come round; 0 before the first time."""
        until: float = struct.unpack_from("d", self._page, self._PROMISE_AT)[0]
        return until

    @property
    def words(self) -> str:
        """What it does. The worker may be writing it: this is for people."""
        length = min(struct.unpack_from("H", self._page, self._WORDS_AT)[0], self._MAX_WORDS)
        return self._page[self._WORDS_AT + 2 : self._WORDS_AT + 2 + length].decode(errors="ignore")

    @property
    def has_begun(self) -> bool:
        """Whether the worker has come so far as to take jobs."""
        return self._read() != self._NOBODY

    @property
    def has_ended(self) -> bool:
        return self._read() == -self._NOBODY

    def is_silent(self, now: float) -> bool:
        """Whether the lease thread has begun, and has missed its time for a while."""
        return self.silent_in(now) <= 0

    def silent_in(self, now: float) -> float:
        """In how many seconds it will be, if it doesn't beat meanwhile; a thread that hasn't begun has all the time."""
        at = self._read()
        return _SILENT_BEATS * BEAT_SECONDS - (now - at if abs(at) != self._NOBODY else 0.0)

    def _read(self) -> float:
        at: float = struct.unpack_from("d", self._page)[0]
        return at

    def _write(self, at: float) -> None:
        struct.pack_into("d", self._page, 0, at)

    def close(self) -> None:
        self._page.close()


@dataclass
class _Kept:
    """The worker as its keeper knows it. `idle_since`: from when on it has had nothing to do but to leave;
    `dismissed`: it did not, and its keeper has ended it."""

    name: str
    pid: int
    pulse: Pulse
    stderr: int
    began: float
    renewed: float = float("-inf")
    idle_since: float | None = None
    dismissed: bool = False
    tail: bytes = b""


@dataclass
class _Owed:
    """A death whose work has not been handed back yet."""

    evidence: Evidence
    since: float


# Runs in the worker's process until it is to stop: its name, and the pulse to keep. Returns the exit status.
Work = Callable[[str, Pulse], int]


class Keeper:
    """Keeps one worker of `queue` running until told to stop. There may be no thread before `run`, which forks."""

    def __init__(
        self,
        queue: str,
        url: str,
        clock: Clock,
        log: logging.Logger,
        *,
        quotes: bool = True,
        notify: Notify | None = None,
    ) -> None:
        """`quotes`: whether evidence of a death may quote what its handler printed."""
        self._notify = notify or Notify()
        self._queue = queue
        self._url = url
        self._clock = clock
        self._log = log
        self._pid = 0
        self._pulse: Pulse | None = None  # of the worker `_pid`
        self._quotes = quotes
        self._stopping = False
        self._owed: list[_Owed] = []
        self._next_try = float("-inf")
        self._wake, self._woken = os.pipe()

    def run(self, work: Work) -> int:
        """Returns 0 once the worker has stopped as asked, 1 when it died instead. Expects `STOP_SIGNALS` blocked."""
        self._listen()
        pause = BACK_OFF_SECONDS
        status = 0
        while (kept := self._start(work)) is not None:
            code, peak = self._attend(kept)
            stopped_well = kept.pulse.has_ended or kept.dismissed
            kept.pulse.close()
            if code == EXIT_RESTART and stopped_well:
                break
            if not stopped_well:
                self._owe(kept, code, peak)
                status = int(self._stopping)
            elif code and not kept.dismissed:
                self._log.warning("Worker %s had stopped well, and ended with %d all the same", kept.name, code)
            elif not self._stopping:
                self._log.info("Worker %s was stopped by somebody else; another one is started", kept.name)
            had_work = self._settle() > 0
            lived = self._clock.monotonic() - kept.began
            pause = BACK_OFF_SECONDS if had_work or lived >= _LONG_LIFE else min(MAX_BACK_OFF, pause * 2)
            self._pause(pause)
        self._part()
        return status

    # Signals

    def _listen(self) -> None:
        for end in (self._wake, self._woken):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)  # a signal without a handler wakes nobody
        for each in STOP_SIGNALS:
            signal.signal(each, self._asked)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        if not self._stopping:
            self._stopping = True
            self._notify.stopping()
            if self._pid and self._pulse:
                self._pulse.ask()
                os.kill(self._pid, signal.SIGTERM)

    # The worker

    def _start(self, work: Work) -> _Kept | None:
        """Fork a worker; None when told to stop. A request to stop comes before the fork, or reaches the worker."""
        keeper = os.getpid()
        nonce = f"{random.randrange(16**4):04x}"  # noqa: S311 - a name, not a secret
        while True:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            if self._stopping:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
                return None
            pulse = Pulse()
            read, write = os.pipe()
            try:
                pid = os.fork()
            except OSError as error:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
                os.close(read)
                os.close(write)
                self._log.error("A worker could not be started: %s", error)
                self._pause(MAX_BACK_OFF)
                continue
            if pid == 0:
                self._leave_keeping(keeper, read, write)
                raise SystemExit(work(self._name(os.getpid(), nonce), pulse))
            self._pid, self._pulse = pid, pulse
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            os.close(write)
            os.set_blocking(read, False)
            return _Kept(self._name(pid, nonce), pid, pulse, read, self._clock.monotonic())

    def _name(self, pid: int, nonce: str) -> str:
        return f"{self._queue}-{socket.gethostname()}-{pid}-{nonce}"

    def _leave_keeping(self, keeper: int, read: int, write: int) -> None:
        """In the worker: nothing of the keeper's stays, but its name as a parent. The signals are still blocked."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(write, 2)
        for descriptor in (read, write, self._wake, self._woken):
            os.close(descriptor)
        tie_to(keeper, signal.SIGKILL)

    def _attend(self, kept: _Kept) -> tuple[int, int]:
        """Until the worker has ended; returns its exit code (as `waitstatus_to_exitcode`) and peak memory in bytes."""
        while (ended := self._reaped()) is None:
            self._wait(self._patience(kept), kept)
            self._renew(kept)
            self._vouch(kept)
            self._dismiss(kept)
            self._settle()
        while self._relay(kept):
            pass
        if kept.stderr >= 0:
            os.close(kept.stderr)
        return ended

    def _patience(self, kept: _Kept) -> float:
        """How long nothing has to be looked at, if nobody says a word."""
        if not kept.pulse.promised:
            return _BEGINNING_SECONDS
        silent_in = kept.pulse.silent_in(self._clock.monotonic())
        return silent_in if silent_in > 0 and not self._owed else BEAT_SECONDS

    def _vouch(self, kept: _Kept) -> None:
        """Tell systemd of the worker, for as long as its loop comes round when it said that it would."""
        promised = kept.pulse.promised
        if not promised:
            return  # it imports its handlers
        late = self._clock.monotonic() - promised
        if late <= 0:
            self._notify.turn(kept.pulse.words)
        else:
            self._notify.say(f"Its loop is {late:.0f} s late. It was to: {kept.pulse.words}")

    def _dismiss(self, kept: _Kept) -> None:
        """End a worker that has nothing in hand, is to leave and doesn't: a thread of a handler's keeps Python from
        ending, or the import of a handler doesn't come to an end."""
        now = self._clock.monotonic()
        if not kept.pulse.has_ended and (kept.pulse.has_begun or not self._stopping):
            kept.idle_since = None
        elif kept.idle_since is None:
            kept.idle_since = now
        elif now - kept.idle_since >= _LEAVE_SECONDS and not kept.dismissed:
            what = (
                "has stopped, but its process goes on" if kept.pulse.has_ended else "has not begun, and does not stop"
            )
            self._log.warning("Worker %s %s (threads or an import of its handlers?); it is ended", kept.name, what)
            kept.dismissed = True
            os.kill(kept.pid, signal.SIGKILL)

    def _reaped(self) -> tuple[int, int] | None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # a request to stop must not go to a freed process id
        try:
            pid, status, usage = os.wait4(self._pid, os.WNOHANG)
            if pid == 0:
                return None
            self._pid = 0
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024

    def _wait(self, seconds: float, kept: _Kept | None = None) -> None:
        """Until a signal comes or `seconds` are over; what the worker writes meanwhile is passed on."""
        watched = [self._wake] + ([kept.stderr] if kept and kept.stderr >= 0 else [])
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        if kept and kept.stderr in ready:
            self._relay(kept)

    def _relay(self, kept: _Kept) -> bool:
        """Pass on what is there of the worker's stderr. False when nothing was."""
        if kept.stderr < 0:
            return False
        try:
            chunk = os.read(kept.stderr, _TAIL_BYTES)
        except BlockingIOError:
            return False
        if not chunk:  # the worker has closed it
            os.close(kept.stderr)
            kept.stderr = -1
            return False
        kept.tail = (kept.tail + chunk)[-_TAIL_BYTES:]
        with contextlib.suppress(OSError):  # nobody reads it any more
            while chunk:
                chunk = chunk[os.write(2, chunk) :]
        return True

    def _pause(self, seconds: float) -> None:
        """Until the next start, or until told to stop."""
        until = self._clock.monotonic() + seconds
        while not self._stopping and (left := until - self._clock.monotonic()) > 0:
            self._wait(left)

    # Redis

    def _renew(self, kept: _Kept) -> None:
        """Renew the lease of a worker whose own thread is held up. One that is frozen gets none: its work goes on."""
        now = self._clock.monotonic()
        if not kept.pulse.is_silent(now) or now - kept.renewed < BEAT_SECONDS or liveness.is_stopped(kept.pid):
            return
        kept.renewed = now
        key = f"rq:worker:{kept.name}"
        with contextlib.suppress(*AWAY), self._redis() as redis, redis.pipeline() as pipeline:
            # Without its birth (Redis has been emptied, or was away for too long) the worker would count as dead.
            pipeline.hsetnx(key, "birth", rfc3339(self._clock.now()))
            pipeline.hset(key, "last_heartbeat", rfc3339(self._clock.now()))
            pipeline.expire(key, LEASE_SECONDS)
            pipeline.execute()

    def _owe(self, kept: _Kept, code: int, peak: int) -> None:
        evidence = evidence_of(kept.name, rfc3339(self._clock.now()), code, peak, kept.tail, quotes=self._quotes)
        self._log.error(
            "Worker %s died %s; peak memory %.0f MB. Its work goes back to the queue.",
            kept.name,
            ending(evidence),
            peak / 1e6,
        )
        self._owed.append(_Owed(evidence, self._clock.monotonic()))
        self._next_try = float("-inf")

    def _settle(self) -> int:
        """Hand back the work of the dead, or try again later; returns how many jobs were handed back."""
        now = self._clock.monotonic()
        if not self._owed or now < self._next_try:
            return 0
        taken = 0
        try:
            with self._redis() as redis:
                reaper = Reaper(redis, [self._queue], self._clock, self._log)
                while self._owed:
                    taken += reaper.take_from(self._owed[0].evidence.worker, self._owed[0].evidence)
                    del self._owed[0]
        except AWAY:
            self._next_try = now + _RETRY_SECONDS
            self._owed = [owed for owed in self._owed if now - owed.since < _GIVE_UP_SECONDS]
        except Exception:
            self._log.exception("The work of a dead worker could not be handed back; the reaper will find it")
            self._owed.clear()
        return taken

    def _part(self) -> None:
        """Hand back what is owed before leaving, if Redis lets us."""
        until = self._clock.monotonic() + _PARTING_SECONDS
        while self._owed and self._clock.monotonic() < until:
            self._settle()
            if self._owed:
                self._wait(_RETRY_SECONDS / 2)

    def _redis(self) -> contextlib.closing[Redis]:
        return contextlib.closing(connect(self._url, _ANSWER_SECONDS))
