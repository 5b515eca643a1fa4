"""How many workers each queue should have: a pure function of the observed load, the time and the policy's own memory.

The number is the highest of three:

- For the arrivals: the fewest workers that are busy for at most `MAX_BUSY` of the time, while at most `MAX_LATE` of
  the documents wait longer than the target, by Erlang's formula for M/M/c queues (`workers_for`).
- For the backlog: the last of `n` documents waits for `n * seconds / workers` (Little's law), which must be within the
  target.
- If the oldest document waits longer than the target and its wait does not shrink: half as many workers again. That is
  not repeated before the target time has passed.

Growth is immediate. A queue loses one worker a step, and only if no step within `shrink_after` seconds wanted to keep
it, with `MARGIN` times the load. That is the stabilisation window of Kubernetes
(https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/) with a dead band: a load that varies only
by chance does not make the number swing.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

MAX_BUSY = 0.8
MAX_LATE = 0.01
MARGIN = 1.5
MAX_WORKERS = 1000  # a limit for the arithmetic, far above what a host can run
SKEW_SECONDS = 10.0  # by which the clocks of two hosts may differ
# The memory of one more worker: 22 MB for the worker, a few for its supervisor, and as much again for a handler.
WORKER_BYTES = 64 * 1024 * 1024


class QueueLoad(msgspec.Struct, frozen=True, kw_only=True):
    """The observed load of one queue: counts, seconds, and rates per second.

    `jobs`: the RQ jobs of the waiting documents, which is how many workers can share them. `seconds`: how long a
    document keeps a worker busy; None: not known yet. `here`: this host's workers; None: the host does not serve the
    queue. `elsewhere`: the workers of each other host. `busy`: how many of all workers are busy.
    """

    waiting: int = 0
    jobs: int = 0
    oldest: float = 0.0
    arrivals: float = 0.0
    seconds: float | None = None
    busy: int = 0
    here: int | None = 1
    elsewhere: dict[str, int] = {}

    @property
    def workers(self) -> int:
        """The workers on all hosts."""
        return (self.here or 0) + sum(self.elsewhere.values())

    @property
    def hosts(self) -> int:
        """How many hosts share the growth."""
        return (self.here is not None) + sum(1 for count in self.elsewhere.values() if count)


class HostLoad(msgspec.Struct, frozen=True, kw_only=True):
    """This host: CPU and memory in use in percent, its memory in bytes, and how many of its workers are busy."""

    cpu: float = 0.0
    memory: float = 0.0
    memory_bytes: int = 0
    busy: int = 0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """From the configuration: `target` and `shrink_after` in seconds, `min_workers` for each queue of a host,
    `max_workers` for this host, and `cpu` and `memory` in percent, above which the host gets no more workers."""

    target: float = 10.0
    shrink_after: float = 300.0
    min_workers: int = 1
    max_workers: int = 8
    cpu: float = 80.0
    memory: float = 85.0


class QueueMemory(msgspec.Struct, frozen=True):
    """What is remembered of a queue. `since`: observed without a gap since then. `kept`: how many workers each step
    wanted to keep, in falling order (a higher later wish replaces earlier ones). `oldest`: the age of the oldest
    document at the last step. `grown`: when the queue last grew. `held`: what stopped further growth."""

    since: float
    kept: list[tuple[float, int]]
    oldest: float = 0.0
    grown: float = 0.0
    held: str = ""


class PolicyMemory(msgspec.Struct, frozen=True):
    """What one step leaves to the next; `at` is its time in epoch seconds."""

    at: float = 0.0
    queues: dict[str, QueueMemory] = {}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """How many workers a queue gets on this host, and why. `held`: what stopped further growth."""

    queue: str
    before: int
    after: int
    reason: str
    held: str = ""
    is_logged: bool = True

    @property
    def changes(self) -> bool:
        return self.after != self.before

    def __str__(self) -> str:
        steps = f"{self.before} -> {self.after}" if self.changes else f"stays at {self.after}"
        held = f"; {self.held}" if self.held else ""
        noun = "worker" if self.after == 1 else "workers"
        return f"{self.queue}: {steps} {noun}: {self.reason}{held}"


class _Demand(NamedTuple):
    """How many workers a queue would get if it had the host for itself, why, and its new memory."""

    workers: int
    reason: str
    memory: QueueMemory


def decide(
    now: float, queues: Mapping[str, QueueLoad], host: HostLoad, memory: PolicyMemory, limits: Limits
) -> tuple[list[Decision], PolicyMemory]:
    """One decision for each queue that this host serves, in the order of `queues` (most urgent first), and the memory.

    `now` is in epoch seconds. If the clock went back, or after a gap longer than `shrink_after`, the wait before a
    queue may shrink starts again.
    """
    if not queues:
        return [], memory
    continuous = memory.at - SKEW_SECONDS <= now <= memory.at + limits.shrink_after
    now = max(now, memory.at) if continuous else now
    wishes = {
        name: _demand(now, seen, memory.queues.get(name) if continuous else None, limits)
        for name, seen in queues.items()
    }
    served = {name: seen.here for name, seen in queues.items() if seen.here is not None}
    allowed = _shares({name: wishes[name].workers for name in served}, limits)
    room = _Room(host, limits, sum(served.values()))
    decisions: list[Decision] = []
    remembered: dict[str, QueueMemory] = {}
    for name, wish in wishes.items():
        remembered[name] = wish.memory
        here = served.get(name)
        if here is None:
            continue
        after, reason, held = _grant(here, wish, allowed[name], room, limits)
        grown = now if after > here else wish.memory.grown
        cause = re.sub(r"\d", "", held)  # its figures change with every step
        remembered[name] = msgspec.structs.replace(wish.memory, grown=grown, held=cause)
        old = memory.queues.get(name)
        is_logged = after != here or (bool(held) and (old is None or old.held != cause))
        decisions.append(Decision(queue=name, before=here, after=after, reason=reason, held=held, is_logged=is_logged))
    return decisions, PolicyMemory(now, remembered)


def _demand(now: float, seen: QueueLoad, old: QueueMemory | None, limits: Limits) -> _Demand:
    settled = old is None or now - old.grown >= limits.target
    grow, why = _growth(seen, old.oldest if old else 0.0, settled, limits)
    keep = max(grow, _least_to_keep(seen, limits))
    kept = [(at, count) for at, count in (old.kept if old else []) if at > now - limits.shrink_after and count > keep]
    kept.append((now, keep))
    since = old.since if old else now
    memory = QueueMemory(since, kept, seen.oldest, old.grown if old else 0.0)
    here, workers = seen.here or 0, seen.workers
    if grow > workers:
        # Each host takes its share, and one more a step if the other hosts leave something.
        share = math.ceil(grow / max(1, seen.hosts))
        return _Demand(min(max(share, here + 1), here + grow - workers), why, memory)
    surplus = kept[0][1] < workers and now - since >= limits.shrink_after
    if surplus and here > limits.min_workers and here >= max(seen.elsewhere.values(), default=0):
        enough = "one worker" if kept[0][1] == 1 else f"{kept[0][1]} workers"
        return _Demand(here - 1, f"for {limits.shrink_after:g} s {enough} would have been enough", memory)
    return _Demand(here, why if grow == workers else "enough for what arrives and waits", memory)


def _growth(seen: QueueLoad, before: float, settled: bool, limits: Limits) -> tuple[int, str]:
    """The fewest workers for this load, and the reason."""
    count = limits.min_workers
    reason = f"at least {limits.min_workers} (processing.autoscale.min_workers)"
    shared = seen.busy + seen.jobs
    if seen.seconds:
        for_arrivals = workers_for(seen.arrivals * seen.seconds, seen.seconds, limits.target)
        for_backlog = min(_ceil(seen.waiting * seen.seconds / limits.target), shared)
        needed = max(for_arrivals, for_backlog)
        if needed > count:
            count, reason = needed, _figures(seen, limits)
    # At least half of the workers must be busy: idle ones will take a backlog that has only just appeared.
    if settled and seen.oldest > limits.target and seen.oldest >= before and 2 * seen.busy >= seen.workers:
        needed = min(seen.workers + math.ceil(seen.workers / 2), shared)
        if needed > count:
            count, reason = needed, f"{_figures(seen, limits)}, and the wait does not get shorter"
    return min(count, MAX_WORKERS), reason


def _least_to_keep(seen: QueueLoad, limits: Limits) -> int:
    """The fewest workers that are enough with a margin: more may go."""
    if not seen.seconds:
        return seen.workers if seen.waiting or seen.busy else limits.min_workers
    load = MARGIN * seen.arrivals * seen.seconds
    backlog = min(_ceil(2 * seen.waiting * seen.seconds / limits.target), seen.busy + seen.jobs)
    return min(MAX_WORKERS, max(limits.min_workers, workers_for(load, seen.seconds, limits.target), backlog))


def _figures(seen: QueueLoad, limits: Limits) -> str:
    """`oldest document waits 12.4 s (target 5 s), 40.0 documents/s arrive, one worker does 18.3/s`."""
    parts = []
    if seen.waiting:
        parts.append(f"oldest document waits {seen.oldest:.1f} s (target {limits.target:g} s)")
        parts.append(f"{seen.waiting} wait")
    parts.append(f"{seen.arrivals:.1f} documents/s arrive")
    if seen.seconds:
        parts.append(f"one worker does {1 / seen.seconds:.3g}/s")
    if seen.elsewhere:
        parts.append(f"{sum(seen.elsewhere.values())} work on other hosts")
    return ", ".join(parts)


def workers_for(load: float, seconds: float, target: float) -> int:
    """The fewest workers for a `load` in erlangs (arrivals per second times seconds a document), at most `MAX_WORKERS`.

    They are busy for at most `MAX_BUSY` of the time, and at most `MAX_LATE` of the documents wait longer than `target`
    seconds: in an M/M/c queue that share is C(c, a) * exp(-(c - a) * target / seconds), with Erlang's C
    (A. K. Erlang, 1917; L. Kleinrock, Queueing Systems, volume 1, 1975, section 3.5).
    """
    if load >= MAX_BUSY * MAX_WORKERS:
        return MAX_WORKERS
    lost = 1.0
    for count in range(1, MAX_WORKERS):
        lost = _lost(count, load, lost)
        if load <= MAX_BUSY * count:
            late = _waiting(count, load, lost) * math.exp(-(count - load) * target / seconds)
            if late <= MAX_LATE:
                return count
    return MAX_WORKERS


def _lost(count: int, load: float, before: float) -> float:
    """Erlang's B for `count` workers from that of one fewer."""
    return load * before / (count + load * before)


