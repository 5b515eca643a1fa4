"""What a torture does to its fleet, one blow at a time."""

import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil  # type: ignore[import-untyped]
from redis import Redis
from redis.exceptions import RedisError

from llm_scheduler.api.local.up import Child, Supervisor
from llm_scheduler.api.torture.small_disk import Disk

MAX_OUTAGE = 5.0
MAX_FREEZE = 8.0
MAX_FULL = 6.0
# What is left of a disk that is full: nothing, room for a name, or for a document and no more.
_LEFT_BYTES = (0, 4096, 40_000)

# Lets so many seconds pass, while what has died is started again.
Pause = Callable[[float], None]


class Blows:
    """Strikes at what `supervisor` keeps running: whom, how and how long `chance` decides."""

    def __init__(
        self, supervisor: Supervisor, redis: Redis, disk: Disk | None, chance: random.Random, pause: Pause
    ) -> None:
        self._supervisor = supervisor
        self._redis = redis
        self._disk = disk
        self._chance = chance
        self._pause = pause

    def strike(self) -> str:
        """Strike once; returns what was done, in words."""
        blows: list[tuple[int, Callable[[], str]]] = [
            (5, lambda: self._signal(signal.SIGKILL)),
            (4, self._kill_worker),
            (3, lambda: self._signal(signal.SIGTERM)),
            (2, self._freeze),
            (1, self._freeze_worker),
            (2, self._wipe),
            (2, self._outage),
        ]
        if (disk := self._disk) is not None:
            blows.append((2, lambda: self._fill(disk)))
        weights = [weight for weight, _ in blows]
        return self._chance.choices([blow for _, blow in blows], weights)[0]()

    def _victim(self, fits: Callable[[str], bool]) -> Child | None:
        living = [child for child in self._supervisor.children if child.process is not None and fits(child.name)]
        return self._chance.choice(living) if living else None

    def _signal(self, how: signal.Signals) -> str:
        victim = self._victim(lambda name: True)
        if victim is None:
            return f"{how.name} to nobody"
        _send(_pid(victim), how)
        return f"{how.name} to {_title(victim)}"

    def _kill_worker(self) -> str:
        """The process that runs the handlers, not its keeper."""
        victim = self._victim(_is_worker)
        for pid in _kept(victim):
            _send(pid, signal.SIGKILL)
        return f"SIGKILL to what runs handlers in {victim.name if victim else 'nobody'}"

    def _freeze(self) -> str:
        victim = self._victim(lambda name: name != "server")
        if victim is None:
            return "freeze nobody"
        self._frozen([_pid(victim)])
        return f"freeze {_title(victim)}"

    def _freeze_worker(self) -> str:
        """Worker and keeper together, as a machine that is suspended."""
        victim = self._victim(_is_worker)
        if victim is None:
            return "freeze nobody"
        self._frozen([_pid(victim), *_kept(victim)])
        return f"freeze all of {victim.name}"

    def _frozen(self, pids: Sequence[int]) -> None:
        for pid in pids:
            _send(pid, signal.SIGSTOP)
        self._pause(self._chance.uniform(0.5, MAX_FREEZE))
        for pid in pids:
            _send(pid, signal.SIGCONT)

    def _wipe(self) -> str:
        try:
            self._redis.flushall()
        except RedisError:
            return "FLUSHALL, but the server was away"
        return "FLUSHALL"

    def _outage(self) -> str:
        """The server is away for a while: frozen, which is the nastiest way, for nobody is told."""
        victim = self._victim(lambda name: name == "server")
        if victim is not None:
            pid = _pid(victim)
            _send(pid, signal.SIGSTOP)
            self._pause(self._chance.uniform(0.5, MAX_OUTAGE))
            _send(pid, signal.SIGKILL)
        return "outage of the server"

    def _fill(self, disk: Disk) -> str:
        disk.fill(self._chance.choice(_LEFT_BYTES))
        try:
            self._pause(self._chance.uniform(0.5, MAX_FULL))
        finally:
            disk.free()
        return "the disk is full for a while"


def _is_worker(name: str) -> bool:
    return name.startswith("worker ")


def _title(child: Child) -> str:
    return f"the keeper of {child.name}" if _is_worker(child.name) else child.name


def _pid(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


def _kept(child: Child | None) -> list[int]:
    """The processes that a keeper has started."""
    with suppress(psutil.NoSuchProcess):
        if child is not None:
            return [each.pid for each in psutil.Process(_pid(child)).children()]
    return []


def _send(pid: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, how)
