"""The faults that a torture run injects into its fleet, one blow at a time."""

import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil  # type: ignore[import-untyped]
from redis import Redis
from redis.exceptions import RedisError

from llm_scheduler.api.local.child_processes import Child, Supervisor
from llm_scheduler.api.local.crew import WORKER_PREFIX
from llm_scheduler.api.torture.small_disk import SmallDisk

MAX_OUTAGE = 5.0
MAX_FREEZE = 8.0
MAX_FULL = 6.0
# The room that stays on a full disk: none, enough for a name, or enough for one document.
_LEFT_BYTES = (0, 4096, 40_000)

# Lets this many seconds pass, while dead processes are started again.
Pause = Callable[[float], None]


class Blows:
    """Damages the children of `supervisor`. `chance` chooses which, how and for how long."""

    def __init__(
        self, supervisor: Supervisor, redis: Redis, disk: SmallDisk | None, chance: random.Random, pause: Pause
    ) -> None:
        self._supervisor = supervisor
        self._redis = redis
        self._disk = disk
        self._chance = chance
        self._pause = pause

    def strike(self) -> str:
        """Strike once. Returns a description."""
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
        return self._chance.choices([blow for _, blow in blows], [weight for weight, _ in blows])[0]()

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
        """Kill the process that runs the handlers, not its supervisor."""
        victim = self._victim(_is_worker)
        for pid in _processes_of(victim):
            _send(pid, signal.SIGKILL)
        return f"SIGKILL to the handler process of {victim.name if victim else 'nobody'}"

    def _freeze(self) -> str:
        victim = self._victim(lambda name: name != "server")
        if victim is None:
            return "freeze nobody"
        self._freeze_for_a_while([_pid(victim)])
        return f"freeze {_title(victim)}"

    def _freeze_worker(self) -> str:
        """Freeze a worker and its supervisor together, as a suspended machine does."""
        victim = self._victim(_is_worker)
        if victim is None:
            return "freeze nobody"
        self._freeze_for_a_while([_pid(victim), *_processes_of(victim)])
        return f"freeze all of {victim.name}"

    def _freeze_for_a_while(self, pids: Sequence[int]) -> None:
        for pid in pids:
            _send(pid, signal.SIGSTOP)
        self._pause(self._chance.uniform(0.5, MAX_FREEZE))
        for pid in pids:
            _send(pid, signal.SIGCONT)

    def _wipe(self) -> str:
        try:
            self._redis.flushall()
        except RedisError:
            return "FLUSHALL, but the server was unreachable"
        return "FLUSHALL"

    def _outage(self) -> str:
        """Freeze the server for a while, then kill it: its clients notice a freeze latest."""
        victim = self._victim(lambda name: name == "server")
        if victim is not None:
            pid = _pid(victim)
            _send(pid, signal.SIGSTOP)
            self._pause(self._chance.uniform(0.5, MAX_OUTAGE))
            _send(pid, signal.SIGKILL)
        return "outage of the server"

    def _fill(self, disk: SmallDisk) -> str:
        disk.fill(self._chance.choice(_LEFT_BYTES))
        try:
            self._pause(self._chance.uniform(0.5, MAX_FULL))
        finally:
            disk.free()
        return "the disk is full for a while"


def _is_worker(name: str) -> bool:
    return name.startswith(WORKER_PREFIX)


def _title(child: Child) -> str:
    return f"the supervisor of {child.name}" if _is_worker(child.name) else child.name


def _pid(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


def _processes_of(child: Child | None) -> list[int]:
    """The processes that a worker's supervisor has started."""
    with suppress(psutil.NoSuchProcess):
        if child is not None:
            return [each.pid for each in psutil.Process(_pid(child)).children()]
    return []


def _send(pid: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, how)
