"""How many workers there are: the policy under a simulated day, its rules, what it sees, and what it acts through."""

import heapq
import json
import logging
import math
import os
import random
import stat
import subprocess
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import KEYS, LLMCTL, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from llm_scheduler.api.scaling import observation, policy
from llm_scheduler.api.scaling.actuators import CrewError, Instance, Systemd, free_number
from llm_scheduler.api.scaling.autoscaler import Autoscaler, StepResult
from llm_scheduler.api.scaling.observation import QueueReading, updated_pace
from llm_scheduler.api.scaling.policy import Decision, HostLoad, Limits, PolicyMemory, QueueLoad, decide, workers_for
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.config.model import Autoscale, Processing
from llm_scheduler.jobs.document import Status, new_id
from llm_scheduler.jobs.store import ledger

HOUR = 3600.0
DAY = 24 * HOUR


# A day, simulated


@dataclass
class Simulation:
    """A queue, first come, first served, whose workers the policy adds and takes away; every document is an event.

    What the policy sees of it goes through `updated_pace`, as what Redis says does.
    """

    arrivals: list[float]
    seconds: float
    limits: Limits
    look_every: float = 5.0
    window: float = 100.0
    start_seconds: float = 2.0
    seed: int = 1
    waits: list[tuple[float, float]] = field(default_factory=list)  # (arrival, wait)
    counts: list[tuple[float, int]] = field(default_factory=list)  # (look, workers decided on)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    worker_seconds: float = 0.0

    def run(self, until: float) -> "Simulation":
        chance = random.Random(self.seed)
        free = [0.0]  # when each worker will be free
        pending: deque[float] = deque()
        ends: list[tuple[float, float]] = []
        following = finished = 0
        worked = 0.0
        pace, memory = None, PolicyMemory()
        for step in range(1, int(until / self.look_every) + 1):
            now = step * self.look_every
            while True:
                if not pending:
                    if following == len(self.arrivals) or self.arrivals[following] >= now:
                        break
                    pending.append(self.arrivals[following])
                    following += 1
                begin = max(pending[0], free[0])
                if begin >= now:
                    break
                took = chance.expovariate(1 / self.seconds)
                self.waits.append((pending[0], begin - pending.popleft()))
                heapq.heapreplace(free, begin + took)
                heapq.heappush(ends, (begin + took, took))
            while following < len(self.arrivals) and self.arrivals[following] < now:
                pending.append(self.arrivals[following])
                following += 1
            while ends and ends[0][0] <= now:
                worked += heapq.heappop(ends)[1]
                finished += 1
            self.worker_seconds += len(free) * self.look_every
            reading = QueueReading(
                waiting=len(pending),
                jobs=len(pending),
                oldest=now - pending[0] if pending else 0.0,
                arrivals=(following - bisect_left(self.arrivals, now - self.window, 0, following)) / self.window,
                finished=finished,
                busy=sum(each > now for each in free),
                hosts={},
                worked={"all": (0, worked)},
            )
            pace = updated_pace(now, reading, pace)
            seen = QueueLoad(
                waiting=reading.waiting,
                jobs=reading.jobs,
                oldest=reading.oldest,
                arrivals=reading.arrivals,
                seconds=pace.seconds,
                busy=reading.busy,
                here=len(free),
            )
            (decision,), memory = decide(now, {"high": seen}, HostLoad(), memory, self.limits)
            if decision.changes:
                self.decisions.append((now, decision))
            while len(free) < decision.after:
                heapq.heappush(free, now + self.start_seconds)
            while len(free) > decision.after:
                heapq.heappop(free)  # the one that is or will be free first; a busy one ends its document
            self.counts.append((now, len(free)))
        return self

    # What came of it

    def late_share(self, without: Callable[[float], bool] = lambda at: False) -> float:
        """The share of documents that waited longer than the target."""
        waits = [wait for at, wait in self.waits if not without(at)]
        return sum(wait > self.limits.target for wait in waits) / len(waits)

    def reversals(self) -> list[float]:
        """When a change went the other way than the one before."""
        found = []
        for (_, before), (at, after) in zip(self.decisions, self.decisions[1:], strict=False):
            if (before.after > before.before) != (after.after > after.before):
                found.append(at)
        return found


def poisson(rate: Callable[[float], float], until: float, seed: int) -> list[float]:
    """Arrivals of a rate that hardly changes from one to the next."""
    chance = random.Random(seed)
    at, arrivals = 0.0, []
    while (at := at + chance.expovariate(rate(at))) < until:
        arrivals.append(at)
    return arrivals


