"""Child processes, and the supervisor that keeps them running and stops them in order."""

import ctypes
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llm_scheduler.jobs.exit_codes import ExitCode

CHECK_SECONDS = 5.0  # between two checks of the children, in case the signal of a child's end was lost
_LONG_LIFE = 10.0  # a child that ran for so long is started again at once
_MAX_PAUSE = 10.0
_PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """A process that is kept running. `patience`: the seconds that it has to stop before it is killed."""

    name: str
    command: Callable[[], Sequence[str]]
    patience: float
    inherited: Callable[[], Sequence[int]] = field(default=lambda: ())  # opens descriptors for it
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    pause: float = 0.0
    start_at: float = 0.0


class Supervisor:
    """Starts children, starts them again when they end, and stops them in a given order."""

    def __init__(self, environment: dict[str, str], log: logging.Logger, output: int | None = None) -> None:
        """`output`: the descriptor that the children write to; by default this process's stderr."""
        self._environment = environment
        self._output = output if output is not None else (sys.stderr.fileno() if _has_descriptor(sys.stderr) else None)
        self._log = log
        self.children: list[Child] = []
        self.leaving: list[Child] = []  # asked to stop, and not started again

    def start(self, child: Child) -> None:
        """Start a child in this session, but in its own process group: Ctrl-C reaches only the supervisor."""
        inherited = list(child.inherited())
        try:
            child.process = subprocess.Popen(
                list(child.command()),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=inherited,
                process_group=0,
                preexec_fn=_die_with_parent,
            )
        finally:
            for descriptor in inherited:
                os.close(descriptor)
        child.started = time.monotonic()
        if child not in self.children:
            self.children.append(child)

    def watch(self) -> int | None:
        """Start again the children that have ended. Returns an exit status if one can't run (bad configuration)."""
        now = time.monotonic()
        self.leaving = [child for child in self.leaving if child.process is not None and child.process.poll() is None]
        for child in self.children:
            if child.process is None:
                if now >= child.start_at:
                    self._restart(child)
            elif (status := child.process.poll()) is not None:
                child.process = None
                if status == ExitCode.CONFIGURATION:
                    return ExitCode.CONFIGURATION
                long_lived = now - child.started >= _LONG_LIFE
                child.pause = 0.0 if long_lived else min(_MAX_PAUSE, child.pause * 2 or 0.2)
                child.start_at = now + child.pause
                self._log.warning("%s ended (%s) and is started again", child.name, _ending(status))
        return None

    def due_in(self) -> float:
        """Seconds until the next `watch`."""
        pauses = [child.start_at for child in self.children if child.process is None]
        return min(CHECK_SECONDS, max(0.0, min(pauses, default=math.inf) - time.monotonic()))

    def _restart(self, child: Child) -> None:
        try:
            self.start(child)
        except OSError as error:
            self._log.error("%s could not be started: %s", child.name, error)
            child.start_at = time.monotonic() + 1.0

    def dismiss(self, name: str) -> None:
        """Ask one child to stop, without waiting for it. It is not started again, and not killed."""
        for child in [child for child in self.children if child.name == name]:
            self.children.remove(child)
            if child.process is not None:
                child.process.terminate()
                self.leaving.append(child)

    def stop_in_order(self, steps: Sequence[Callable[[str], bool]]) -> None:
        """Stop the children step by step. A step tells by a child's name whether it belongs to it."""
        for step in steps:
            self._stop(step)

    def _stop(self, belongs: Callable[[str], bool]) -> None:
        """Ask these children to stop, wait for them, and kill each that is still there after its `patience`."""
        everyone = [*self.children, *self.leaving]
        going = [(child, child.process) for child in everyone if belongs(child.name) and child.process is not None]
        asked = time.monotonic()
        for _, process in going:
            process.terminate()
        for child, process in going:
            try:
                process.wait(max(0.1, child.patience - (time.monotonic() - asked)))
            except subprocess.TimeoutExpired:
                self._log.warning(
                    "%s did not stop in %.0f s and is killed; its work goes on at the next start",
                    child.name,
                    child.patience,
                )
                process.kill()
                process.wait()
        stopped = [child for child, _ in going]
        self.children = [child for child in self.children if child not in stopped]
        self.leaving = [child for child in self.leaving if child not in stopped]


def _die_with_parent() -> None:
    """Runs in the child before its program: it gets SIGTERM when this supervisor dies (prctl(2), Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _has_descriptor(stream: object) -> bool:
    try:
        stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True


def _ending(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
