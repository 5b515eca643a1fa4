"""One look, the decisions, and the acts: what `llmctl up` does every few seconds, and `llmctl autoscale` on hosts.

What a look leaves to the next is kept in Redis (`llm:autoscale`), where all hosts share it; a lock lets one host at a
time look and act. Each host says there how many workers it has decided on, since a worker that was started a moment
ago is not to be seen yet: so two hosts don't both answer the same backlog.
"""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
from redis import Redis
from redis.exceptions import LockError

from llm_scheduler.api.scaling import observation, policy
from llm_scheduler.api.scaling.actuators import Crew, CrewError, Instance, free_number
from llm_scheduler.api.scaling.observation import Looked, Pace, Vitals
from llm_scheduler.api.scaling.policy import Decision, HostSeen, Limits, QueueSeen
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config

KEY = "llm:autoscale"
LOCK = "llm:autoscale:lock"
LOCK_SECONDS = 30.0
# For so long a host's own word of its workers counts more than the leases: one is started and registered by then.
WORD_SECONDS = 15.0
KEPT_SECONDS = 86400
_WORKERS_PER_CPU = 4
_MAX_WINDOW = 60.0


class Word(msgspec.Struct, frozen=True):
    """A host's own word: when it decided, and on how many workers of each queue."""

    at: float
    workers: dict[str, int]


class Record(msgspec.Struct, frozen=True):
    """All that is kept between two looks."""

    memory: policy.Memory = policy.Memory()
    paces: dict[str, Pace] = {}
    hosts: dict[str, Word] = {}


class Look(NamedTuple):
    """What came of a look: a decision for each queue served here, what was seen, and what could not be done."""

    decisions: list[Decision]
    seen: dict[str, QueueSeen]
    host: HostSeen
    note: str = ""
    failed: tuple[str, ...] = ()


def limits(config: Config) -> Limits:
    """The limits of this host: those of the configuration, and where it gives none, by CPUs and memory."""
    wanted = config.processing.autoscale
    thresholds = config.monitoring.alert_thresholds
    most = wanted.max_workers
    if most is None:
        in_memory = observation.memory_bytes() // 2 // policy.WORKER_BYTES
        most = min(_WORKERS_PER_CPU * _cpus(), in_memory)
    return Limits(
        target=wanted.target_seconds,
        shrink_after=wanted.shrink_after,
        fewest=wanted.min_workers,
        most=max(most, wanted.min_workers * len(config.queue.priority_levels)),
        cpu=thresholds.cpu_usage,
        memory=thresholds.memory_usage,
    )