BURST = 15.5 * HOUR
BURST_SECONDS = 600.0
SECONDS = 1.0
LIMITS = Limits(target=10.0, shrink_after=300.0, min_workers=1, max_workers=64)


def day(at: float) -> float:
    """Documents a second: quiet at night, a peak in the morning and one after noon, and ten times as many for ten
    minutes in the afternoon."""
    hour = at / HOUR
    rate = 1.0 + 0.8 * (1 - math.cos(2 * math.pi * hour / 24)) / 2
    rate += 5.0 * math.exp(-(((hour - 9.5) / 1.0) ** 2)) + 3.5 * math.exp(-(((hour - 14.0) / 0.8) ** 2))
    return rate * 10 if BURST <= at < BURST + BURST_SECONDS else rate


def test_a_day_meets_the_target_without_flapping_or_waste() -> None:
    arrivals = poisson(day, DAY, seed=4)
    simulation = Simulation(arrivals, SECONDS, LIMITS).run(DAY)
    assert len(simulation.waits) > 150_000
    # In the first minute and a half of a burst that nobody foresaw, documents are late; then no more.
    catching_up = 90.0
    late = simulation.late_share(lambda at: BURST <= at < BURST + catching_up)
    assert late < 0.01, f"p99 misses the target: {late:.2%} are late"
    in_the_burst = [wait for at, wait in simulation.waits if BURST <= at < BURST + BURST_SECONDS]
    assert max(in_the_burst) < 60
    # Never up and down within the window, and few changes of direction in all.
    for (earlier, up), (later, down) in zip(simulation.decisions, simulation.decisions[1:], strict=False):
        if up.after > up.before and down.after < down.before:
            assert later - earlier >= LIMITS.shrink_after, f"up at {earlier:.0f} s, down at {later:.0f} s"
    assert len(simulation.reversals()) <= 24
    for start in range(24):
        within = [at for at in simulation.reversals() if start * HOUR <= at < (start + 1) * HOUR]
        assert len(within) <= 4, f"hour {start}: {len(within)} changes of direction"
    # The ideal knows the future and starts workers in no time: enough for what arrives, and never less than one.
    ideal = sum(max(1, math.ceil(day(second) * SECONDS)) for second in range(int(DAY)))
    assert simulation.worker_seconds < 1.6 * ideal, f"{simulation.worker_seconds / ideal:.2f} times the ideal"


@pytest.mark.parametrize("rate", [0.05, 0.9, 1.5, 2.4, 3.9, 7.7])
def test_a_constant_load_settles(rate: float) -> None:
    simulation = Simulation(poisson(lambda at: rate, 8 * HOUR, seed=7), 0.5, LIMITS).run(8 * HOUR)
    later = [(round(at), str(decision)) for at, decision in simulation.decisions if at > HOUR / 2]
    assert len(later) <= 1, later
    assert simulation.late_share(lambda at: at < 300) < 0.01
    load = rate * 0.5
    assert load < simulation.counts[-1][1] <= max(1, math.ceil(load * policy.MARGIN / policy.MAX_BUSY))


# The rules


def decided(
    limits: Limits = LIMITS, host: HostLoad | None = None, now: float = 1000.0, **queues: QueueLoad
) -> dict[str, Decision]:
    """The decisions of a first look."""
    decisions, _ = decide(now, queues, host or HostLoad(), PolicyMemory(), limits)
    return {decision.queue: decision for decision in decisions}


def test_growth_says_why_in_words() -> None:
    seen = QueueLoad(waiting=400, jobs=400, oldest=12.44, arrivals=40.0, seconds=1 / 18.3, busy=1, here=1)
    decision = decided(Limits(target=5, max_workers=8), high=seen)["high"]
    assert str(decision) == (
        "high: 1 -> 5 workers: oldest document waits 12.4 s (target 5 s), 400 wait, "
        "40.0 documents/s arrive, one worker does 18.3/s"
    )


def test_a_backlog_gets_no_more_workers_than_it_has_jobs() -> None:
    one_big_job = QueueLoad(waiting=500, jobs=1, oldest=1.0, seconds=1.0, busy=1, here=1)
    assert decided(high=one_big_job)["high"].after == 2


