"""The ledger: one status a document, final ones for good, counts and bytes that come back to nothing."""

import pytest
from redis import Redis

from llm_scheduler.jobs.document import FINAL, Status, new_id
from llm_scheduler.jobs.store import ledger, ledger_queries
from llm_scheduler.jobs.store.load import read_load

LEVELS = ["high", "medium", "low"]


def in_flight(redis: Redis) -> tuple[int, int]:
    load = read_load(redis, LEVELS)
    return load.documents, load.bytes


def born(
    redis: Redis, count: int, size: int = 100, priority: str = "high", status: Status = Status.QUEUED
) -> list[str]:
    ids = [new_id(1000.0 + number) for number in range(count)]
    fields: ledger.Fields = {"priority": priority, "source": "a.json", "size": size, "queue": priority}
    assert ledger.move(redis, status, 5.5, [(document_id, fields) for document_id in ids]) == count
    return ids


def test_a_document_moves_from_status_to_status(redis: Redis) -> None:
    [one] = born(redis, 1, status=Status.RECEIVED)
    for at, status in enumerate((Status.QUEUED, Status.STARTED, Status.RETRYING, Status.QUEUED, Status.DONE)):
        assert ledger.move(redis, status, 10 + at, [(one, {"attempts": at})]) == 1
        entry = ledger.get(redis, one)
        assert entry is not None
        assert (entry.status, entry.attempts, entry.times[status.value]) == (status, at, 10 + at)
        counts = ledger.counts(redis, LEVELS)
        assert {name: sum(levels.values()) for name, levels in counts.items() if any(levels.values())} == {status: 1}
    assert (entry.source, entry.size, entry.times["received"]) == ("a.json", 100, 5.5)


@pytest.mark.parametrize("final", FINAL)
def test_a_final_status_stays(redis: Redis, final: Status) -> None:
    [one] = born(redis, 1)
    ledger.move(redis, final, 1, [(one, {})])
    for status in Status:
        assert ledger.move(redis, status, 2, [(one, {"priority": "low", "size": 5})]) == 0
    entry = ledger.get(redis, one)
    assert entry is not None
    assert (entry.status, entry.priority) == (final, "high")
    assert in_flight(redis) == (0, 0)


def test_a_document_nobody_has_told_of_is_ignored(redis: Redis) -> None:
    assert ledger.move(redis, Status.STARTED, 1, [(new_id(1), {"attempts": 1})]) == 0
    assert redis.keys("*") == []
    assert ledger.get(redis, new_id(1)) is None
    assert ledger.known(redis, [new_id(1)]) == [(None, None)]


def test_bytes_in_flight_go_up_and_back_to_nothing(redis: Redis) -> None:
    ids = born(redis, 3, size=1000) + born(redis, 2, size=7, priority="low")
    assert in_flight(redis) == (5, 3014)
    ledger.move(redis, Status.QUEUED, 1, [(ids[0], {"priority": "high", "size": 1000})])
    assert in_flight(redis) == (5, 3014), "telling it twice counts once"
    ledger.move(redis, Status.DONE, 1, [(document_id, {}) for document_id in ids[:4]])
    assert in_flight(redis) == (1, 7)
    ledger.move(redis, Status.REJECTED, 1, [(ids[4], {"code": "empty"})] * 3)
    assert in_flight(redis) == (0, 0)
    dropped = new_id(1)
    ledger.move(redis, Status.RECEIVED, 1, [(dropped, {"priority": "high", "size": 50})])
    assert in_flight(redis) == (0, 0), "what waits in the watch folder takes no room in Redis"
    ledger.move(redis, Status.QUEUED, 1, [(dropped, {"priority": "low", "size": 50})])
    assert in_flight(redis) == (1, 50)
    ledger.move(redis, Status.DONE, 1, [(dropped, {})])
    straight = new_id(1)
    ledger.move(redis, Status.DONE, 1, [(straight, {"priority": "high", "size": 50})])
    assert in_flight(redis) == (0, 0), "one that is final at once was never in flight"


def test_pages_are_newest_first_and_outlive_changes_of_status(redis: Redis) -> None:
    ids = born(redis, 10, priority="high") + born(redis, 10, priority="low")
    newest = sorted(ids, reverse=True)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = ledger_queries.page(redis, LEVELS, limit=3, cursor=cursor)
        seen += [entry.id for entry in page.entries]
        cursor = page.cursor
        # All that has been seen and the next to come change status between two pages.
        ledger.move(redis, Status.STARTED, 9, [(document_id, {}) for document_id in newest[: len(seen) + 2]])
        if cursor is None:
            break
    assert seen == newest
    assert (
        len(ledger_queries.page(redis, LEVELS, wanted=ledger_queries.DocumentFilter(priority="low"), limit=50).entries)
        == 10
    )
    assert ledger_queries.page(redis, LEVELS, wanted=ledger_queries.DocumentFilter(status=Status.DONE)).entries == []
    whole = ledger_queries.page(redis, LEVELS, limit=20)
    assert (len(whole.entries), whole.cursor) == (20, None), "the last page says so"


def test_trim_forgets_the_oldest_final_documents(redis: Redis) -> None:
    done = born(redis, 10)
    ledger.move(redis, Status.DONE, 1, [(document_id, {}) for document_id in done])
    active = born(redis, 10)
    assert ledger.trim(redis, LEVELS, keep=4, chunk=5) == 5
    assert ledger.trim(redis, LEVELS, keep=4, chunk=5) == 1
    assert ledger.trim(redis, LEVELS, keep=4) == 0
    assert ledger.get(redis, done[5]) is None
    assert all(ledger.get(redis, document_id) for document_id in done[6:] + active)


def test_what_a_finished_document_costs(redis: Redis) -> None:
    before = redis.info("memory")["used_memory"]
    ids = born(redis, 5000)
    ledger.move(redis, Status.DONE, 1, [(document_id, {"rq_job_id": ids[0], "attempts": 1}) for document_id in ids])
    each = (redis.info("memory")["used_memory"] - before) / 5000
    print(f"a finished document costs {each:.0f} bytes of Redis")
    assert each < 1000
