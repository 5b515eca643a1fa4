"""How many workers each queue should have: a pure function of what was seen, of the time and of its own memory.

Three questions are asked of a queue, and the one that wants the most workers wins:

- What do the arrivals need? The fewest workers that are busy for at most `BUSY` of the time and let at most `LATE` of
  the documents wait longer than the target: Erlang's formula for M/M/c queues (`workers_for`).
- What does the backlog need? First come, first served: the last of `n` documents waits for `n * seconds / workers`
  (Little's law), which has to be within the target.
- Does the oldest document wait too long, and ever longer, whatever the formulas say? Then half as many again; what
  was added has the time of the target to show its effect before the question is asked again.

Growth is immediate. A queue shrinks by one worker a look, and only when no look of the last `shrink_after` seconds
wanted to keep it, at a load `MARGIN` times as high as it was. That is the stabilisation window of Kubernetes, see
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/, and a dead band besides: a load that stays
the same, but for chance, is never on both sides of it.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

BUSY = 0.8
LATE = 0.01
MARGIN = 1.5
MOST = 1000  # a bound for the arithmetic, far above what a host can run
SKEW_SECONDS = 10.0  # by so much the clocks of two hosts may differ
# What one more worker is taken to need: 22 MB for the worker, a few for its keeper, and as much again for a handler.
WORKER_BYTES = 64 * 1024 * 1024


class QueueSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What a look saw of one queue. Workers are counted, documents too; times are in seconds, rates per second.

    `jobs` are the RQ jobs in which the waiting documents lie: so many workers can share them. `seconds` is what a
    document keeps a worker busy for, None while nobody knows. `here` are this host's workers, None where the queue
    has none of its own to be joined by others; `elsewhere` those of each other host; `busy` of all of them.
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
        """All of them, wherever they run."""
        return (self.here or 0) + sum(self.elsewhere.values())

    @property
    def hosts(self) -> int:
        """How many hosts share the growth."""
        return (self.here is not None) + sum(1 for count in self.elsewhere.values() if count)


class HostSeen(msgspec.Struct, frozen=True, kw_only=True):
    """This host: CPU and memory in use in per cent, all its memory in bytes, and how many of its workers are busy."""

    cpu: float = 0.0
    memory: float = 0.0
    memory_bytes: int = 0
    busy: int = 0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration allows: `target` and `shrink_after` in seconds, `fewest` workers a queue and host,
    `most` workers on this host, `cpu` and `memory` in per cent above which it gets no more."""

    target: float = 10.0
    shrink_after: float = 300.0
    fewest: int = 1
    most: int = 8
    cpu: float = 80.0
    memory: float = 85.0


class QueueMemory(msgspec.Struct, frozen=True):
    """What is remembered of a queue: since when it has been watched without a gap, how many workers the looks since
    wanted to keep (falling: what a later look outbids is forgotten), the last look's oldest age, when the queue last
    grew, and what held it back from growing further."""

    since: float
    kept: list[tuple[float, int]]
    oldest: float = 0.0
    grown: float = 0.0
    held: str = ""


class Memory(msgspec.Struct, frozen=True):
    """What one look leaves to the next; `at` is its time in epoch seconds."""

    at: float = 0.0
    queues: dict[str, QueueMemory] = {}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """How many workers a queue is to have on this host, and why. `held` says what kept it from growing further."""

    queue: str
    before: int
    after: int
    reason: str
    held: str = ""
    told: bool = True

    @property
    def changes(self) -> bool:
        return self.after != self.before

    def __str__(self) -> str:
        steps = f"{self.before} -> {self.after}" if self.changes else f"stays at {self.after}"
        held = f"; {self.held}" if self.held else ""
        noun = "worker" if self.after == 1 else "workers"
        return f"{self.queue}: {steps} {noun}: {self.reason}{held}"


class _Wish(NamedTuple):
    """How many workers a queue would have here if it had the host to itself, why, and its new memory."""

    workers: int
    reason: str
    memory: QueueMemory