def _waiting(count: int, load: float, lost: float) -> float:
    """Erlang's C from Erlang's B."""
    return lost / (1 - load / count * (1 - lost))


def _ceil(number: float) -> int:
    """`math.ceil`, at most `MAX_WORKERS`; `number` may be infinite."""
    return math.ceil(number) if number < MAX_WORKERS else MAX_WORKERS


def _shares(wishes: Mapping[str, int], limits: Limits) -> dict[str, int]:
    """The host's workers dealt out: `min_workers` for each queue, the rest by urgency."""
    left = limits.max_workers - sum(min(wish, limits.min_workers) for wish in wishes.values())
    dealt = {}
    for name, wish in wishes.items():
        extra = max(0, min(wish - limits.min_workers, left))
        dealt[name] = min(wish, limits.min_workers) + extra
        left -= extra
    return dealt


def _grant(here: int, wish: _Demand, allowed: int, room: "_Room", limits: Limits) -> tuple[int, str, str]:
    """(workers, reason, what stopped further growth)"""
    if here < limits.min_workers:
        room.grant(limits.min_workers - here)  # these run even if there is no room
        return limits.min_workers, f"at least {limits.min_workers} (processing.autoscale.min_workers)", ""
    if allowed < here:
        gives_way = "more urgent queues need the room" if wish.workers >= here else wish.reason
        return here - 1, gives_way, ""
    if wish.workers <= here:
        return here, wish.reason, ""
    grown = room.grant(min(allowed, wish.workers) - here)
    held = ""
    if here + grown < wish.workers:
        held = room.cause if grown < allowed - here else room.full
    return here + grown, wish.reason, held


