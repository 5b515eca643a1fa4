"""`processing.mode`: who is submitted at once and who waits for company."""

import pytest
from conftest import KEYS, Fleet, mostly_slow, wait_until
from redis import Redis

HIGH = b'{"content": "this is urgent"}'
MEDIUM = b'{"content": "nothing special"}'


@pytest.mark.parametrize(
    ("mode", "queued", "batched"),
    mostly_slow(
        [
            ("real_time", {"high", "medium"}, set()),
            ("batch", set(), {"high", "medium"}),
            ("hybrid", {"high"}, {"medium"}),
        ]
    ),
)
def test_who_waits_for_company(fleet: Fleet, redis: Redis, mode: str, queued: set[str], batched: set[str]) -> None:
    fleet.configure(processing={"mode": mode, "batch_timeout": 3600})
    fleet.drop("high.json", HIGH)
    fleet.drop("medium.json", MEDIUM)
    fleet.start("ingest")
    wait_until(lambda: fleet.ledger_total("queued", "batched") == 2, "both documents submitted")
    levels = ("high", "medium", "low")
    assert {level for level in levels if redis.llen(KEYS.queue(level))} == queued
    assert {level for level in levels if redis.llen(KEYS.batch(level))} == batched
    assert {level for level in levels if redis.zscore(KEYS.schedule, f"flush-{level}")} == batched