def decide(
    now: float, queues: Mapping[str, QueueSeen], host: HostSeen, memory: Memory, limits: Limits
) -> tuple[list[Decision], Memory]:
    """One decision for each queue that this host serves, in the order of `queues` (most urgent first), and the memory.

    `now` is in epoch seconds. A clock that went back, or a gap longer than `shrink_after`, only makes the waiting for
    a smaller number begin again.
    """
    if not queues:
        return [], memory
    continuous = memory.at - SKEW_SECONDS <= now <= memory.at + limits.shrink_after
    now = max(now, memory.at) if continuous else now
    wishes = {
        name: _wish(now, seen, memory.queues.get(name) if continuous else None, limits) for name, seen in queues.items()
    }
    served = {name: seen.here for name, seen in queues.items() if seen.here is not None}
    allowed = _shared({name: wishes[name].workers for name in served}, limits)
    room = _Room(host, limits, sum(served.values()))
    decisions: list[Decision] = []
    remembered: dict[str, QueueMemory] = {}
    for name, wish in wishes.items():
        remembered[name] = wish.memory
        here = served.get(name)
        if here is None:
            continue
        after, reason, held = _granted(name, here, wish, allowed[name], room, limits)
        grown = now if after > here else wish.memory.grown
        remembered[name] = msgspec.structs.replace(wish.memory, grown=grown, held=_kind(held))
        old = memory.queues.get(name)
        told = after != here or (bool(held) and (old is None or old.held != _kind(held)))
        decisions.append(Decision(queue=name, before=here, after=after, reason=reason, held=held, told=told))
    return decisions, Memory(now, remembered)


# What a queue wants


def _wish(now: float, seen: QueueSeen, old: QueueMemory | None, limits: Limits) -> _Wish:
    settled = old is None or now - old.grown >= limits.target
    grow, why = _grown(seen, old.oldest if old else 0.0, settled, limits)
    keep = max(grow, _kept(seen, limits))
    kept = [(at, count) for at, count in (old.kept if old else []) if at > now - limits.shrink_after and count > keep]
    kept.append((now, keep))
    since = old.since if old else now
    memory = QueueMemory(since, kept, seen.oldest, old.grown if old else 0.0)
    here, workers = seen.here or 0, seen.workers
    if grow > workers:
        # Each host takes its share; above that, one at a time of what the others leave.
        share = math.ceil(grow / max(1, seen.hosts))
        return _Wish(min(max(share, here + 1), here + grow - workers), why, memory)
    surplus = kept[0][1] < workers and now - since >= limits.shrink_after
    if surplus and here > limits.fewest and here >= max(seen.elsewhere.values(), default=0):
        return _Wish(here - 1, f"for {limits.shrink_after:g} s {_enough(kept[0][1])}", memory)
    return _Wish(here, why if grow == workers else "enough for what arrives and waits", memory)


def _enough(count: int) -> str:
    return "one worker would have been enough" if count == 1 else f"{count} workers would have been enough"


def _grown(seen: QueueSeen, before: float, settled: bool, limits: Limits) -> tuple[int, str]:
    """The fewest workers for what is seen, and why so many."""
    count = limits.fewest
    reason = f"at least {limits.fewest} (processing.autoscale.min_workers)"
    shared = seen.busy + seen.jobs
    if seen.seconds:
        needed = workers_for(seen.arrivals * seen.seconds, seen.seconds, limits.target)
        if needed > count:
            count, reason = needed, _in_words(seen, limits)
        needed = min(_ceil(seen.waiting * seen.seconds / limits.target), shared)
        if needed > count:
            count, reason = needed, _in_words(seen, limits)
    # Half of them busy: where all sit idle before a backlog (a moment ago it was not there), more would not help.
    if settled and seen.oldest > limits.target and seen.oldest >= before and 2 * seen.busy >= seen.workers:
        needed = min(seen.workers + math.ceil(seen.workers / 2), shared)
        if needed > count:
            count, reason = needed, f"{_in_words(seen, limits)}, and the wait does not get shorter"
    return min(count, MOST), reason


def _kept(seen: QueueSeen, limits: Limits) -> int:
    """The fewest workers that would do with something to spare: what is above may go."""
    if not seen.seconds:
        return seen.workers if seen.waiting or seen.busy else limits.fewest
    load = MARGIN * seen.arrivals * seen.seconds
    backlog = min(_ceil(2 * seen.waiting * seen.seconds / limits.target), seen.busy + seen.jobs)
    return min(MOST, max(limits.fewest, workers_for(load, seen.seconds, limits.target), backlog))


