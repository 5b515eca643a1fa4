"""How the collector makes groups: large ones while outcomes come in faster than they can be made durable."""

import logging
import os
import threading

import pytest
from conftest import Fleet, files, wait_until

from llm_scheduler.ingest.collector import GROUP, Collector
from llm_scheduler.ingest.outcome_reader import READ
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.process.termination import Stop


class Observed:
    """A collector that runs in a thread of the test, and what its fault points were told."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.points: list[str] = []
        self.stop = Stop()
        self._redis = fleet.server.client()
        log = logging.getLogger("llm.collector")
        collector = Collector(Runtime(fleet.config(), self._redis, SystemClock(), self.stop, log), self._at)
        self._thread = threading.Thread(target=collector.run)

    def _at(self, point: str) -> None:
        self.points.append(point)

    def collect(self, count: int) -> None:
        """Run until `count` documents have ended, then stop."""
        self._thread.start()
        try:
            self.fleet.wait_finished(count)
        finally:
            self.stop.set()
            self._thread.join()
            self._redis.close()


def text(priority: str, number: int) -> str:
    return f'{{"number": {number}, "metadata": {{"priority": "{priority}"}}}}'


def backlog(fleet: Fleet, **counts: int) -> int:
    """So many documents of each priority have been worked on, and nobody has collected them."""
    fleet.configure(processing={"mode": "real_time", "settle_seconds": 0.3, "scan_interval": 0.3})
    for priority, count in counts.items():
        for number in range(count):
            fleet.drop(f"{priority}{number}.json", text(priority, number))
    fleet.start(*(name for name in fleet.MODULES if name != "collector"))
    total = sum(counts.values())
    wait_until(lambda: fleet.stream_documents() == total, "all outcomes in the streams")
    return total


def test_a_backlog_shares_few_syncs(fleet: Fleet) -> None:
    total = backlog(fleet, low=3 * GROUP)
    collector = Observed(fleet)
    collector.collect(total)
    syncs = collector.points.count("commit.synced")
    assert syncs <= 4, "a group takes as much as it may while more waits"
    assert syncs < collector.points.count("commit.written"), "and is written in parts"


@pytest.mark.slow
def test_an_urgent_document_waits_for_one_part_of_a_backlog(fleet: Fleet) -> None:
    total = backlog(fleet, low=2 * GROUP, high=1)
    fleet.start("collector", faults=f"commit.original_moved:{2 * READ}")
    assert fleet.running.pop("collector").wait(20) == -9, "so many were placed"
    assert "high0.json" in os.listdir(fleet.archive)
    assert 2 * READ <= len(files(fleet.archive)) + 1 < total


def test_a_single_document_is_not_kept_for_company(fleet: Fleet) -> None:
    total = backlog(fleet, high=1)
    collector = Observed(fleet)
    collector.collect(total)
    assert collector.points[:2] == ["commit.written", "commit.synced"]