def test_an_unknown_pace_grows_by_half_while_the_oldest_waits_longer_and_longer() -> None:
    seen = QueueLoad(waiting=100, jobs=100, oldest=11.0, busy=2, here=2)
    (first,), memory = decide(1000.0, {"high": seen}, HostLoad(), PolicyMemory(), LIMITS)
    assert (first.after, "does not get shorter" in first.reason) == (3, True)
    grown = msgspec.structs.replace(seen, oldest=16.0, here=3, busy=3)
    (at_once,), memory = decide(1005.0, {"high": grown}, HostLoad(), memory, LIMITS)
    assert at_once.after == 3, "the first growth is given time"
    grown = msgspec.structs.replace(grown, oldest=21.0)
    (later,), memory = decide(1010.0, {"high": grown}, HostLoad(), memory, LIMITS)
    assert later.after == 5
    shorter = msgspec.structs.replace(grown, oldest=20.0, here=5, busy=5)
    (draining,), _ = decide(1025.0, {"high": shorter}, HostLoad(), memory, LIMITS)
    assert draining.after == 5, "it gets shorter: enough"


def test_idle_workers_beside_an_old_document_are_not_helped_by_more() -> None:
    seen = QueueLoad(waiting=1, jobs=1, oldest=60.0, seconds=0.1, busy=0, here=2)
    assert decided(high=seen)["high"].after == 2


def test_shrinking_waits_out_the_window_and_goes_a_step_at_a_time() -> None:
    memory = PolicyMemory()
    here, counts = 5, {}
    for step in range(100):
        now = 1000.0 + 5 * step
        seen = QueueLoad(seconds=0.5, arrivals=0.1, here=here)
        (decision,), memory = decide(now, {"high": seen}, HostLoad(), memory, LIMITS)
        assert decision.after in (here, here - 1)
        here = counts[now - 1000] = decision.after
    assert all(count == 5 for at, count in counts.items() if at < 300)
    assert [counts[at] for at in (300.0, 305.0, 310.0, 315.0)] == [4, 3, 2, 1]
    assert here == 1
    assert len(msgspec.json.encode(memory)) < 500, "what is remembered stays small"


def test_one_busy_look_keeps_the_workers_for_another_window() -> None:
    memory = PolicyMemory()
    for step in range(120):
        now = 1000.0 + 5 * step
        busy = step == 50
        seen = QueueLoad(seconds=0.5, arrivals=5.0 if busy else 0.1, here=5)
        (decision,), memory = decide(now, {"high": seen}, HostLoad(), memory, LIMITS)
        if decision.changes:
            break
    assert now - 1000 == 250 + 300


def test_a_busy_cpu_takes_no_more_workers_and_an_idle_one_does() -> None:
    """Handlers that wait for others leave the CPU idle: then workers are cheap."""
    seen = QueueLoad(waiting=1000, jobs=1000, oldest=1.0, arrivals=1.0, seconds=1.0, busy=4, here=4)
    held = decided(host=HostLoad(cpu=93, busy=4), high=seen)["high"]
    assert (held.after, held.is_logged) == (4, True)
    assert str(held).endswith("; the CPU is busy for 93 % (alert threshold 80 %)")
    assert decided(host=HostLoad(cpu=60, busy=4), high=seen)["high"].after == 5, "15 % a worker: one more fits"
    assert decided(host=HostLoad(cpu=4, busy=4), high=seen)["high"].after == 64
    least = QueueLoad(here=0)
    assert decided(host=HostLoad(cpu=100), high=least)["high"].after == 1, "the fewest run in any case"


def test_what_holds_growth_back_is_told_once() -> None:
    seen = {"high": QueueLoad(waiting=1000, jobs=1000, oldest=1.0, seconds=1.0, busy=4, here=4)}
    (first,), memory = decide(1000.0, seen, HostLoad(cpu=93, busy=4), PolicyMemory(), LIMITS)
    (again,), memory = decide(1005.0, seen, HostLoad(cpu=95, busy=4), memory, LIMITS)
    (other,), memory = decide(1010.0, seen, HostLoad(memory=90, memory_bytes=2**30), memory, LIMITS)
    assert (first.is_logged, again.is_logged, other.is_logged) == (True, False, True)
    assert "90 % of the memory" in other.held


def test_memory_is_left_for_the_others() -> None:
    seen = QueueLoad(waiting=1000, jobs=1000, oldest=1.0, seconds=1.0, busy=1, here=1)
    host = HostLoad(memory=75, memory_bytes=2 * 2**30)  # 205 MiB up to 85 %
    assert decided(host=host, high=seen)["high"].after == 4


