"""What every long-running process of the project shares: how it starts, how it is told to stop, how it waits."""

import contextlib
import ctypes
import gc
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from redis import Redis

from llm_scheduler.jobs.config import Config, ConfigError, find, load
from llm_scheduler.jobs.config.loader import EXIT_CONFIG
from llm_scheduler.jobs.process.connection import AWAY, explain, refusal
from llm_scheduler.jobs.process.logs import setup

# Set by `llmctl up` for the processes it starts.
PARENT_VARIABLE = "LLM_PARENT_PID"
URL_VARIABLE = "LLM_REDIS_URL"
QUIET_VARIABLE = "LLM_QUIET"

_PR_SET_PDEATHSIG = 1  # prctl(2)
_DEFAULTS: dict[signal.Signals, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}


class Stop:
    """A request to stop: a flag that signals set and loops look at. Nothing is ever raised from a signal handler.

    The handler only assigns and writes to a pipe. (`threading.Event.set` takes a lock: a second signal during the
    first one's `set` would wait for it for ever. That was seen here.)
    """

    def __init__(self) -> None:
        self._asked = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def __bool__(self) -> bool:
        return self._asked

    def set(self) -> None:
        self._asked = True
        self.rouse()

    def rouse(self) -> None:
        """End a wait that goes on, or else the next one, without a request to stop. For signal handlers, too."""
        try:
            os.write(self._write, b"s")
        except BlockingIOError:
            pass  # it is full of earlier ones

    def wait(self, seconds: float) -> bool:
        """Wait `seconds`, until roused, or until told to stop; returns whether to stop."""
        if self:
            return True
        if select.select([self._read], [], [], max(0.0, seconds))[0] and not self:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
            if self:  # just now: whoever else waits has to hear of it, too
                self.rouse()
        return bool(self)

    def on_signals(self) -> None:
        """Let SIGTERM and SIGINT set the flag; as often as they come, they ask for the same."""
        for each in _DEFAULTS:
            if signal.getsignal(each) != self._heard:
                signal.signal(each, self._heard)

    def _heard(self, signum: int, frame: FrameType | None) -> None:
        self.set()

    def leave_signals(self) -> None:
        """Let SIGTERM and SIGINT do what they do to any program, unless they have been given another meaning."""
        for each, default in _DEFAULTS.items():
            if signal.getsignal(each) == self._heard:
                signal.signal(each, default)

    def __del__(self) -> None:
        for descriptor in (self._read, self._write):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def start(process: str, explicit: str | None = None) -> tuple[Config, logging.Logger]:
    """The common beginning of a daemon: its configuration (`explicit`: the file it was told), logging, and the tie to
    its parent.

    Exits with status 78 and every problem on stderr when the configuration can't be used.
    """
    try:
        config = load(find(explicit, os.environ))
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_CONFIG) from None
    log = start_log(config, process)
    die_with_parent(os.environ)
    spare_the_collector()
    return config, log


def spare_the_collector() -> None:
    """Let the cycle collector run seldom, and pass over what was there at the start.

    A group of documents is tens of thousands of objects and no cycle: with Python's thresholds, a seventh of ingest's
    time went into walking through them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def start_log(config: Config, process: str) -> logging.Logger:
    """The process's log, as the configuration wants it."""
    file = config.logging.file if config.queue.type == "local" else None
    return setup(config.logging, process, file, quiet=QUIET_VARIABLE in os.environ)


def die_with_parent(environ: Mapping[str, str]) -> None:
    """Under `llmctl up`: be sent SIGTERM when the supervisor dies, however it dies (Linux; see prctl(2))."""
    parent = environ.get(PARENT_VARIABLE)
    if parent:
        tie_to(int(parent), signal.SIGTERM)


def tie_to(parent: int, how: signal.Signals) -> None:
    """Be sent `how` when `parent`, which started this process, dies (Linux; elsewhere nothing happens)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, how, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        raise SystemExit(0)


class Outage:
    """Follows one outage of Redis from first failure to return, and says so once each, with a reminder in between.

    A Redis that refuses writes answers all the while to what only reads: that outage is over when it has refused
    nothing for a time.
    """

    REMIND_SECONDS = 30.0
    CALM_SECONDS = 5.0

    def __init__(
        self,
        log: logging.Logger,
        monotonic: Callable[[], float] = time.monotonic,
        told: Callable[[str], None] = lambda words: None,
    ) -> None:
        """`told` hears at each failure what is waited for: the loop that waits goes round all the same."""
        self._log = log
        self._tell = told
        self._monotonic = monotonic
        self._since: float | None = None
        self._told = 0.0
        self._refused = float("-inf")

    @property
    def seconds(self) -> float:
        """How long Redis has been away; 0 while it is there."""
        return 0.0 if self._since is None else self._monotonic() - self._since

    def failed(self, error: Exception) -> float:
        """Note a failure. Returns how long to wait before the next try: longer and longer, up to 2 s."""
        now = self._monotonic()
        refused = refusal(error) is not None
        if refused:
            self._refused = now
        trouble = "refuses writes" if refused else "unreachable"
        if self._since is None:
            self._since = now
            self._told = now
            self._log.warning("Redis %s: %s. Waiting for it; nothing is lost.", trouble, explain(error))
        elif now - self._told >= self.REMIND_SECONDS:
            self._told = now
            lasts = now - self._since
            self._log.warning("Redis %s for %.0f s: %s. Still waiting.", trouble, lasts, explain(error))
        self._tell(f"Waits for Redis ({trouble} for {self.seconds:.0f} s): {explain(error)}. Nothing is lost.")
        return min(2.0, 0.1 + self.seconds / 4)

    def over(self) -> None:
        """Note that Redis answers."""
        if self._since is not None and self._monotonic() - self._refused >= self.CALM_SECONDS:
            self._log.info("Redis is back after %.0f s.", self.seconds)
            self._since = None


def await_redis(redis: Redis, outage: Outage, stop: Stop) -> bool:
    """Wait until Redis answers. False when told to stop first."""
    while not stop:
        try:
            redis.ping()
        except AWAY as error:
            stop.wait(outage.failed(error))
        else:
            outage.over()
            return True
    return False
