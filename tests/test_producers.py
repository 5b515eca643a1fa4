"""How well producers write is counted by cause; answers too short to be true are warned of."""

import json
import time
from collections import Counter

from conftest import KEYS, Fleet, wait_until
from redis import Redis

from llm_scheduler.ingest.item_count import ItemCounts
from llm_scheduler.jobs.document import Route
from llm_scheduler.jobs.receipt import Repair
from llm_scheduler.jobs.store import producers
from llm_scheduler.jobs.store.outcomes import Outcome, Read
from llm_scheduler.jobs.store.producers import ProducerCount, Share

NOON = 1_790_000_000.0


def outcome(read: Read | None = None, code: str = "") -> Outcome:
    return Outcome(
        kind="rejected" if code else "done",
        id="1" * 26,
        group="1" * 26,
        attempts=1,
        completed_at=NOON,
        route=Route(priority="low", queue="low", handler="default", reasons=[]),
        code=code,
        read=read,
    )


def test_what_is_counted_of_an_outcome() -> None:
    assert producers.classify(outcome(), "a.json") == ProducerCount("", "", "valid")
    assert producers.classify(outcome(), "crm/monday/a.json") == ProducerCount("crm", "", "valid")
    repairs = [Repair("unwrap", "fence"), Repair("slip", "x")]
    repaired = Read(quality="repaired", producer="erp", model="m-1", repairs=repairs)
    assert producers.classify(outcome(repaired), "crm/a.json") == ProducerCount("erp", "m-1", "repaired:x")
    assert producers.classify(outcome(Read(quality="truncated", producer="a\x1fb")), "x") == ProducerCount(
        "a b", "", "truncated"
    )
    assert producers.classify(outcome(code="binary:png"), "a.png") == ProducerCount("", "", "binary:png")


def test_shares_are_of_whole_days_and_bounded(redis: Redis) -> None:
    redis.flushall()
    day = 86400
    with redis.pipeline() as pipeline:
        for cause, number in (("valid", 6), ("repaired:fence", 2), ("handler_failed", 2)):
            producers.count(pipeline, NOON, Counter({ProducerCount("crm", "m", cause): number}), 30)
        producers.count(pipeline, NOON, Counter({ProducerCount("erp", "", "empty"): 1}), 30)
        producers.count(pipeline, NOON - day, Counter({ProducerCount("crm", "m", "truncated"): 10}), 30)
        producers.count(pipeline, NOON, Counter(), 30)
        pipeline.execute()
    assert producers.shares(redis, NOON) == [
        Share("crm", "m", 10, 0.2, {"valid": 6, "handler_failed": 2, "repaired:fence": 2}),
        Share("erp", "", 1, 1.0, {"empty": 1}),
    ]
    assert producers.shares(redis, NOON, 2)[0].documents == 20
    assert producers.shares(redis, NOON + day) == []
    assert all(0 < redis.ttl(key) <= 31 * day for key in redis.keys(KEYS.producers("*")))
    with redis.pipeline() as pipeline:
        producers.count(
            pipeline, NOON, Counter({ProducerCount(f"p{number}", "", "empty"): 1 for number in range(3000)}), 30
        )
        pipeline.execute()
    assert len(producers.shares(redis, NOON)) <= 2001
    assert sum(share.documents for share in producers.shares(redis, NOON)) == 3011


def test_an_answer_too_short_to_be_true_is_warned_of() -> None:
    guard = ItemCounts(0.2)
    usual = outcome(Read(producer="crm", count=50))
    short = outcome(Read(producer="crm", count=9))
    assert guard.check(short) is short, "nothing is known of the producer yet"
    for _ in range(30):
        assert guard.check(usual) is usual
    read = guard.check(short).read
    assert read is not None
    assert [warned.code for warned in read.warnings] == ["few_items"]
    assert "9 entries; those of crm have about" in read.warnings[0].message
    for read in (Read(producer="erp", count=1), Read(producer="crm", count=11), Read(count=0), None):
        each = outcome(read)
        assert guard.check(each) is each
    off = ItemCounts(0)
    for _ in range(30):
        off.check(usual)
    assert off.check(short) is short
    for number in range(1500):
        guard.check(outcome(Read(producer=f"p{number}", count=1)))
    assert len(guard._usual) == 1000


def test_a_running_fleet_counts_and_warns(fleet: Fleet) -> None:
    fleet.start()
    for number in range(25):
        entries = list(range(40 if number < 24 else 2))
        fleet.drop(f"{number:02d}.json", json.dumps({"metadata": {"source": "crm", "model": "m"}, "rows": entries}))
        if number == 23:
            wait_until(lambda: len(fleet.results()) == 24, "the results so far")
    fleet.drop("erp/x.json", b"{'metadata': {'model': 'm'},}")
    wait_until(lambda: len(fleet.results()) == 26 and not fleet.in_flight(), "all results")
    assert [result["source"] for result in fleet.results() if "warnings" in result] == ["24.json"]
    client = fleet.server.client()
    try:
        wait_until(lambda: sum(share.documents for share in producers.shares(client, time.time(), 2)) == 26, "counts")
        shares = producers.shares(client, time.time(), 2)
    finally:
        client.close()
    assert [(share.producer, share.model, share.documents, share.malformed) for share in shares] == [
        ("crm", "m", 25, 0.0),
        ("erp", "m", 1, 1.0),
    ]
