"""One step: observe, decide, act. `llmctl up` runs it every few seconds, `llmctl autoscale` on hosts.

All hosts share one state in Redis; a lock lets one host at a time take a step. Each host records there how many
workers it has decided on, because a worker that has just started is not registered yet. So two hosts do not both add
workers for the same backlog.
"""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
import psutil  # type: ignore[import-untyped]
from redis import Redis
from redis.exceptions import LockError

from llm_scheduler.api.scaling import observation, policy
from llm_scheduler.api.scaling.actuators import Crew, CrewError, Instance, free_number
from llm_scheduler.api.scaling.observation import HostProbe, Observation, Pace
from llm_scheduler.api.scaling.policy import Decision, HostLoad, Limits, QueueLoad
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.store.keys import keys_of

LOCK_SECONDS = 30.0
# For so long a host's report counts more than the registered workers: a new worker is registered by then.
REPORT_SECONDS = 15.0
KEPT_SECONDS = 86400
_WORKERS_PER_CPU = 4
_MAX_WINDOW = 60.0


class HostReport(msgspec.Struct, frozen=True):
    """When a host decided, and on how many workers of each queue."""

    at: float
    workers: dict[str, int]


class ScalingState(msgspec.Struct, frozen=True):
    """What is kept between two steps."""

    memory: policy.PolicyMemory = policy.PolicyMemory()
    paces: dict[str, Pace] = {}
    hosts: dict[str, HostReport] = {}


class StepResult(NamedTuple):
    """A decision for each queue that this host serves, the observed load, why nothing was decided, and what failed."""

    decisions: list[Decision]
    seen: dict[str, QueueLoad]
    host: HostLoad
    note: str = ""
    failed: tuple[str, ...] = ()


def limits(config: Config) -> Limits:
    """The limits of this host. Without `max_workers` in the configuration, CPUs and memory set it."""
    wanted = config.processing.autoscale
    thresholds = config.monitoring.alert_thresholds
    max_workers = wanted.max_workers
    if max_workers is None:
        cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        in_memory = psutil.virtual_memory().total // 2 // policy.WORKER_BYTES
        max_workers = min(_WORKERS_PER_CPU * cpus, in_memory)
    return Limits(
        target=wanted.target_seconds,
        shrink_after=wanted.shrink_after,
        min_workers=wanted.min_workers,
        max_workers=max(max_workers, wanted.min_workers * len(config.queue.priority_levels)),
        cpu=thresholds.cpu_usage,
        memory=thresholds.memory_usage,
    )


class Autoscaler:
    """Observes, decides and acts for this host. Methods raise what `AWAY` lists; then nothing was changed."""

    def __init__(
        self,
        config: Config,
        redis: Redis,
        crew: Crew,
        probe: HostProbe,
        clock: Clock,
        log: logging.Logger,
        host: str | None = None,
    ) -> None:
        self._levels = config.queue.priority_levels
        self._redis = redis
        self._keys = keys_of(redis)
        self._crew = crew
        self._probe = probe
        self._clock = clock
        self._log = log
        self._host = host or socket.gethostname()
        self._limits = limits(config)
        self._window = min(_MAX_WINDOW, max(1.0, self._limits.shrink_after / 5))

    def is_at_rest(self) -> bool:
        """Whether a step would change nothing: the queues are idle, and each has `min_workers` workers here.

        This is one round trip to Redis; a step is seven.
        """
        if not observation.is_idle(self._redis, self._levels):
            return False
        min_workers = self._limits.min_workers
        return all(
            sum(not instance.leaving for instance in instances) == min_workers
            for instances in self._crew.running().values()
        )

    def step(self, *, act: bool = True, patience: float = 0.0) -> StepResult:
        """Observe, decide, act and log. Without `act` nothing is started, stopped, saved or logged.

        Waits at most `patience` seconds for the step of another host. Raises `CrewError` if the workers of this host
        can't be listed.
        """
        if not act:
            return self._step(act=False)
        lock = self._redis.lock(
            self._keys.autoscale_lock, timeout=LOCK_SECONDS, blocking=patience > 0, blocking_timeout=patience
        )
        if not lock.acquire():
            return StepResult([], {}, HostLoad(), "another host decides at this moment")
        try:
            return self._step(act=True)
        finally:
            with contextlib.suppress(LockError):  # it has expired
                lock.release()

    def _step(self, *, act: bool) -> StepResult:
        now = self._clock.now()
        observed = observation.observe(self._redis, self._levels, now, self._window)
        crew = self._crew.running()
        state = self._load()
        paces = {
            queue: observation.updated_pace(now, reading, state.paces.get(queue))
            for queue, reading in observed.queues.items()
        }
        seen = self._seen(now, observed, crew, paces, state)
        # How many of this host's workers are busy is estimated from the totals of the queues.
        host = self._probe(sum(min(each.busy, each.here or 0) for each in seen.values()))
        if observed.suspended:
            return StepResult([], seen, host, "the workers are suspended (rq suspend), so nothing is decided")
        decisions, memory = policy.decide(now, seen, host, state.memory, self._limits)
        if not act:
            return StepResult(decisions, seen, host)
        failed = tuple(each for decision in decisions for each in self._act(decision, crew.get(decision.queue, [])))
        report = HostReport(now, {decision.queue: decision.after for decision in decisions})
        fresh = {name: other for name, other in state.hosts.items() if now - other.at < REPORT_SECONDS}
        state = ScalingState(memory, paces, {**fresh, self._host: report})
        self._redis.set(self._keys.autoscale, msgspec.json.encode(state), ex=KEPT_SECONDS)
        return StepResult(decisions, seen, host, failed=failed)

    def _seen(
        self,
        now: float,
        observed: Observation,
        crew: Mapping[str, list[Instance]],
        paces: Mapping[str, Pace],
        state: ScalingState,
    ) -> dict[str, QueueLoad]:
        seen = {}
        for queue, reading in observed.queues.items():
            elsewhere = {host: count for host, count in reading.hosts.items() if host != self._host}
            for host, report in state.hosts.items():
                if host != self._host and abs(now - report.at) < REPORT_SECONDS and queue in report.workers:
                    elsewhere[host] = report.workers[queue]
            here = sum(not instance.leaving for instance in crew[queue]) if queue in crew else None
            seen[queue] = QueueLoad(
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

    def _act(self, decision: Decision, instances: list[Instance]) -> Iterator[str]:
        """Carry out a decision and log it; yields what failed."""
        if decision.is_logged:
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

    def _load(self) -> ScalingState:
        raw = self._redis.get(self._keys.autoscale)
        try:
            return msgspec.json.decode(raw, type=ScalingState) if raw else ScalingState()
        except msgspec.DecodeError:  # another version wrote it: start again
            return ScalingState()
