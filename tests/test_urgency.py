"""An urgent document behind a flood of others: ingest sees it before it has read what came before it."""

import logging
import os
import threading
from pathlib import Path

import pytest
from conftest import Fleet, wait_until
from redis import Redis

from llm_scheduler.ingest.daemon import Ingest
from llm_scheduler.ingest.file_queue import GROUP
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.process.termination import Stop

LOW, HIGH = b'{"n": %d, "metadata": {"priority": "low"}}', b'{"metadata": {"priority": "high"}}'
FLOOD = 4000


def test_what_comes_after_a_flood_is_looked_at_first(fleet: Fleet, redis: Redis) -> None:
    """Step by step: the flood has been heard of, then the urgent one is dropped."""
    fleet.raw.mkdir(parents=True, exist_ok=True)
    ingest = Ingest(Runtime(fleet.config(), redis, SystemClock(), Stop(), logging.getLogger("test")))
    ingest._folders.prepare()
    watch = ingest._folders.watch[0]
    for number in range(3 * GROUP):
        fleet.drop(f"low-{number:04d}.json", LOW % number)
        ingest._claimer.queue._new[watch, f"low-{number:04d}.json"] = False
    ingest._claimer.queue._next_scan = float("inf")
    assert ingest._claimer.run()
    fleet.drop("high.json", HIGH)
    ingest._claimer.queue._new[watch, "high.json"] = False
    assert ingest._claimer.run()
    assert not (fleet.raw / "high.json").exists()
    assert len(os.listdir(fleet.raw)) == 2 * GROUP, "it went ahead alone"
    fleet.drop("low-last.json", LOW % 9999)
    ingest._claimer.queue._new[watch, "low-last.json"] = False
    assert ingest._claimer.run()
    left = set(os.listdir(fleet.raw))
    assert len(left) == GROUP + 1
    assert "low-last.json" in left, "who is not urgent waits for those that came before"
    assert min(left) == f"low-{2 * GROUP:04d}.json", "and these go in the order in which they came"


def test_urgent_ones_without_end_let_the_others_through(fleet: Fleet, redis: Redis) -> None:
    fleet.raw.mkdir(parents=True, exist_ok=True)
    ingest = Ingest(Runtime(fleet.config(), redis, SystemClock(), Stop(), logging.getLogger("test")))
    ingest._folders.prepare()
    watch = ingest._folders.watch[0]
    for number in range(5 * GROUP):
        fleet.drop(f"low-{number:04d}.json", LOW % number)
        ingest._claimer.queue._new[watch, f"low-{number:04d}.json"] = False
    ingest._claimer.queue._next_scan = float("inf")
    for number in range(4):
        fleet.drop(f"high-{number}.json", HIGH[:-1] + b', "n": %d}' % number)
        ingest._claimer.queue._new[watch, f"high-{number}.json"] = False
        ingest._claimer.run()
    left = os.listdir(fleet.raw)
    assert not [name for name in left if name.startswith("high")]
    assert len(left) == 3 * GROUP + 2, "every second step took a whole group"


@pytest.mark.slow
def test_an_urgent_document_overtakes_a_flood(fleet: Fleet, tmp_path: Path) -> None:
    """Four thousand in one folder, moved in at once; a drop while most of them have not been read."""
    fleet.configure(processing={"mode": "real_time"})
    staged = tmp_path / "staged"
    staged.mkdir()
    for number in range(FLOOD):
        (staged / f"{number}.json").write_bytes(LOW % number)
    fleet.start("ingest", "collector", "scheduler", "high", "low")
    left = -1

    def drop() -> None:
        nonlocal left
        wait_until(lambda: len(os.listdir(fleet.raw / "staged")) < FLOOD, "the first claims", every=0.001)
        fleet.drop("high.json", HIGH)
        wait_until(lambda: not (fleet.raw / "high.json").exists(), "the claim of the urgent one", every=0.001)
        left = len(os.listdir(fleet.raw / "staged"))

    os.rename(staged, fleet.raw / "staged")
    dropping = threading.Thread(target=drop)
    dropping.start()
    dropping.join()
    fleet.wait_finished(FLOOD + 1)
    print(f"{left} of {FLOOD} were still to be read")
    assert left > FLOOD / 4