def test_the_more_urgent_queue_has_the_room() -> None:
    limits = Limits(max_workers=8)
    needy = QueueLoad(waiting=1000, jobs=1000, oldest=1.0, seconds=1.0, busy=2, here=2)
    decisions = decided(limits, high=needy, medium=msgspec.structs.replace(needy, here=1), low=QueueLoad(here=1))
    assert [decisions[name].after for name in ("high", "medium", "low")] == [6, 1, 1]
    assert "takes 8 workers in all" in decisions["high"].held
    # No room: the less urgent one gives way, a worker at a time.
    decisions = decided(limits, high=needy, low=msgspec.structs.replace(needy, here=6, busy=6))
    assert [decisions[name].after for name in ("high", "low")] == [2, 5]
    assert "more urgent" in decisions["low"].reason


def test_hosts_share_growth_and_the_fullest_shrinks() -> None:
    seen = QueueLoad(waiting=80, jobs=80, oldest=1.0, seconds=1.0, busy=3, here=1, elsewhere={"b": 1, "c": 1})
    assert decided(high=seen)["high"].after == 3, "8 are needed, 3 are there, a third of the rest is ours"
    for elsewhere, after in (({"b": 3}, 2), ({"b": 2}, 1), ({"b": 1}, 1)):
        memory = PolicyMemory()
        for step in range(61):
            idle = QueueLoad(seconds=0.1, here=2, elsewhere=elsewhere)
            (decision,), memory = decide(1000.0 + 5 * step, {"high": idle}, HostLoad(), memory, LIMITS)
        assert decision.after == after, elsewhere
    assert not decided(high=msgspec.structs.replace(seen, here=None)), "a queue that this host doesn't serve"


@pytest.mark.parametrize(("count", "load", "waits"), [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (3, 2.0, 4 / 9)])
def test_erlangs_formula(count: int, load: float, waits: float) -> None:
    lost = 1.0
    for each in range(1, count + 1):
        lost = policy._lost(each, load, lost)
    assert policy._waiting(count, load, lost) == pytest.approx(waits)


def test_longer_documents_need_more_to_spare() -> None:
    assert workers_for(0.7, 0.5, target=10) == 1
    assert workers_for(0.7, 8.0, target=10) > 2, "one in three would wait for one that takes as long as the target"
    assert workers_for(math.inf, 1.0, target=10) == policy.MAX_WORKERS


finite = {"allow_nan": False, "allow_infinity": False}
queues_seen = st.builds(
    QueueLoad,
    waiting=st.integers(0, 100_000),
    jobs=st.integers(0, 100_000),
    oldest=st.floats(0, 1e6, **finite),
    arrivals=st.floats(0, 1e5, **finite),
    seconds=st.none() | st.floats(1e-6, 1e4, **finite),
    busy=st.integers(0, 50),
    here=st.none() | st.integers(0, 50),
    elsewhere=st.dictionaries(st.sampled_from("abc"), st.integers(0, 20)),
)
looks = st.dictionaries(st.sampled_from(["high", "medium", "low"]), queues_seen, max_size=3)
hosts_seen = st.builds(
    HostLoad,
    cpu=st.floats(0, 100),
    memory=st.floats(0, 100),
    memory_bytes=st.integers(0, 2**40),
    busy=st.integers(0, 50),
)
limits_given = st.builds(
    Limits,
    target=st.floats(0.1, 1000),
    shrink_after=st.floats(0.1, 3600),
    min_workers=st.integers(1, 3),
    max_workers=st.integers(9, 100),
    cpu=st.floats(0, 100),
    memory=st.floats(0, 100),
)
times = st.floats(0, 4e9, **finite)


@given(st.lists(st.tuples(times, looks, hosts_seen), min_size=1, max_size=8), limits_given)
@settings(max_examples=150, deadline=None)
def test_whatever_the_clock_and_the_looks_the_counts_stay_within_limits(
    steps: list[tuple[float, dict[str, QueueLoad], HostLoad]], limits: Limits
) -> None:
    memory = PolicyMemory()
    for now, queues, host in steps:
        decisions, memory = decide(now, queues, host, memory, limits)
        assert [each.queue for each in decisions] == [name for name, seen in queues.items() if seen.here is not None]
        grown = 0
        for each in decisions:
            assert each.before == queues[each.queue].here
            assert each.after >= min(each.before, limits.min_workers)
            assert each.after >= each.before - 1, "down a step at a time"
            assert each.reason
            if each.before >= limits.min_workers:
                grown += max(0, each.after - each.before)
        running = sum(each.before for each in decisions)
        assert grown <= max(0, limits.max_workers - running), "never above what the host takes"
        assert msgspec.json.decode(msgspec.json.encode(memory), type=PolicyMemory) == memory