def _in_words(seen: QueueSeen, limits: Limits) -> str:
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


# Queueing theory


def workers_for(load: float, seconds: float, target: float) -> int:
    """The fewest workers for a `load` in erlangs (arrivals per second times seconds a document), at most `MOST`.

    They are busy for at most `BUSY` of the time, and at most `LATE` of the documents wait longer than `target`
    seconds: in an M/M/c queue that share is C(c, a) * exp(-(c - a) * target / seconds), with Erlang's C
    (A. K. Erlang, 1917; L. Kleinrock, Queueing Systems, volume 1, 1975, section 3.5).
    """
    if load >= BUSY * MOST:
        return MOST
    lost = 1.0
    for count in range(1, MOST):
        lost = _lost(count, load, lost)
        if load <= BUSY * count:
            late = _waiting(count, load, lost) * math.exp(-(count - load) * target / seconds)
            if late <= LATE:
                return count
    return MOST


def erlang_c(count: int, load: float) -> float:
    """The share of documents that have to wait at all, for more workers than the load."""
    lost = 1.0
    for each in range(1, count + 1):
        lost = _lost(each, load, lost)
    return _waiting(count, load, lost)


def _lost(count: int, load: float, before: float) -> float:
    """Erlang's B for `count` workers from that of one fewer."""
    return load * before / (count + load * before)


def _waiting(count: int, load: float, lost: float) -> float:
    """Erlang's C from his B."""
    return lost / (1 - load / count * (1 - lost))


def _ceil(number: float) -> int:
    """`math.ceil`, and `MOST` for what is beyond it (infinity, too)."""
    return math.ceil(number) if number < MOST else MOST


# What the host has for it


def _shared(wishes: Mapping[str, int], limits: Limits) -> dict[str, int]:
    """The host's workers dealt out: each queue its fewest, the rest by urgency."""
    left = limits.most - sum(min(wish, limits.fewest) for wish in wishes.values())
    dealt = {}
    for name, wish in wishes.items():
        extra = max(0, min(wish - limits.fewest, left))
        dealt[name] = min(wish, limits.fewest) + extra
        left -= extra
    return dealt


def _granted(name: str, here: int, wish: _Wish, allowed: int, room: "_Room", limits: Limits) -> tuple[int, str, str]:
    """(workers, reason, what held growth back)"""
    if here < limits.fewest:
        room.take(limits.fewest - here)
        return limits.fewest, f"at least {limits.fewest} (processing.autoscale.min_workers)", ""
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
    """How many more workers the host takes at this look."""

    def __init__(self, host: HostSeen, limits: Limits, running: int) -> None:
        self.full = f"this host takes {limits.most} workers in all (processing.autoscale.max_workers)"
        bounds = [(max(0, limits.most - running), self.full)]
        if host.cpu > limits.cpu:
            more = 0
        elif host.busy and host.cpu > 0:
            # As if all that the CPU does were the busy workers' doing; handlers that wait for others leave it idle.
            more = max(1, int(min(MOST, (limits.cpu - host.cpu) * host.busy / host.cpu)))
        else:
            more = MOST
        room = f", which leaves room for {more} more" if more else ""
        bounds.append((more, f"the CPU is busy for {host.cpu:.0f} %{room} (alert threshold {limits.cpu:g} %)"))
        if host.memory_bytes:
            free = (limits.memory - host.memory) / 100 * host.memory_bytes
            words = f"{host.memory:.0f} % of the memory are in use (alert threshold {limits.memory:g} %)"
            bounds.append((max(0, int(free / WORKER_BYTES)), words))
        self._left, self.cause = min(bounds, key=lambda bound: bound[0])

    def grant(self, wanted: int) -> int:
        """So many of `wanted` as there is room for."""
        granted = max(0, min(wanted, self._left))
        self._left -= granted
        return granted

    def take(self, count: int) -> None:
        """Room for what has to run in any case."""
        self._left = max(0, self._left - count)


def _kind(held: str) -> str:
    """What holds growth back without its figures, which change with every look."""
    return "".join(each for each in held if not each.isdigit())
