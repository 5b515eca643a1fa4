"""The supervisor of a worker: a small parent process that returns its worker's job to the queue when the worker dies.

It forks the worker, copies its stderr and keeps the last part, and turns requests to stop into one SIGTERM. When the
worker dies, the supervisor puts its job back on the queue, with a crash report, and forks a new worker. It has no
threads and imports no handlers. It speaks to Redis only after a death, or to renew the lease of a worker that is too
busy to do so itself (docs/decisions/0006-worker-supervisor.md).
"""

import contextlib
import logging
import os
import random
import select
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

from redis import Redis

from llm_scheduler.jobs.clock import Clock, rfc3339
from llm_scheduler.jobs.crash import CrashReport, crash_report, describe_end
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.process import liveness
from llm_scheduler.jobs.process.connection import AWAY, connect
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.process.termination import signal_on_parent_death
from llm_scheduler.jobs.worker import lease
from llm_scheduler.jobs.worker.pulse import Pulse
from llm_scheduler.jobs.worker.reaper import Reaper

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BACK_OFF_SECONDS = 0.2  # before a new worker is started
_MAX_BACK_OFF = 10.0  # when workers die one after the other and none had work
_LONG_LIFE = 10.0  # a worker that lived so long started well
_ANSWER_SECONDS = 2.0  # for Redis to answer: meanwhile the worker's stderr is not read
_RETRY_SECONDS = 1.0
_GIVE_UP_SECONDS = 30.0  # the scheduler's reaper has found the work long before
_EXIT_SECONDS = 5.0  # for a stopping supervisor to return work
_START_CHECK_SECONDS = 0.1  # between two checks whether a new worker has begun: systemd waits for that
_LEAVE_SECONDS = 2.0  # how long a worker with nothing to do may take to exit
_TAIL_BYTES = 16 * 1024


@dataclass
class _WorkerProcess:
    """`idle_since`: since when the worker has had nothing to do but exit. `killed`: it did not, and was killed.
    `tail`: the last part of its stderr."""

    name: str
    pid: int
    pulse: Pulse
    stderr: int
    started: float
    renewed: float = float("-inf")
    idle_since: float | None = None
    killed: bool = False
    tail: bytes = b""


# The worker process: gets its name and its pulse, runs until it is to stop, and returns the exit status.
WorkerFunction = Callable[[str, Pulse], int]