@given(queues_seen, st.integers(0, 1000), limits_given, hosts_seen)
@settings(max_examples=200, deadline=None)
def test_a_longer_backlog_never_gets_fewer_workers(seen: QueueLoad, more: int, limits: Limits, host: HostLoad) -> None:
    longer = msgspec.structs.replace(seen, waiting=seen.waiting + more, jobs=seen.jobs + more)
    shorter_gets, longer_gets = (decided(limits, host, high=each) for each in (seen, longer))
    assert (seen.here is None) == (not shorter_gets)
    if shorter_gets:
        assert longer_gets["high"].after >= shorter_gets["high"].after


def test_without_anything_seen_nothing_is_decided() -> None:
    memory = PolicyMemory(5.0)
    assert decide(1000.0, {}, HostLoad(), memory, LIMITS) == ([], memory)


@pytest.mark.parametrize("jump", [-DAY, -3.0, 3.0, DAY])
def test_a_clock_that_jumps_stops_no_worker(jump: float) -> None:
    memory = PolicyMemory()
    for step in range(40):
        seen = {"high": QueueLoad(seconds=0.5, here=5)}
        (decision,), memory = decide(1e6 + 5 * step + (jump if step >= 20 else 0), seen, HostLoad(), memory, LIMITS)
        assert not decision.changes


# What is looked at


def fill(redis: Redis, now: float, level: str, status: Status, ages: list[float], waits: float | None = None) -> None:
    for age in ages:
        fields: ledger.Fields = {"priority": level, "size": 10}
        ledger.move(redis, status, now - (age if waits is None else waits), [(new_id(now - age), fields)])


def worker(redis: Redis, name: str, queue: str, host: str = "here", state: str = "busy", **more: Any) -> None:
    key = KEYS.worker(name)
    redis.sadd(KEYS.workers, key)
    fields = {"hostname": host, "pid": 1, "queues": queue, "state": state, "birth": "2026-11-23T21:00:00.000000Z"}
    redis.hset(key, mapping={**fields, **more})


def test_a_look_reads_the_ledger_and_the_workers(redis: Redis) -> None:
    now = 1_800_000_000.0
    fill(redis, now, "high", Status.QUEUED, [3.0, 8.5, 1.0])
    fill(redis, now, "high", Status.DONE, [2.0, 20.0, 50.0])
    fill(redis, now, "high", Status.STARTED, [9.0])
    # It arrived an hour ago and failed; it waits again since four seconds.
    fill(redis, now, "low", Status.QUEUED, [3600.0], waits=4.0)
    redis.rpush(KEYS.queue("high"), "a", "b")
    worker(redis, "w1", "high", successful_job_count=4, total_working_time=2.5)
    worker(redis, "w2", "high", host="there", state="idle")
    found = observation.observe(redis, ["high", "medium", "low"], now, 10.0)
    assert not found.suspended
    high = found.queues["high"]
    assert (high.waiting, high.jobs, high.finished, high.busy) == (3, 2, 3, 1)
    assert high.oldest == pytest.approx(8.5)
    assert high.arrivals == pytest.approx(0.5), "five in the last ten seconds, whatever became of them"
    assert high.hosts == {"here": 1, "there": 1}
    assert high.worked == {"w1": (4, 2.5), "w2": (0, 0.0)}
    assert found.queues["low"].oldest == pytest.approx(4.0)
    assert found.queues["medium"] == QueueReading(0, 0, 0.0, 0.0, 0, 0, {}, {})
    redis.set(KEYS.suspended, 1)
    assert observation.observe(redis, ["high"], now, 10.0).suspended


