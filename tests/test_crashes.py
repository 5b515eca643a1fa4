"""kill -9 of everything, anywhere: after a restart each document is in one final place, once."""

import random
import time

import pytest
from conftest import Fleet, account, mostly_slow, wait_until

INGEST_POINTS = [
    "claim.folder_made",
    "claim.manifest_written",
    "claim.moved",
    "ingest.claimed",
    "ingest.submitted",
]
COMMIT_POINTS = [
    "commit.report_in_place",
    "commit.original_moved",
    "commit.written",
    "commit.synced",
    "commit.done",
    "collector.acknowledged",
]


def documents(count: int) -> dict[str, bytes]:
    """Distinct documents, one in ten of them broken, some in folders."""
    return {
        f"{'sub/' if number % 3 == 0 else ''}doc {number}.json": (
            b'{"n": %d, "content": "text %d"%s' % (number, number, b"" if number % 10 == 7 else b"}")
        )
        for number in range(count)
    }


def drop_all(fleet: Fleet, dropped: dict[str, bytes]) -> None:
    for name, content in dropped.items():
        fleet.drop(name, content)


@pytest.mark.parametrize("point", mostly_slow(INGEST_POINTS))
def test_ingest_killed_at_each_step_of_a_claim(fleet: Fleet, point: str) -> None:
    dropped = documents(12)
    drop_all(fleet, dropped)
    count = 5 if point == "claim.moved" else 1
    fleet.start("ingest", faults=f"{point}:{count}")
    assert fleet.running.pop("ingest").wait(20) == -9, "the fault point was reached"
    fleet.start()
    fleet.wait_finished(len(dropped))
    account(fleet, dropped)
    wait_until(lambda: not fleet.temp_groups(), "no claim group left behind")


@pytest.mark.parametrize("point", mostly_slow(COMMIT_POINTS))
@pytest.mark.parametrize("passage", mostly_slow([4, 1]))
def test_collector_killed_at_each_step_of_the_commit(fleet: Fleet, point: str, passage: int) -> None:
    dropped = documents(12)
    drop_all(fleet, dropped)
    often = point in ("commit.report_in_place", "commit.original_moved")
    fleet.start(*(name for name in fleet.MODULES if name != "collector"))
    wait_until(lambda: fleet.stream_documents() > 0, "outcomes in the stream")
    fleet.start("collector", faults=f"{point}:{passage if often else 1}")
    assert fleet.running.pop("collector").wait(20) == -9, "the fault point was reached"
    fleet.start("collector")
    fleet.wait_finished(len(dropped))
    account(fleet, dropped)
    wait_until(lambda: not fleet.temp_groups(), "no claim group left behind")
    wait_until(lambda: fleet.ledger_total("done", "rejected") == len(dropped), "the ledger to agree with the disk")


OVERLAP_POINTS = ["commit.written", "commit.synced", "commit.original_moved", "collector.acknowledged"]


@pytest.mark.slow
@pytest.mark.parametrize("point", OVERLAP_POINTS)
def test_collector_killed_while_groups_overlap(fleet: Fleet, point: str) -> None:
    """One group is made durable while the next is written: a crash then leaves two groups begun."""
    dropped = documents(1400)
    drop_all(fleet, dropped)
    fleet.start(*(name for name in fleet.MODULES if name != "collector"))
    wait_until(lambda: fleet.stream_documents() >= 1300, "outcomes of several groups in the streams")
    fleet.start("collector", faults=f"{point}:{200 if point == 'commit.original_moved' else 2}")
    assert fleet.running.pop("collector").wait(20) == -9, "the fault point was reached"
    fleet.start("collector")
    fleet.wait_finished(len(dropped))
    account(fleet, dropped)
    wait_until(lambda: not fleet.temp_groups(), "no claim group left behind")
    wait_until(lambda: fleet.ledger_total("done", "rejected") == len(dropped), "the ledger to agree with the disk")


@pytest.mark.slow
def test_random_kills_of_every_process_and_the_server(fleet: Fleet) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    dropped = documents(400)
    names = list(dropped)
    fleet.start()
    victims = [*fleet.MODULES, "server"]
    chance.shuffle(victims)
    for round_number, victim in enumerate(victims * 2):
        for name in names[round_number * 25 : (round_number + 1) * 25]:
            fleet.drop(name, dropped[name])
        time.sleep(chance.uniform(0.0, 0.25))  # a random moment to strike at, not a wait for something
        if victim == "server":
            fleet.server.kill()
            fleet.server.start()
        else:
            fleet.kill(victim)
            fleet.start(victim)
    for name in names[len(victims) * 2 * 25 :]:
        fleet.drop(name, dropped[name])
    fleet.wait_finished(len(dropped), deadline=90)
    account(fleet, dropped)


@pytest.mark.slow
def test_flushall_with_a_thousand_in_flight(fleet: Fleet) -> None:
    dropped = documents(1000)
    drop_all(fleet, dropped)
    fleet.start("ingest", "scheduler")
    wait_until(lambda: len(fleet.in_flight()) == 1000 and fleet.ledger_total("queued") == 1000, "1,000 in flight")
    fleet.server.client().flushall()
    fleet.start("collector", "high", "medium", "low")
    fleet.wait_finished(len(dropped), deadline=90)
    account(fleet, dropped)


def test_flushall_while_everything_runs(fleet: Fleet) -> None:
    dropped = documents(600)
    fleet.start()
    drop_all(fleet, dropped)
    wait_until(lambda: fleet.finished() > 50, "some finished")
    fleet.server.client().flushall()
    fleet.wait_finished(len(dropped), deadline=90)
    account(fleet, dropped)


def test_a_worker_killed_with_a_document_in_hand(fleet: Fleet) -> None:
    (fleet.folder / "slow.py").write_text(
        "import pathlib, time\n"
        "def handle(document, context):\n"
        "    mark = pathlib.Path(__file__).with_name('begun')\n"
        "    if not mark.exists():\n"
        "        mark.touch()\n"
        "        time.sleep(60)\n"
        "    return 'fine'\n"
    )
    fleet.configure(handlers={"default": "slow:handle"})
    fleet.start()
    dropped = {"a.json": b'{"metadata": {"priority": "high"}}'}
    drop_all(fleet, dropped)
    wait_until((fleet.folder / "begun").exists, "the handler to begin")
    fleet.kill("high")
    began = time.monotonic()
    fleet.start("high")
    fleet.wait_finished(1, deadline=30)
    print(f"run again after {time.monotonic() - began:.1f} s")
    account(fleet, dropped)
    assert fleet.results()[0]["attempts"] == 2


@pytest.mark.slow
def test_the_server_loses_its_last_second(fleet: Fleet) -> None:
    """What everysec may lose: a claim that Redis no longer knows is submitted again, without anyone asking."""
    dropped = documents(50)
    drop_all(fleet, dropped)
    fleet.start("ingest")
    wait_until(lambda: fleet.ledger_total("queued") == 50, "50 queued")
    fleet.server.kill()
    (fleet.server.folder / "appendonlydir").rename(fleet.server.folder / "lost")
    fleet.server.start()
    fleet.start("collector", "scheduler", "high", "medium", "low")
    fleet.wait_finished(len(dropped))
    account(fleet, dropped)
