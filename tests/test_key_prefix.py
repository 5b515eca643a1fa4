"""A spool with a key prefix: every key that the system writes begins with it, RQ's and rq-scheduler's included."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from conftest import LLMCTL, Fleet, Server, wait_until
from redis import Redis
from test_api import free_port

from llm_scheduler.jobs.process.connection import connect, key_prefix
from llm_scheduler.jobs.store import alerts, commands, ledger
from llm_scheduler.jobs.store.alerts import Event
from llm_scheduler.jobs.store.keys import Keys, keys_of

PREFIX = "{s1}:"
HANDLER = """
def handle(document, context):
    if document.get("fails") and context.attempt == 1:
        raise RuntimeError("once")
    return 1
"""


@pytest.fixture
def prefixed(fleet: Fleet, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """A fleet whose processes have the prefix, on a server where other keys are noticed."""
    monkeypatch.setenv("RQ_KEY_PREFIX", f"{PREFIX}rq")
    (fleet.folder / "fails_once.py").write_text(HANDLER)
    return fleet.configure(
        handlers={"default": "fails_once:handle"},
        processing={"mode": "hybrid", "batch_size": 2, "batch_timeout": 1, "queue_timeout": 0.2},
    )


def names(redis: Redis) -> set[str]:
    return {key.decode() for key in redis.keys("*")}


def test_every_key_of_the_main_path_has_the_prefix(prefixed: Fleet, redis: Redis) -> None:
    """Real time, batches, a flush, a retry, a rejection, the API, a command, an alert, and RQ's own keys."""
    port = free_port()
    prefixed.configure(api={"port": port})
    prefixed.drop("urgent.json", '{"metadata": {"priority": "high"}}')
    for number in range(3):
        prefixed.drop(f"{number}.json", json.dumps({"n": number, "metadata": {"priority": "medium"}}))
    prefixed.drop("fails.json", '{"fails": true, "metadata": {"priority": "high"}}')
    prefixed.drop("broken.json", '{"cut')
    prefixed.start()
    api = subprocess.Popen(
        [sys.executable, "-P", "-m", "llm_scheduler.api.server", "--config", str(prefixed.config_path)],
        cwd=prefixed.folder,
        env=dict(os.environ),
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            wait_until(lambda: answers(http), "an API")
            sent = http.post("/jobs", json={"api": 1}, headers={"Idempotency-Key": "once"})
            assert sent.status_code == 202
            prefixed.wait_finished(7)
            for path in ("/jobs", "/queues", "/workers", "/stats", "/schedules", "/ready", "/metrics", "/producers"):
                assert http.get(path).status_code == 200, path
            assert http.post("/queues/low/pause").status_code == 200
        told = subprocess.run([LLMCTL, "--config", "config.json", "status", "--json"], cwd=prefixed.folder, timeout=60,
                              capture_output=True, check=True)  # fmt: skip
        assert sum(json.loads(told.stdout)["counts"]["done"].values()) == 6
    finally:
        api.terminate()
        api.wait(20)
    assert {name for name in names(redis) if not name.startswith(PREFIX)} == set()
    keys = Keys(PREFIX)
    assert {keys.workers, keys.queues, keys.totals, keys.transitions, keys.paused, keys.scheduler_lock} <= names(redis)
    assert redis.zcard(keys.status_set("done", "high")) == 2
    prefixed.stop()
    assert {name for name in names(redis) if not name.startswith(PREFIX)} == set()


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_two_spools_share_a_redis(fleet: Fleet, redis: Redis, redis_server: Server, tmp_path: Path) -> None:
    """Each finishes its own documents, and neither counts, pauses or wipes what is the other's."""
    other = Fleet(tmp_path / "other", redis_server)
    prefixed = {"RQ_KEY_PREFIX": f"{PREFIX}rq"}
    try:
        fleet.start()
        other.start(env=prefixed)
        wait_until(fleet.all_ready, "the fleet without a prefix")
        commands.pause(redis, "high")
        for number in range(20):
            fleet.drop(f"mine/{number}.json", json.dumps({"mine": number}))
            other.drop(f"other/{number}.json", json.dumps({"other": number, "metadata": {"priority": "high"}}))
        fleet.wait_finished(20)
        other.wait_finished(20)
        assert {result["source"].partition("/")[0] for result in fleet.results()} == {"mine"}
        assert {result["source"].partition("/")[0] for result in other.results()} == {"other"}
        plain, own = Keys(), Keys(PREFIX)
        assert redis.zcard(plain.status_set("done", "medium")) == redis.zcard(own.status_set("done", "high")) == 20
        assert redis.zcard(plain.status_set("done", "high")) == redis.zcard(own.status_set("done", "medium")) == 0
    finally:
        for process in other.running.values():
            process.kill()
            process.wait()


def test_two_prefixes_do_not_see_each_other(redis: Redis, redis_server: object) -> None:
    url = redis_server.url  # type: ignore[attr-defined]
    with connect(url) as one, connect(url) as two:
        two.connection_pool.key_prefix = PREFIX  # type: ignore[attr-defined]
        assert (keys_of(one), keys_of(two), keys_of(two.pipeline())) == (Keys(""), Keys(PREFIX), Keys(PREFIX))
        alerts.raise_alert(two, "a", Event(kind="k", at=1.0, message="m"))
        assert (list(alerts.standing(one)), list(alerts.standing(two))) == ([], ["a"])
        assert ledger.counts(one, ["high"]) == ledger.counts(two, ["high"])
    assert names(redis) == {Keys(PREFIX).alerts, Keys(PREFIX).events}


@pytest.mark.parametrize("program", ["ingest", "medium", "api", "llmctl"])
def test_a_prefix_that_rq_would_not_share_ends_every_program(fleet: Fleet, program: str) -> None:
    """With exit status 78, after which systemd does not try again, and a sentence."""
    fleet.config()
    module = Fleet.MODULES.get(program, (f"llm_scheduler.{program}.server",))
    python = [sys.executable, "-P", "-m", *module, "--config", "config.json"]
    command = [LLMCTL, "--config", "config.json", "tasks"] if program == "llmctl" else python
    environ = {**os.environ, "RQ_KEY_PREFIX": "other"}
    done = subprocess.run(command, cwd=fleet.folder, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert "RQ_KEY_PREFIX is 'other'. It must end in 'rq', for example '{s1}:rq'." in " ".join(done.stderr.split())


def test_a_prefix_that_rq_would_not_share_is_refused() -> None:
    assert key_prefix({}) == ""
    assert key_prefix({"RQ_KEY_PREFIX": "{s1}:rq"}) == PREFIX
    with pytest.raises(ValueError, match="must end in 'rq'"):
        key_prefix({"RQ_KEY_PREFIX": "other"})