def test_the_pace_is_work_over_documents() -> None:
    empty = QueueReading(0, 0, 0.0, 0.0, 0, 0, {}, {})
    pace = updated_pace(0.0, empty._replace(finished=70, worked={"a": (10, 5.0)}), None)
    assert pace.seconds is None, "nothing was seen to be done yet"
    pace = updated_pace(5.0, empty._replace(finished=80, worked={"a": (12, 8.0), "b": (1, 2.0)}), pace)
    assert pace.seconds == pytest.approx((5.0 + 3 * observation.JOB_SECONDS) / 10)
    same = updated_pace(4000.0, empty._replace(finished=80, worked={"a": (12, 8.0), "b": (1, 2.0)}), pace)
    assert same.seconds == pace.seconds, "idle time makes nothing forgotten"
    trimmed = updated_pace(4005.0, empty._replace(finished=3, worked={"c": (1, 1.0)}), same)
    assert trimmed.seconds == pace.seconds
    slower = trimmed
    for step in range(400):
        finished = 3 + step
        slower = updated_pace(
            5000.0 + 5 * step, empty._replace(finished=finished, worked={"c": (1, 4.0 * step)}), slower
        )
    assert slower.seconds == pytest.approx(4.0, rel=0.05), "a new handler is found out"


# What is acted through


FAKE_SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$0.calls"
case "$1" in
  list-units) cat "$0.units" ;;
  *) [ -e "$0.broken" ] && { echo "Access denied" >&2; exit 4; } ;;
esac
exit 0
"""


class Systemctl:
    """A program of that name that writes down what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "systemctl"
        self.path.write_text(FAKE_SYSTEMCTL)
        self.path.chmod(self.path.stat().st_mode | stat.S_IEXEC)
        self.units("llm-worker@high.service loaded active running LLM worker of high")

    def units(self, *lines: str) -> None:
        Path(f"{self.path}.units").write_text("".join(f"{line}\n" for line in lines))

    def break_it(self) -> None:
        Path(f"{self.path}.broken").touch()

    def calls(self) -> list[str]:
        path = Path(f"{self.path}.calls")
        if not path.exists():
            return []
        return [line for line in path.read_text().splitlines() if not line.startswith("list-units")]


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Systemctl(folder)


def test_systemd_units_are_read_started_and_stopped(systemctl: Systemctl) -> None:
    systemctl.units(
        "llm-worker@high.service loaded active running LLM worker of high",
        "llm-worker@high.2.service loaded activating start LLM worker of high",
        "llm-worker@high.3.service loaded deactivating stop-sigterm LLM worker of high",
        "llm-worker@high.4.service loaded failed failed LLM worker of high",
        "llm-worker@low.service loaded inactive dead LLM worker of low",
        "llm-worker@low.2.service loaded active running LLM worker of low",
        "llm-worker@medium-2_x.service loaded active running LLM worker",
        "llm-worker@.service loaded active running not one of ours",
    )
    crew = Systemd()
    running = crew.running()
    assert running == {
        "high": [Instance(1), Instance(2), Instance(3, leaving=True)],
        "medium-2_x": [Instance(1)],
    }, "low's own worker is not running, so this host does not serve it"
    assert free_number(running["high"]) == 4
    crew.start("high", 4)
    crew.stop("high", 2)
    assert systemctl.calls() == [
        "start --no-block llm-worker@high.4.service",
        "stop --no-block llm-worker@high.2.service",
    ]
    systemctl.break_it()
    with pytest.raises(CrewError, match=r"systemctl start --no-block llm-worker@high\.5\.service: Access denied"):
        crew.start("high", 5)


def test_a_machine_without_systemd_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CrewError, match="no systemctl"):
        Systemd()


# All together


class FakeCrew:
    """Workers that exist on paper."""

    def __init__(self, **queues: int) -> None:
        self.queues = {queue: set(range(1, count + 1)) for queue, count in queues.items()}
        self.broken = False

    def running(self) -> Mapping[str, list[Instance]]:
        return {queue: [Instance(number) for number in numbers] for queue, numbers in self.queues.items()}

    def start(self, queue: str, number: int) -> None:
        if self.broken:
            raise CrewError("no room")
        assert number not in self.queues[queue]
        self.queues[queue].add(number)

    def stop(self, queue: str, number: int) -> None:
        assert number != 1
        self.queues[queue].remove(number)


class FakeClock:
    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


CONFIG = Config(processing=Processing(max_workers="auto", autoscale=Autoscale(max_workers=20)))
LOG = logging.getLogger("test.autoscale")


def autoscaler(
    redis: Redis, crew: FakeCrew, clock: FakeClock, host: str = "here", config: Config = CONFIG
) -> Autoscaler:
    return Autoscaler(config, redis, crew, lambda busy: HostLoad(), clock, LOG, host)