@dataclass
class WorkerSupervisor:
    """Keeps one worker of `queue` running until asked to stop. It forks, so no thread may run before `run`."""

    queue: str
    url: str
    clock: Clock
    log: logging.Logger
    quotes: bool = True  # whether a crash report may quote what the handler printed
    notify: Notify = field(default_factory=Notify)

    def __post_init__(self) -> None:
        self._pid = 0
        self._pulse: Pulse | None = None  # of the worker `_pid`
        self._stopping = False
        self._deaths: list[tuple[CrashReport, float]] = []  # whose work is not returned yet, and since when
        self._next_try = float("-inf")
        self._wake_read, self._wake_write = os.pipe()

    def run(self, work: WorkerFunction) -> int:
        """Returns 0 when the worker stopped as asked, 1 when it died instead. `STOP_SIGNALS` must be blocked before."""
        self._handle_signals()
        pause = _BACK_OFF_SECONDS
        status = 0
        while (worker := self._fork(work)) is not None:
            code, peak = self._watch(worker)
            stopped_well = worker.pulse.has_ended or worker.killed
            worker.pulse.close()
            if code == ExitCode.RESTART and stopped_well:
                break
            if not stopped_well:
                self._record_death(worker, code, peak)
                status = int(self._stopping)
            elif code and not worker.killed:
                self.log.warning("Worker %s had finished its work, but ended with exit status %d", worker.name, code)
            elif not self._stopping:
                self.log.info("Something else stopped worker %s; another one is started", worker.name)
            had_work = self._return_work() > 0
            lived = self.clock.monotonic() - worker.started
            pause = _BACK_OFF_SECONDS if had_work or lived >= _LONG_LIFE else min(_MAX_BACK_OFF, pause * 2)
            self._pause(pause)
        self._return_work_before_exit()
        return status

    def _handle_signals(self) -> None:
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)  # only a signal with a handler writes to the pipe
        for each in STOP_SIGNALS:
            signal.signal(each, self._on_stop_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _on_stop_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self._stopping:
            self._stopping = True
            self.notify.stopping()
            if self._pid and self._pulse:
                self._pulse.request_stop()
                os.kill(self._pid, signal.SIGTERM)

    def _fork(self, work: WorkerFunction) -> _WorkerProcess | None:
        """Start a worker; None when asked to stop. A request to stop comes before the fork, or reaches the worker."""
        supervisor = os.getpid()
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
                self.log.error("A worker could not be started: %s", error)
                self._pause(_MAX_BACK_OFF)
                continue
            if pid == 0:
                self._become_worker(supervisor, read, write)
                raise SystemExit(work(self._name(os.getpid(), nonce), pulse))
            self._pid, self._pulse = pid, pulse
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            os.close(write)
            os.set_blocking(read, False)
            return _WorkerProcess(self._name(pid, nonce), pid, pulse, read, self.clock.monotonic())

    def _name(self, pid: int, nonce: str) -> str:
        return f"{self.queue}-{socket.gethostname()}-{pid}-{nonce}"

    def _become_worker(self, supervisor: int, read: int, write: int) -> None:
        """In the worker: undo what the supervisor set up. `STOP_SIGNALS` are still blocked."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(write, 2)
        for descriptor in (read, write, self._wake_read, self._wake_write):
            os.close(descriptor)
        signal_on_parent_death(supervisor, signal.SIGKILL)

    def _watch(self, worker: _WorkerProcess) -> tuple[int, int]:
        """Wait for the worker's end. Returns its exit code (as `waitstatus_to_exitcode`) and peak memory in bytes."""
        while (ended := self._collect_exit()) is None:
            self._wait(self._seconds_to_next_check(worker), worker)
            self._renew_lease(worker)
            self._report_to_systemd(worker)
            self._kill_if_stuck(worker)
            self._return_work()
        while self._relay_stderr(worker):
            pass
        if worker.stderr >= 0:
            os.close(worker.stderr)
        return ended

    def _seconds_to_next_check(self, worker: _WorkerProcess) -> float:
        if not worker.pulse.deadline:
            return _START_CHECK_SECONDS
        silent_in = worker.pulse.silent_in(self.clock.monotonic())
        return silent_in if silent_in > 0 and not self._deaths else Pulse.BEAT_SECONDS

    def _report_to_systemd(self, worker: _WorkerProcess) -> None:
        """Feed the watchdog as long as the worker's loop keeps its deadlines."""
        deadline = worker.pulse.deadline
        if not deadline:
            return  # it imports its handlers
        late = self.clock.monotonic() - deadline
        if late <= 0:
            self.notify.alive(worker.pulse.activity)
        else:
            self.notify.status(f"The worker's loop is {late:.0f} s late. Its last activity: {worker.pulse.activity}")

    def _kill_if_stuck(self, worker: _WorkerProcess) -> None:
        """Kill a worker that has nothing to do and does not exit: a handler's thread or import never ends."""
        now = self.clock.monotonic()
        if not worker.pulse.has_ended and (worker.pulse.has_begun or not self._stopping):
            worker.idle_since = None
        elif worker.idle_since is None:
            worker.idle_since = now
        elif now - worker.idle_since >= _LEAVE_SECONDS and not worker.killed:
            ended = worker.pulse.has_ended
            state = "has finished, but its process goes on" if ended else "has not begun, and does not stop"
            self.log.warning("Worker %s %s (a thread or an import of a handler?); it is killed", worker.name, state)
            worker.killed = True
            os.kill(worker.pid, signal.SIGKILL)

    def _collect_exit(self) -> tuple[int, int] | None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # else a stop signal could go to a freed process id
        try:
            pid, status, usage = os.wait4(self._pid, os.WNOHANG)
            if pid == 0:
                return None
            self._pid = 0
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024

    def _wait(self, seconds: float, worker: _WorkerProcess | None = None) -> None:
        """Wait for a signal, for output of `worker`, or until `seconds` are over."""
        watched = [self._wake_read] + ([worker.stderr] if worker and worker.stderr >= 0 else [])
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        if worker and worker.stderr in ready:
            self._relay_stderr(worker)

    def _relay_stderr(self, worker: _WorkerProcess) -> bool:
        """Copy what the worker has written. False when there was nothing."""
        if worker.stderr < 0:
            return False
        try:
            chunk = os.read(worker.stderr, _TAIL_BYTES)
        except BlockingIOError:
            return False
        if not chunk:  # the worker has closed it
            os.close(worker.stderr)
            worker.stderr = -1
            return False
        worker.tail = (worker.tail + chunk)[-_TAIL_BYTES:]
        with contextlib.suppress(OSError):  # the reader of the supervisor's stderr is gone
            while chunk:
                chunk = chunk[os.write(2, chunk) :]
        return True

    def _pause(self, seconds: float) -> None:
        """Wait before the next start, unless asked to stop."""
        until = self.clock.monotonic() + seconds
        while not self._stopping and (left := until - self.clock.monotonic()) > 0:
            self._wait(left)

    def _renew_lease(self, worker: _WorkerProcess) -> None:
        """Renew the lease of a worker whose lease thread is held up; not of a frozen one: others take its work."""
        now = self.clock.monotonic()
        if not worker.pulse.is_silent(now) or now - worker.renewed < Pulse.BEAT_SECONDS:
            return
        if not liveness.is_stopped(worker.pid):
            worker.renewed = now
            with contextlib.suppress(*AWAY), self._redis() as redis:
                lease.renew_for(redis, worker.name, self.clock.now())

    def _record_death(self, worker: _WorkerProcess, code: int, peak: int) -> None:
        at = rfc3339(self.clock.now())
        report = crash_report(worker.name, at, code, peak, worker.tail, quotes=self.quotes)
        self.log.error(
            "Worker %s died %s; peak memory %.0f MB. Its work goes back to the queue.",
            worker.name,
            describe_end(report),
            peak / 1e6,
        )
        self._deaths.append((report, self.clock.monotonic()))
        self._next_try = float("-inf")

    def _return_work(self) -> int:
        """Return the work of dead workers to the queue, or try again later. Returns how many jobs were returned."""
        now = self.clock.monotonic()
        if not self._deaths or now < self._next_try:
            return 0
        returned = 0
        try:
            with self._redis() as redis:
                reaper = Reaper(redis, [self.queue], self.clock, self.log)
                while self._deaths:
                    report, _ = self._deaths[0]
                    returned += reaper.take_from(report.worker, report)
                    del self._deaths[0]
        except AWAY:
            self._next_try = now + _RETRY_SECONDS
            self._deaths = [death for death in self._deaths if now - death[1] < _GIVE_UP_SECONDS]
        except Exception:
            self.log.exception("The work of a dead worker could not be returned; the scheduler will do it")
            self._deaths.clear()
        return returned

    def _return_work_before_exit(self) -> None:
        until = self.clock.monotonic() + _EXIT_SECONDS
        while self._deaths and self.clock.monotonic() < until:
            self._return_work()
            if self._deaths:
                self._wait(_RETRY_SECONDS / 2)

    def _redis(self) -> contextlib.closing[Redis]:
        return contextlib.closing(connect(self.url, _ANSWER_SECONDS))
