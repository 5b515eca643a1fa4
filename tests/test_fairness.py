"""Turns: one watch folder or producer that floods the system holds up nobody but itself."""

import json

import pytest
from conftest import Fleet, account, wait_until

from llm_scheduler.ingest.held_back import HeldFiles, WatchPath
from llm_scheduler.ingest.room import Rates

SLOW = "import time\ndef handle(document, context):\n    time.sleep(0.005)\n    return 1\n"


def by(producer: str) -> object:
    return {"metadata": {"source": producer}}


def hold(held: HeldFiles, *places: tuple[str, str, str]) -> None:
    for watch, source, producer in places:
        held.add((watch, source), "low", by(producer))


def taken(held: HeldFiles, count: int = 100) -> list[WatchPath]:
    return list(held.take("low", count))


def test_by_arrival_the_first_come_first() -> None:
    held = HeldFiles(["high", "low"], "arrival")
    hold(held, ("/a", "1", "x"), ("/a", "2", "x"), ("/b", "1", "y"), ("/a", "3", "x"))
    assert ("/b", "1") in held
    assert taken(held, 2) == [("/a", "1"), ("/a", "2")]
    assert taken(held) == [("/b", "1"), ("/a", "3")]
    assert len(held) == 0
    assert not held.has_any("low")


def test_by_source_folders_take_turns_and_producers_within_them() -> None:
    held = HeldFiles(["high", "low"], "source")
    hold(held, *(("/a", f"x{number}", "x") for number in range(4)), ("/a", "y0", "y"), ("/a", "y1", "y"))
    hold(held, ("/b", "0", "x"), ("/b", "1", "x"))
    assert taken(held) == [
        ("/a", "x0"),
        ("/b", "0"),
        ("/a", "y0"),
        ("/b", "1"),
        ("/a", "x1"),
        ("/a", "y1"),
        ("/a", "x2"),
        ("/a", "x3"),
    ]


def test_a_place_is_held_once_and_a_level_has_its_own_turns() -> None:
    held = HeldFiles(["high", "low"], "source")
    held.add(("/a", "1"), "high", None)
    held.add(("/a", "1"), "low", None)
    assert (len(held), held.has_any("low")) == (1, False)
    assert list(held.take("high", 5)) == [("/a", "1")]


@pytest.mark.parametrize("fairness", ["arrival", "source"])
def test_too_many_leave_the_newest_to_a_scan(fairness: str) -> None:
    held = HeldFiles(["low"], fairness, max_files=5)  # type: ignore[arg-type]
    hold(held, *(("/a", str(number), "x") for number in range(5)), ("/b", "0", "y"))
    assert len(held) == 5
    if fairness == "source":
        assert ("/b", "0") in held, "whoever has most has to give"
        assert ("/a", "4") not in held
    else:
        assert ("/b", "0") not in held


def test_rates_come_from_what_was_added_and_what_is_left() -> None:
    rates = Rates(["low"])
    rates.measure({"low": 0}, 100.0)
    for second in range(1, 30):
        rates.add({"low": 50})
        rates.measure({"low": second * 10}, 100.0 + second)
    assert rates.per_second["low"] == pytest.approx(40, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("two_folders", [True, False])
def test_a_flood_does_not_starve_another_source(fleet: Fleet, two_folders: bool) -> None:
    other = fleet.folder / "other"
    other.mkdir()
    (fleet.folder / "slow.py").write_text(SLOW)
    fleet.configure(
        handlers={"default": "slow:handle"},
        directories={"watch_directory": [str(fleet.raw), str(other)]},
        processing={"fairness": "source", "batch_size": 5},
    )
    dropped = {}
    for number in range(1000):
        dropped[f"flood {number}.json"] = json.dumps({"n": number, "metadata": {"source": "flood"}}).encode()
        (fleet.raw / f"flood {number}.json").write_bytes(dropped[f"flood {number}.json"])
    fleet.start()
    wait_until(lambda: fleet.finished() > 50, "the flood to be worked on")
    for number in range(20):
        name = f"small {number}.json"
        dropped[name] = json.dumps({"n": number, "metadata": {"source": "small"}}).encode()
        unfinished = fleet.folder / f".{name}"
        unfinished.write_bytes(dropped[name])
        unfinished.rename((other if two_folders else fleet.raw) / name)
    fleet.wait_finished(len(dropped))
    account(fleet, dropped)
    order = sorted(fleet.results(), key=lambda result: str(result["completed_at"]))
    last = max(place for place, result in enumerate(order) if result["source"].startswith("small"))
    print(f"the last of the small source was number {last} of {len(order)}")
    assert last < 700, "the flood went first"