class _Room:
    """How many more workers the host takes at this step."""

    def __init__(self, host: HostLoad, limits: Limits, running: int) -> None:
        self.full = f"this host takes {limits.max_workers} workers in all (processing.autoscale.max_workers)"
        bounds = [(max(0, limits.max_workers - running), self.full)]
        if host.cpu > limits.cpu:
            more = 0
        elif host.busy and host.cpu > 0:
            # Assumes that only the busy workers use the CPU. Handlers that wait for a network leave it idle.
            more = max(1, int(min(MAX_WORKERS, (limits.cpu - host.cpu) * host.busy / host.cpu)))
        else:
            more = MAX_WORKERS
        room = f", which leaves room for {more} more" if more else ""
        bounds.append((more, f"the CPU is busy for {host.cpu:.0f} %{room} (alert threshold {limits.cpu:g} %)"))
        if host.memory_bytes:
            free = (limits.memory - host.memory) / 100 * host.memory_bytes
            words = f"{host.memory:.0f} % of the memory are in use (alert threshold {limits.memory:g} %)"
            bounds.append((max(0, int(free / WORKER_BYTES)), words))
        self._left, self.cause = min(bounds, key=lambda bound: bound[0])

    def grant(self, wanted: int) -> int:
        """As many of `wanted` as there is room for."""
        granted = max(0, min(wanted, self._left))
        self._left -= granted
        return granted
