"""The account of a spool: all that is right is found right, and whatever is wrong is found, and named."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import Fleet, mostly_slow, wait_until
from redis import Redis
from typer.testing import CliRunner

from llm_scheduler.api.cli import app
from llm_scheduler.ingest.reconcile import Reconciler, Reconciliation


@pytest.fixture
def spool(fleet: Fleet) -> Fleet:
    """Two that are done, one that is rejected, and two that came in one file; everything stands still."""
    fleet.drop("a.json", b'{"a": 1}')
    fleet.drop("sub/b.json", b'{"b": 1}')
    fleet.drop("bad.json", b'{"a": nonsense nonsense')
    fleet.drop("two.jsonl", b'{"line": 1}\n{"line": 2}\n')
    fleet.start("ingest", "collector", "medium")
    fleet.wait_finished(5)
    wait_until(lambda: fleet.ledger_total("done", "rejected") == 6, "the ledger knows")
    fleet.stop()
    return fleet


def taken(fleet: Fleet, redis: Redis | None, *, verify: bool = True, record: bool = False) -> Reconciliation:
    return Reconciler(fleet.config(), redis, verify=verify, record=record, sleep=lambda _: None).run()


def problems(account: Reconciliation) -> dict[str, str]:
    return {problem.kind: os.path.basename(problem.where) for problem in account.problems}


def report_of(fleet: Fleet, name: str) -> dict[str, Any]:
    return json.loads((fleet.errors / f"{name}.error.json").read_bytes())


def test_what_is_right_is_found_right(spool: Fleet, redis: Redis) -> None:
    spool.drop("waits.json", b"1")
    account = taken(spool, redis)
    assert account.is_balanced, account.problems
    assert (account.waiting, account.in_flight, account.done, account.rejected) == (1, 0, 4, 1)
    assert account.taken_apart == 1
    assert (account.unsubmitted, account.unrecorded, account.removed) == (0, 0, 0)
    offline = taken(spool, None)
    assert offline.is_balanced
    assert (offline.done, offline.rejected) == (4, 1)


def test_what_was_taken_away_on_purpose_is_no_problem(spool: Fleet, redis: Redis) -> None:
    (spool.processed / "a.json").unlink()  # by whoever wanted the result
    (spool.archive / "sub/b.json").unlink()  # by its age
    account = taken(spool, redis)
    assert account.is_balanced, account.problems
    assert (account.done, account.results_taken, account.originals_removed) == (3, 1, 1)
    assert account.removed == 1, "Redis knows of one whose result is gone"


def test_an_original_without_its_report(spool: Fleet, redis: Redis) -> None:
    (spool.errors / "bad.json.error.json").unlink()
    assert problems(taken(spool, redis)) == {"no_report": "bad.json"}


def test_a_report_without_its_original(spool: Fleet, redis: Redis) -> None:
    (spool.errors / "bad.json").unlink()
    assert problems(taken(spool, redis)) == {"no_original": "bad.json.error.json"}


def test_a_document_with_two_ends(spool: Fleet, redis: Redis) -> None:
    shutil.copy(spool.processed / "a.json", spool.processed / "copy.json")
    assert set(problems(taken(spool, redis))) == {"twice"}


def test_an_original_that_became_another(spool: Fleet, redis: Redis) -> None:
    (spool.archive / "a.json").write_bytes(b'{"a": 2}')
    assert problems(taken(spool, redis)) == {"other_content": "a.json"}
    assert taken(spool, redis, verify=False).is_balanced, "only who reads it can tell"


@pytest.mark.parametrize("running", mostly_slow([False, True]))
def test_a_claim_that_is_gone(spool: Fleet, redis: Redis, *, running: bool) -> None:
    spool.drop("lost.json", b"1")
    spool.start("ingest", "collector")
    wait_until(lambda: len(spool.in_flight()) == 1, "it is claimed")
    wait_until(lambda: spool.ledger_total("queued") == 1, "it is enqueued")
    if not running:
        spool.stop()
    account = taken(spool, redis)
    assert account.is_balanced, account.problems
    assert account.in_flight == 1
    (claim,) = spool.in_flight()
    claim.unlink()
    found = taken(spool, redis).problems
    assert [problem.kind for problem in found] == ["no_claim"]
    assert "Restore it from a backup" in found[0].message


def test_what_redis_forgot_is_told_to_it(spool: Fleet, redis: Redis) -> None:
    shown = ["status", "priority", "source", "handler", "error", "quality", "attempts", "queue", "received_at"]
    before = {each["id"]: {name: each.get(name) for name in shown} for each in told_of_all(spool)}
    (whole,) = [each for each, told in before.items() if told["source"] == "two.jsonl"]
    del before[whole]  # what it was is not written anywhere; its documents are
    assert len(before) == 5
    redis.flushall()
    account = taken(spool, redis)
    assert account.is_balanced, "the disk is the record"
    assert (account.unrecorded, account.recorded) == (5, 0)
    assert taken(spool, redis, record=True).recorded == 5
    again = taken(spool, redis, record=True)
    assert (again.unrecorded, again.recorded) == (0, 0)
    after = {each["id"]: {name: each.get(name) for name in shown} for each in told_of_all(spool)}
    assert after == before


def told_of_all(fleet: Fleet) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, ["--config", str(fleet.config_path), "tasks", "--json"])
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    return listed


def test_a_claim_that_redis_does_not_know(fleet: Fleet, redis: Redis) -> None:
    fleet.drop("a.json", b"1")
    fleet.start("ingest", "collector")
    wait_until(lambda: fleet.ledger_total("queued") == 1, "it is enqueued")
    fleet.stop()
    redis.flushall()
    account = taken(fleet, redis)
    assert account.is_balanced
    assert (account.in_flight, account.unsubmitted) == (1, 1)


@pytest.mark.slow
def test_while_everything_moves(fleet: Fleet, redis: Redis) -> None:
    """Taken again and again while documents stream: nothing is called wrong that is not."""
    fleet.start()
    number = 0

    def drop_some() -> None:
        nonlocal number
        for _ in range(100):
            fleet.drop(f"{number}.json", b'{"number": %d}' % number if number % 10 else b"{nonsense nonsense")
            number += 1

    drop_some()
    fleet.wait_finished(100)
    while number < 500:
        drop_some()
        account = taken(fleet, redis)
        assert account.is_balanced, account.problems
    fleet.wait_finished(number)
    account = taken(fleet, redis)
    assert (account.done, account.rejected) == (450, 50)


@pytest.mark.slow
def test_at_the_prompt(spool: Fleet) -> None:
    def reconcile(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["--config", str(spool.config_path), "reconcile", *arguments])

    done = reconcile("--verify")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Everything is accounted for."
    done = reconcile("--offline", "--json")
    assert json.loads(done.stdout)["balanced"] is True
    assert reconcile("--offline", "--record").exit_code == 2
    Path(spool.errors / "bad.json").unlink()
    done = reconcile("--offline")
    assert done.exit_code == 1
    assert "no_original" in done.stdout
    assert "1 problem: not everything is accounted for." in done.stdout
    done = reconcile("--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["account"]["problems"][0]["kind"] == "no_original"