def backlog(redis: Redis, clock: FakeClock, documents: int = 60) -> None:
    """Documents of a second each, the pace already known."""
    worker(redis, "here-high", "high", successful_job_count=1, total_working_time=0)
    autoscaler(redis, FakeCrew(), clock).step()
    clock.at += 1
    fill(redis, clock.at, "high", Status.DONE, [1.0] * 10)
    redis.hset(KEYS.worker("here-high"), "total_working_time", 10.0)
    fill(redis, clock.at, "high", Status.QUEUED, [2.0] * documents)
    redis.rpush(KEYS.queue("high"), *(str(number) for number in range(documents)))


def test_a_look_decides_acts_and_logs(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    backlog(redis, clock)
    crew = FakeCrew(high=1, medium=1, low=1)
    with caplog.at_level("INFO", "test.autoscale"):
        look = autoscaler(redis, crew, clock).step()
    assert [decision.queue for decision in look.decisions] == ["high", "medium", "low"]
    assert crew.queues == {"high": {1, 2, 3, 4, 5, 6}, "medium": {1}, "low": {1}}
    (line,) = caplog.messages
    assert line.startswith("high: 1 -> 6 workers: oldest document waits 2.0 s (target 10 s), 60 wait, ")
    assert "one worker does 1/s" in line
    # All is done: the same autoscaler, or another one after a restart, sends them home after five minutes.
    redis.delete(KEYS.queue("high"), KEYS.status_set("queued", "high"))
    redis.hset(KEYS.worker("here-high"), "state", "idle")
    for _ in range(160):
        clock.at += 5
        autoscaler(redis, crew, clock).step()
    assert crew.queues == {"high": {1}, "medium": {1}, "low": {1}}


def test_two_hosts_do_not_both_answer_one_backlog(redis: Redis) -> None:
    clock = FakeClock()
    backlog(redis, clock)
    worker(redis, "there-high", "high", host="there")
    here, there = FakeCrew(high=1), FakeCrew(high=1)
    for _ in range(6):
        autoscaler(redis, here, clock, "here").step()
        clock.at += 0.5
        autoscaler(redis, there, clock, "there").step()
    counts = [len(here.queues["high"]), len(there.queues["high"])]
    assert sum(counts) == 6, "as many as one host alone would have"
    assert abs(counts[0] - counts[1]) <= 1


def test_one_host_at_a_time(redis: Redis) -> None:
    clock = FakeClock()
    backlog(redis, clock)
    crew = FakeCrew(high=1)
    redis.set(KEYS.autoscale_lock, "another", px=60_000)
    look = autoscaler(redis, crew, clock).step()
    assert (look.decisions, crew.queues) == ([], {"high": {1}})
    assert "another host" in look.note
    redis.delete(KEYS.autoscale_lock)
    autoscaler(redis, crew, clock).step()
    assert not redis.exists(KEYS.autoscale_lock)
    assert len(crew.queues["high"]) == 6


def test_suspended_workers_are_left_alone(redis: Redis) -> None:
    clock = FakeClock()
    backlog(redis, clock)
    redis.set(KEYS.suspended, 1)
    look = autoscaler(redis, crew := FakeCrew(high=1), clock).step()
    assert (look.decisions, crew.queues) == ([], {"high": {1}})
    assert "suspended" in look.note


def test_a_dry_run_leaves_no_trace(redis: Redis) -> None:
    clock = FakeClock()
    backlog(redis, clock)
    before = redis.get(KEYS.autoscale)
    look = autoscaler(redis, crew := FakeCrew(high=1), clock).step(act=False)
    assert look.decisions[0].after == 6
    assert (crew.queues, redis.get(KEYS.autoscale)) == ({"high": {1}}, before)


def test_an_act_that_fails_is_told_and_stops_nothing_else(redis: Redis) -> None:
    clock = FakeClock()
    backlog(redis, clock)
    crew = FakeCrew(high=1, low=1)
    crew.broken = True
    look: StepResult = autoscaler(redis, crew, clock).step()
    assert look.failed == ("no room",)
    crew.broken = False
    autoscaler(redis, crew, clock).step()
    assert len(crew.queues["high"]) == 6


def test_an_idle_system_at_its_fewest_is_left_in_peace(redis: Redis) -> None:
    clock = FakeClock()
    assert autoscaler(redis, FakeCrew(high=1, low=1), clock).is_at_rest()
    assert not autoscaler(redis, FakeCrew(high=2, low=1), clock).is_at_rest(), "one may go home"
    fill(redis, clock.at, "low", Status.QUEUED, [0.0])
    assert not autoscaler(redis, FakeCrew(high=1, low=1), clock).is_at_rest(), "a document waits"


def test_another_versions_memory_is_begun_again(redis: Redis) -> None:
    redis.set(KEYS.autoscale, '{"memory": 7}')
    look = autoscaler(redis, FakeCrew(high=3), FakeClock()).step()
    assert [decision.after for decision in look.decisions] == [3]


# The command


def llmctl(folder: Path, server_url: str, *arguments: str, **processing: Any) -> subprocess.CompletedProcess[str]:
    path = folder / "config.json"
    path.write_text(
        json.dumps(
            {"processing": {"max_workers": "auto", **processing}, "queue": {"type": "redis", "redis_url": server_url}}
        )
    )
    return subprocess.run(
        [LLMCTL, "--config", str(path), "autoscale", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def server_url(redis_server: Any) -> str:
    return str(redis_server.url)


def test_the_command_starts_and_stops_units(tmp_path: Path, server_url: str, systemctl: Systemctl) -> None:
    systemctl.units(
        "llm-worker@high.service loaded active running LLM worker of high",
        "llm-worker@low.service loaded active running LLM worker of low",
    )
    done = llmctl(tmp_path, server_url, autoscale={"min_workers": 2})
    assert done.returncode == 0, done.stderr
    assert "high: 1 -> 2 workers: at least 2 (processing.autoscale.min_workers)" in done.stdout
    assert systemctl.calls() == [
        "start --no-block llm-worker@high.2.service",
        "start --no-block llm-worker@low.2.service",
    ]
    systemctl.break_it()
    refused = llmctl(tmp_path, server_url, autoscale={"min_workers": 2})
    assert (refused.returncode, "Access denied" in refused.stderr) == (1, True)


@pytest.mark.slow
def test_the_command_says_what_it_would_do(tmp_path: Path, redis: Redis, server_url: str) -> None:
    import socket

    worker(redis, "w", "high", host=socket.gethostname(), state="idle")
    done = llmctl(tmp_path, server_url, "--dry-run", max_workers=3, autoscale={"min_workers": 2})
    assert done.returncode == 0, done.stderr
    assert "high: 1 -> 2 workers" in done.stdout
    assert "Nothing was started or stopped." in done.stdout
    assert not redis.exists(KEYS.autoscale)
    data = json.loads(llmctl(tmp_path, server_url, "--dry-run", "--json", max_workers=3).stdout)
    assert data["decisions"] == [
        {"queue": "high", "before": 1, "after": 1, "reason": data["decisions"][0]["reason"], "held": None}
    ]
    assert set(data["queues"]) == {"high", "medium", "low"}


def test_the_command_watches_until_it_is_stopped(tmp_path: Path, server_url: str, systemctl: Systemctl) -> None:
    path = tmp_path / "config.json"
    processing = {"max_workers": "auto", "autoscale": {"min_workers": 3, "look_every": 0.1}}
    path.write_text(json.dumps({"processing": processing, "queue": {"type": "redis", "redis_url": server_url}}))
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen([LLMCTL, "--config", str(path), "autoscale", "--watch"], stderr=err)
    try:
        wait_until(lambda: "high.3" in " ".join(systemctl.calls()), "two more workers")
        systemctl.units(*(f"llm-worker@high{n}.service loaded active running x" for n in ("", ".2", ".3", ".4")))
        wait_until(lambda: (tmp_path / "err").read_text().count("high: 1 -> 3 workers: at least 3"), "the reason")
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert not [call for call in systemctl.calls() if call.startswith("stop")], "five minutes are not over"


def test_the_command_explains_why_it_does_nothing(tmp_path: Path, systemctl: Systemctl, server_url: str) -> None:
    fixed = llmctl(tmp_path, server_url, max_workers=3)
    assert (fixed.returncode, 'Set it to "auto"' in fixed.stderr) == (78, True)
    away = llmctl(tmp_path, f"unix://{tmp_path}/nobody")
    assert (away.returncode, "Redis unreachable" in away.stderr) == (69, True)
    (tmp_path / "local.json").write_text('{"processing": {"max_workers": "auto"}}')
    local = subprocess.run(
        [LLMCTL, "--config", str(tmp_path / "local.json"), "autoscale"], capture_output=True, text=True, check=False
    )
    assert (local.returncode, "llmctl up starts and stops its workers" in local.stderr) == (78, True)
