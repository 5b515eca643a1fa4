"""What the operator is woken for: a server that is away, disks that are full, folders that are wrong. Nothing is lost,
the message says what to do, and the work goes on by itself once the cause is gone."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import LEVELS, Fleet, Server, account, files, mostly_slow, wait_until

ROOT = os.geteuid() == 0
needs_root = [pytest.mark.root, pytest.mark.skipif(not ROOT, reason="needs root to mount a small file system")]
OUTAGE_SECONDS = float(os.environ.get("LLM_TEST_OUTAGE", "8"))  # `make test-long` makes it 60


def documents(count: int, size: int = 0) -> dict[str, bytes]:
    return {f"doc {number}.json": b'{"n": %d, "x": "%s"}' % (number, b"x" * size) for number in range(count)}


def drop_all(fleet: Fleet, dropped: dict[str, bytes]) -> None:
    for name, content in dropped.items():
        fleet.drop(name, content)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB of its own."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


# Redis


def test_the_server_is_away_at_the_start(fleet: Fleet) -> None:
    fleet.server.kill()
    dropped = documents(20)
    drop_all(fleet, dropped)
    fleet.start()
    for name in ("ingest", "collector", "scheduler", "high"):
        wait_until(lambda name=name: "Redis unreachable" in fleet.log(name), f"{name} saying so")
    wait_until((fleet.temp / "redis-outage.json").exists, "the note for whoever asks")
    assert len(files(fleet.raw)) == 20, "nothing is claimed that can't be submitted"
    fleet.server.start()
    fleet.wait_finished(len(dropped))
    account(fleet, dropped)
    wait_until(lambda: not (fleet.temp / "redis-outage.json").exists(), "the note to be gone")
    assert all(process.poll() is None for process in fleet.running.values()), "no process has ended"


@pytest.mark.slow
def test_the_server_is_away_in_the_middle(fleet: Fleet) -> None:
    dropped = documents(600)
    names = list(dropped)
    fleet.start()
    pids = {name: process.pid for name, process in fleet.running.items()}
    drop_all(fleet, {name: dropped[name] for name in names[:300]})
    wait_until(lambda: fleet.finished() > 20, "some finished")
    fleet.server.kill()
    drop_all(fleet, {name: dropped[name] for name in names[300:]})
    time.sleep(OUTAGE_SECONDS)  # the length of the outage is what is tested
    fleet.server.start()
    fleet.wait_finished(len(dropped))
    account(fleet, dropped)
    assert {name: process.pid for name, process in fleet.running.items() if process.poll() is None} == pids


# Folders


@pytest.mark.slow
@pytest.mark.parametrize("role", mostly_slow(["ingest", "collector"]))
def test_a_second_daemon_on_the_spool_waits_and_takes_over(fleet: Fleet, role: str) -> None:
    fleet.start()
    fleet.drop("first.json", b"[1]")
    fleet.wait_finished(1)
    first = fleet.running.pop(role)
    fleet.start(role)
    try:
        wait_until(lambda: f"Another llm-{role} (process {first.pid})" in fleet.log(role), "the second to say so")
        fleet.drop("second.json", b"[2]")
        fleet.wait_finished(2)
        first.terminate()
        assert first.wait(20) == 0
        fleet.drop("third.json", b"[3]")
        fleet.wait_finished(3)
    finally:
        first.kill()
    account(fleet, {"1": b"[1]", "2": b"[2]", "3": b"[3]"})


def test_folders_removed_while_it_runs_are_made_again(fleet: Fleet) -> None:
    fleet.start()
    dropped = {"a.json": b"[1]"}
    drop_all(fleet, dropped)
    fleet.wait_finished(1)
    for folder in (fleet.errors, fleet.raw):
        shutil.rmtree(folder)
    wait_until(fleet.raw.exists, "the watch folder to be there again")
    more = {"b.json": b"[2]", "c.json": b"[3"}
    drop_all(fleet, more)
    fleet.wait_finished(3)
    account(fleet, dropped | more)


def test_a_file_where_a_folder_should_be(fleet: Fleet) -> None:
    fleet.archive.write_text("in the way")
    fleet.drop("a.json", b"[1]")
    fleet.start()
    wait_until(lambda: str(fleet.archive) in fleet.log("ingest"), "a message that names the folder")
    assert "is not a folder" in fleet.log("ingest")
    fleet.archive.unlink()
    fleet.wait_finished(1)
    account(fleet, {"a": b"[1]"})


class TestSmallDisk:
    pytestmark = needs_root

    def test_a_full_disk_loses_nothing_and_recovers(
        self, small_disk: Path, redis_server: Server, tmp_path: Path
    ) -> None:
        fleet = Fleet(small_disk / "spool", redis_server, logs=tmp_path)
        try:
            dropped = documents(60, size=20_000)  # 1.2 MB, and as much again in results
            drop_all(fleet, dropped)
            ballast = small_disk / "ballast"
            free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
            ballast.write_bytes(b"x" * (free - 200_000))
            fleet.start()
            wait_until(lambda: "The disk is full" in fleet.log("collector"), "the collector to say that it is full")
            ballast.unlink()
            fleet.wait_finished(len(dropped))
            account(fleet, dropped)
        finally:
            fleet.kill()

    def test_a_disk_full_before_the_first_claim(self, small_disk: Path, redis_server: Server, tmp_path: Path) -> None:
        fleet = Fleet(small_disk / "spool", redis_server, logs=tmp_path)
        try:
            dropped = documents(5)
            drop_all(fleet, dropped)
            fleet.config()
            with (small_disk / "ballast").open("wb", buffering=0) as ballast:
                for size in (1 << 16, 1 << 12):
                    try:
                        while True:
                            ballast.write(b"x" * size)
                    except OSError:
                        pass
            fleet.start()
            wait_until(lambda: "The disk is full" in fleet.log("ingest"), "ingest waiting")
            assert fleet.finished() == 0
            (small_disk / "ballast").unlink()
            fleet.wait_finished(len(dropped))
            account(fleet, dropped)
        finally:
            fleet.kill()

    def test_folders_on_different_file_systems(self, fleet: Fleet) -> None:
        fleet.processed.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(fleet.processed)], check=True)
        try:
            fleet.drop("a.json", b"[1]")
            fleet.start()
            for name in ("ingest", "collector"):
                wait_until(lambda name=name: "different file systems" in fleet.log(name), f"{name} saying so")
            assert files(fleet.raw)
        finally:
            subprocess.run(["umount", "-l", str(fleet.processed)], check=True)
        fleet.wait_finished(1)
        account(fleet, {"a": b"[1]"})

    def test_an_output_folder_that_cannot_be_written(self, fleet: Fleet) -> None:
        fleet.start()
        fleet.drop("first.json", b"[1]")
        fleet.wait_finished(1)
        done = subprocess.run(["chattr", "+i", str(fleet.processed)], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip("this file system has no immutable flag")
        try:
            fleet.drop("second.json", b"[2]")
            told = f"{fleet.processed} (directories.output_directory) can't be written"
            wait_until(lambda: told in fleet.log("collector"), "the collector to say so")
            assert fleet.finished() == 1
            assert len(fleet.in_flight()) + len(files(fleet.raw)) == 1
        finally:
            subprocess.run(["chattr", "-i", str(fleet.processed)], check=True)
        fleet.wait_finished(2)
        account(fleet, {"1": b"[1]", "2": b"[2]"})


# Back-pressure


@pytest.mark.slow
def test_ingest_stops_claiming_at_max_queue_size(fleet: Fleet) -> None:
    fleet.configure(queue={"max_queue_size": 100})
    dropped = documents(1000)
    drop_all(fleet, dropped)
    fleet.start("ingest")
    wait_until(lambda: len(fleet.in_flight()) >= 80, "the queue to fill")
    most = 0
    end = time.monotonic() + 2
    while time.monotonic() < end:
        most = max(most, len(fleet.in_flight()))
    assert most <= 100, f"{most} claims with max_queue_size 100"
    fleet.start("collector", "scheduler", "high", "medium", "low")
    fleet.wait_finished(len(dropped), deadline=90)
    account(fleet, dropped)


@pytest.mark.slow
def test_a_queue_with_no_room_for_a_whole_batch_does_not_stand_still(fleet: Fleet) -> None:
    """The batches wait for company that there is no room for."""
    fleet.configure(queue={"max_queue_size": 10}, processing={"mode": "batch", "batch_size": 50, "batch_timeout": 600})
    dropped = {
        f"{n}.json": b'{"n": %d, "metadata": {"priority": "%s"}}' % (n, LEVELS[n % 3].encode()) for n in range(40)
    }
    drop_all(fleet, dropped)
    fleet.start("ingest")
    wait_until(lambda: fleet.ledger_total("queued") >= 8, "the batches to be flushed")
    assert len(fleet.in_flight()) <= 10
    fleet.start("collector", "high", "medium", "low")
    # The last few have room for company, and wait for it.
    wait_until(lambda: len(files(fleet.raw)) == 0, "all to be claimed")
    wait_until(lambda: fleet.finished() >= 30, "those before the last to be finished")


@pytest.mark.slow
def test_batches_go_on_waiting_behind_a_full_queue(fleet: Fleet) -> None:
    fleet.configure(queue={"max_queue_size": 100}, processing={"mode": "batch", "batch_size": 20, "batch_timeout": 600})
    drop_all(fleet, {f"{n}.json": b'{"n": %d, "metadata": {"priority": "low"}}' % n for n in range(200)})
    fleet.start("ingest")
    wait_until(lambda: fleet.ledger_total("batched", "queued") >= 80, "the low level to be full")
    drop_all(fleet, {f"{n}m.json": b'{"n": %d, "metadata": {"priority": "medium"}}' % n for n in range(15)})
    wait_until(lambda: fleet.ledger_total("batched") >= 10, "the medium level to be full, too")
    looks = fleet.server.client()
    before = looks.info("commandstats")["cmdstat_get"]["calls"]
    # Ingest has looked several times since.
    wait_until(lambda: looks.info("commandstats")["cmdstat_get"]["calls"] > before + 10, "ingest to look", 20)
    looks.close()
    assert fleet.ledger_total("batched") == 10


def test_an_urgent_document_passes_a_full_queue(fleet: Fleet) -> None:
    fleet.configure(queue={"max_queue_size": 100})
    for number in range(300):
        fleet.drop(f"low{number}.json", b'{"metadata": {"priority": "low"}, "n": %d}' % number)
    fleet.start("ingest", "collector", "high")
    wait_until(lambda: len(fleet.in_flight()) >= 80, "the low level to be full")
    fleet.drop("urgent.json", b'{"metadata": {"priority": "high"}}')
    fleet.wait_finished(1, deadline=10)
    assert (fleet.processed / "urgent.json").exists()


@pytest.mark.slow
def test_starting_on_100_000_files_takes_seconds(fleet: Fleet) -> None:
    content = b'{"content": "' + b"a document among very many " * 20 + b'"}'
    for number in range(100_000):
        if number % 50_000 == 0:  # a file has at most 65,000 names
            several = fleet.raw / f"{number}.json"
            several.write_bytes(content)
        else:
            os.link(several, fleet.raw / f"{number}.json")
    began = time.monotonic()
    fleet.start("ingest")
    wait_until(lambda: fleet.ledger_total("queued") > 0, "the first documents to be queued", deadline=20)
    first = time.monotonic() - began
    wait_until(lambda: fleet.ledger_total("queued") >= 8000, "the queue to be as full as it gets", deadline=60)
    client = fleet.server.client()
    memory = client.info("memory")["used_memory"]
    client.close()
    print(f"first queued after {first:.1f} s; 100,000 files waiting, server memory {memory / 1e6:.1f} MB")
    assert len(fleet.in_flight()) <= 10_000
    assert memory < 64e6, "bounded by max_queue_size, not by what waits in the folder"