def _cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class Autoscaler:
    """Looks, decides and acts for this host. Raises what redis-py raises while Redis is away: then nothing happens."""

    def __init__(
        self,
        config: Config,
        redis: Redis,
        crew: Crew,
        vitals: Vitals,
        clock: Clock,
        log: logging.Logger,
        host: str | None = None,
    ) -> None:
        self._levels = config.queue.priority_levels
        self._redis = redis
        self._crew = crew
        self._vitals = vitals
        self._clock = clock
        self._log = log
        self._host = host or socket.gethostname()
        self._limits = limits(config)
        self._window = min(_MAX_WINDOW, max(1.0, self._limits.shrink_after / 5))

    def rests(self) -> bool:
        """Whether a look can be spared: nothing waits or is worked on, and each queue here has its fewest workers.

        An idle system is looked at every few seconds for ever; this is one round trip instead of seven.
        """
        if not observation.is_idle(self._redis, self._levels):
            return False
        fewest = self._limits.fewest
        return all(
            sum(not instance.leaving for instance in instances) == fewest for instances in self._crew.running().values()
        )

    def step(self, *, act: bool = True, patience: float = 0.0) -> Look:
        """Look, decide, act and log. Without `act` nothing is started, stopped, kept or logged.

        Waits at most `patience` seconds for another host that is at it. Raises `CrewError` when the workers of this
        host can't be asked for.
        """
        if not act:
            return self._step(act=False)
        with self._alone(patience) as alone:
            if not alone:
                return Look([], {}, HostSeen(), "another host decides at this moment")
            return self._step(act=True)

    @contextlib.contextmanager
    def _alone(self, patience: float) -> Iterator[bool]:
        lock = self._redis.lock(LOCK, timeout=LOCK_SECONDS, blocking=patience > 0, blocking_timeout=patience)
        if not lock.acquire():
            yield False
            return
        try:
            yield True
        finally:
            with contextlib.suppress(LockError):  # it ran out meanwhile
                lock.release()

    def _step(self, *, act: bool) -> Look:
        now = self._clock.now()
        looked = observation.look(self._redis, self._levels, now, self._window)
        crew = self._crew.running()
        record = self._recall()
        paces = {
            queue: observation.paced(now, reading, record.paces.get(queue)) for queue, reading in looked.queues.items()
        }
        seen = self._seen(now, looked, crew, paces, record)
        host = self._vitals(self._busy_here(seen))
        if looked.suspended:
            return Look([], seen, host, "the workers are suspended (rq suspend), so nothing is decided")
        decisions, memory = policy.decide(now, seen, host, record.memory, self._limits)
        if not act:
            return Look(decisions, seen, host)
        failed = tuple(each for decision in decisions for each in self._act(decision, crew.get(decision.queue, [])))
        word = Word(now, {decision.queue: decision.after for decision in decisions})
        fresh = {name: said for name, said in record.hosts.items() if now - said.at < WORD_SECONDS}
        self._keep(Record(memory, paces, {**fresh, self._host: word}))
        return Look(decisions, seen, host, failed=failed)

    def _seen(
        self,
        now: float,
        looked: Looked,
        crew: Mapping[str, list[Instance]],
        paces: Mapping[str, Pace],
        record: Record,
    ) -> dict[str, QueueSeen]:
        seen = {}
        for queue, reading in looked.queues.items():
            elsewhere = {host: count for host, count in reading.hosts.items() if host != self._host}
            for host, word in record.hosts.items():
                if host != self._host and abs(now - word.at) < WORD_SECONDS and queue in word.workers:
                    elsewhere[host] = word.workers[queue]
            here = sum(not instance.leaving for instance in crew[queue]) if queue in crew else None
            seen[queue] = QueueSeen(
                waiting=reading.waiting,
                jobs=reading.jobs,
                oldest=reading.oldest,
                arrivals=reading.arrivals,
                seconds=paces[queue].seconds,
                busy=reading.busy,
                here=here,
                elsewhere=elsewhere,
            )
        return seen

    def _busy_here(self, seen: Mapping[str, QueueSeen]) -> int:
        """How many of this host's workers are busy, as near as the queues' totals tell."""
        return sum(min(each.busy, each.here or 0) for each in seen.values())

    # Acting

    def _act(self, decision: Decision, instances: list[Instance]) -> Iterator[str]:
        """Carry a decision out, and log it; yields what failed."""
        if decision.told:
            self._log.info("%s", decision, extra={"queue": decision.queue})
        staying = sorted(instance.number for instance in instances if not instance.leaving)
        present = list(instances)
        try:
            for _ in range(decision.after - decision.before):
                number = free_number(present)
                self._crew.start(decision.queue, number)
                present.append(Instance(number))
            for number in staying[decision.after :]:
                if number != 1:
                    self._crew.stop(decision.queue, number)
        except CrewError as error:
            self._log.error("%s", error)
            yield str(error)

    # Memory

    def _recall(self) -> Record:
        raw = self._redis.get(KEY)
        try:
            return msgspec.json.decode(raw, type=Record) if raw else Record()
        except msgspec.DecodeError:  # another version's: the looks begin again
            return Record()

    def _keep(self, record: Record) -> None:
        self._redis.set(KEY, msgspec.json.encode(record), ex=KEPT_SECONDS)
