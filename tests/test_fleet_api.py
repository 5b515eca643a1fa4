"""What the API says of queues, workers, hosts, schedules, and of whether the system is ready."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import KEYS, LEVELS, Fleet, Server, wait_until
from redis import Redis
from test_api import Api
from test_metrics import count, ended, ends, scraped

from llm_scheduler.api.state import checks
from llm_scheduler.api.state.health import MAX_ANSWER_SECONDS
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.process.heartbeat import Heartbeat, HeartbeatRecord
from llm_scheduler.jobs.process.vitals import HostVitals, Vitals
from llm_scheduler.jobs.store import commands, ledger


@pytest.fixture
def served(tmp_path: Path, redis_server: Server) -> Iterator[Api]:
    api = Api(tmp_path / "spool", redis_server.url)
    yield api
    api.stop()


def enrol(redis: Redis, name: str, queue: str, **fields: str | int | float) -> None:
    said = {"birth": "2027-01-15T08:00:00Z", "hostname": "one", "queues": queue, "state": "idle", **fields}
    redis.sadd(KEYS.workers, KEYS.worker(name))
    redis.hset(KEYS.worker(name), mapping=said)  # type: ignore[arg-type]


def say(redis: Redis, role: str, host: str, at: float, state: str = "working", **vitals: Any) -> None:
    word = HeartbeatRecord(1, host, state, "/secret/path is missing", at, __version__, HostVitals(at=at, **vitals))
    redis.set(KEYS.heartbeat(role), msgspec.json.encode(word))


# Queues


def queue(served: Api, name: str) -> dict[str, Any]:
    [found] = [each for each in served.get("/queues")["queues"] if each["name"] == name]
    return dict(found)


def test_a_queues_depth_age_and_rates(served: Api) -> None:
    served.clock.at -= served.clock.at % 60
    now = served.clock.at
    first = served.known(Status.RECEIVED, "high")
    ledger.move(served.redis, Status.BATCHED, now - 400, [(first, {})])
    ledger.move(served.redis, Status.QUEUED, now - 200, [(first, {})])
    served.known(Status.BATCHED, "high")
    served.known(Status.STARTED, "high")
    served.clock.at = now + 30
    found = queue(served, "high")
    assert (found["depth"], found["oldest_seconds"], found["paused"]) == (2, 230, False)
    assert (found["finished_per_second"], found["drain_seconds"]) == (0, None), "nobody knows how long it will take"
    empty = queue(served, "low")
    assert (empty["depth"], empty["oldest_seconds"], empty["drain_seconds"]) == (0, None, 0)

    served.redis.hset(KEYS.pace, "high", "3")
    enrol(served.redis, "w1", "high")
    enrol(served.redis, "w2", "high,low")
    found = queue(served, "high")
    assert (found["workers"], found["drain_seconds"]) == (2, 3), "two documents, two workers, three seconds each"

    count(served.redis, now - 1, ends(*[ended()] * 44, ended(code="schema")))
    found = queue(served, "high")
    assert (found["finished_per_second"], found["drain_seconds"]) == (0.5, 4)

    commands.pause(served.redis, "high")
    found = queue(served, "high")
    assert (found["paused"], found["drain_seconds"]) == (True, None)


def test_a_retry_with_an_old_id_does_not_hide_who_waits_longer(served: Api) -> None:
    start = served.clock.at
    retried = served.known(Status.QUEUED, "high")
    served.known(Status.QUEUED, "high")
    ledger.move(served.redis, Status.RETRYING, start + 50, [(retried, {})])
    ledger.move(served.redis, Status.QUEUED, start + 90, [(retried, {})])
    served.clock.at = start + 102
    assert queue(served, "high")["oldest_seconds"] == 100


# Workers and hosts


def test_workers_and_their_versions(served: Api) -> None:
    known = {"llm_version": __version__, "rss": 50_000_000, "cpu": 99.5}
    enrol(served.redis, "new", "high", state="busy", in_hand="12.5 some-job", **known)
    enrol(served.redis, "old", "high", version="3.0.0", in_hand="12.5 its-last-job", rss="?")
    new, old = served.get("/workers")["workers"]
    assert (new["version"], new["version_skew"], new["rss"], new["cpu"]) == (__version__, False, 50_000_000, 99.5)
    assert new["current_job"] == "some-job"
    assert (old["version"], old["version_skew"], old["rss"], old["cpu"]) == (None, True, None, None), "that is RQ's"
    assert old["current_job"] is None, "it has ended"
    assert "vitals" not in new


def test_a_host_is_what_all_on_it_say(served: Api) -> None:
    now = served.clock.at
    vitals = {"old": HostVitals(at=now - 20, cpu=10, memory=60, load=1.5), "new": HostVitals(at=now - 5, cpu=None)}
    for name, each in vitals.items():
        fields = {"vitals": msgspec.json.encode(each).decode(), "llm_version": __version__}
        enrol(served.redis, name, "high", state="busy" if name == "old" else "idle", **fields)
    enrol(served.redis, "other", "low", hostname="two", vitals="nonsense", last_heartbeat="2027-01-15T08:00:00Z")
    say(served.redis, "ingest", "one", now - 1, memory=61.0, disk_free=5, disk_total=50)
    say(served.redis, "collector", "three", now - 2, disk_free=7, disk_total=70)
    one, three, two = served.get("/hosts")["hosts"]
    assert (one["name"], one["cpu"], one["memory"], one["load"]) == ("one", 10, 61, 1.5), "the newest that is known"
    assert one["workers"] == {"busy": 1, "idle": 1}
    assert one["disk"] == {"free_bytes": 5, "total_bytes": 50}
    assert [(each["role"], each["state"]) for each in one["daemons"]] == [("ingest", "working")]
    assert (one["versions"], one["version_skew"]) == ([__version__], False)
    assert one["last_seen"] == "2027-01-15T07:59:59.000Z"
    assert (three["name"], three["workers"], three["disk"]["free_bytes"]) == ("three", {}, 7)
    assert (two["name"], two["cpu"], two["versions"], two["version_skew"]) == ("two", None, [], True)
    assert two["last_seen"] == "2027-01-15T08:00:00.000Z"


def test_vitals_are_the_hosts_own(tmp_path: Path) -> None:
    vitals = Vitals(SystemClock(), str(tmp_path))
    assert vitals.host().cpu is None, "between two looks"
    assert vitals.own().cpu is None
    began, used = time.monotonic(), time.process_time()
    while time.process_time() < used + 0.3:
        pass
    own, host = vitals.own(), vitals.host()
    share = 100 * (time.process_time() - used) / (time.monotonic() - began)
    assert own.cpu == pytest.approx(share, rel=0.3)
    assert own.rss is not None
    assert 10**7 < own.rss < 10**10
    assert host.cpu is not None
    assert 0 < host.cpu <= 100
    assert host.memory is not None
    assert 0 < host.memory < 100
    assert host.load is not None
    room = os.statvfs(tmp_path)
    assert host.disk_free == pytest.approx(room.f_bavail * room.f_frsize, rel=0.05)
    assert Vitals(SystemClock(), str(tmp_path / "nothing")).host().disk_free is None


def test_a_word_is_said_as_long_as_it_is_true(redis: Redis, tmp_path: Path) -> None:
    word = Heartbeat(redis, KEYS.heartbeat("ingest"), SystemClock(), str(tmp_path))
    assert word.is_due()
    word.send("working", "")
    assert not word.is_due()
    raw: Any = redis.get(KEYS.heartbeat("ingest"))
    said = msgspec.json.decode(raw, type=HeartbeatRecord)
    assert (said.pid, said.host, said.version) == (os.getpid(), socket.gethostname(), __version__)
    assert said.vitals is not None
    assert said.vitals.disk_total
    assert 0 < redis.ttl(KEYS.heartbeat("ingest")) <= 10  # type: ignore[operator]
    word.remove()
    assert not redis.exists(KEYS.heartbeat("ingest"))


# Schedules


def test_what_is_scheduled(served: Api) -> None:
    nothing = served.get("/schedules")
    assert nothing["flushes"] == [{"queue": level, "batched": 0, "next_at": None} for level in LEVELS]
    assert (nothing["retries"], nothing["holder"]) == ({"count": 0, "next_at": None}, None)
    served.redis.rpush(KEYS.batch("low"), "x", "y")
    at = 1_800_000_000
    due = {"flush-low": at + 1, "flush-high": at + 2, "b-r1": at + 7.5, "a-r2": at + 90}
    served.redis.zadd(KEYS.schedule, due)
    served.redis.set(KEYS.scheduler_lock, "one-17-abcd boot/1 17:23")
    found = served.get("/schedules")
    assert found["flushes"][2] == {"queue": "low", "batched": 2, "next_at": "2027-01-15T08:00:01.000Z"}
    assert found["retries"] == {"count": 2, "next_at": "2027-01-15T08:00:07.500Z"}
    assert found["holder"] == "one-17-abcd"


# Ready


def make_ready(served: Api) -> None:
    for folder in ("raw", "processed", "archive", "errors", "temp"):
        (served.folder / folder).mkdir(exist_ok=True)
    for role in ("ingest", "collector", "scheduler"):
        say(served.redis, role, "one", served.clock.at)
    for level in LEVELS:
        enrol(served.redis, level, level)


def wrong(served: Api) -> dict[str, str]:
    """What is not well, by name, a moment later; what is said of it gives nothing away."""
    served.clock.at += 2
    answer = served.http.get("/ready")
    assert answer.headers["content-type"] == "application/json"
    assert str(served.folder) not in answer.text
    assert "secret" not in answer.text
    found = answer.json()
    bad = {check["name"]: check["message"] for check in found["checks"] if not check["ok"]}
    assert (answer.status_code, found["status"]) == ((503, "not ready") if bad else (200, "ready"))
    return bad


def test_ready_is_what_has_all_it_needs(served: Api) -> None:
    make_ready(served)
    assert wrong(served) == {}
    names = [check["name"] for check in served.get("/ready")["checks"]]
    assert names == [
        *("redis", "spool", "disk", "llm-ingest", "llm-collector", "llm-scheduler"),
        *(f"llm-worker {level}" for level in LEVELS),
    ]


def test_what_is_missing_is_named(served: Api) -> None:
    make_ready(served)
    say(served.redis, "collector", "one", served.clock.at, "waiting")
    served.redis.delete(KEYS.heartbeat("scheduler"), KEYS.worker("low"))
    (served.folder / "archive").rmdir()
    (served.folder / "errors").rmdir()
    (served.folder / "errors").write_text("no folder")
    bad = wrong(served)
    assert bad["llm-collector"] == "llm-collector runs, but waits. Its log and llmctl status say for what."
    assert bad["llm-scheduler"].startswith("llm-scheduler is not running. Start it: ")
    assert bad["llm-worker low"].startswith("Nobody works on low. Start a worker: ")
    assert re.fullmatch(
        r"directories\.archive_directory is not there\. .+ directories\.error_directory is not a folder\. .+",
        bad["spool"],
    )
    assert set(bad) == {"llm-collector", "llm-scheduler", "llm-worker low", "spool"}
    (served.folder / "raw").rmdir()
    assert "directories.watch_directory is not there" in wrong(served)["disk"]


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("maxmemory-policy", "allkeys-lru", "Redis deletes jobs when its memory is full"),
        ("maxmemory", "1", "Redis refuses writes: it is full"),
        ("min-replicas-to-write", "3", "Redis can't be reached"),
    ],
)
def test_a_redis_that_loses_or_refuses_jobs_is_not_ready(served: Api, setting: str, value: str, said: str) -> None:
    make_ready(served)
    served.redis.config_set(setting, value)
    assert wrong(served)["redis"].startswith(said)


def test_without_redis_nothing_is_ready_and_nothing_else_is_guessed(served: Api, redis_server: Server) -> None:
    make_ready(served)
    redis_server.kill()
    bad = wrong(served)
    assert bad["redis"].startswith("Redis can't be reached.")
    assert bad["llm-ingest"] == "Nothing is known of it while Redis can't be asked."
    assert "spool" not in bad
    assert served.http.get("/health").status_code == 200, "it lives all the same"


def test_a_redis_that_hangs_is_waited_for_once(served: Api, redis_server: Server) -> None:
    make_ready(served)
    assert wrong(served) == {}
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert "redis" in wrong(served)
    assert time.monotonic() - began < 1.7 * MAX_ANSWER_SECONDS


def test_a_full_disk_is_not_ready(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ready(served)
    real = os.statvfs(served.folder)

    def statvfs(path: str, blocks: int, inodes: int) -> os.statvfs_result:
        fields = list(real)
        fields[4], fields[5], fields[7] = blocks, 10**7, inodes
        return os.statvfs_result(fields)

    monkeypatch.setattr(checks.os, "statvfs", lambda path: statvfs(path, 1, 10**6))  # type: ignore[attr-defined]
    assert "queue.max_queue_bytes" in wrong(served)["disk"]
    monkeypatch.setattr(checks.os, "statvfs", lambda path: statvfs(path, 10**9, 5))  # type: ignore[attr-defined]
    assert "5 more files" in wrong(served)["disk"]


def test_ready_is_looked_at_once_a_second(served: Api) -> None:
    make_ready(served)
    assert wrong(served) == {}
    served.redis.delete(KEYS.heartbeat("ingest"))
    served.clock.at += 0.5
    assert served.http.get("/ready").status_code == 200
    assert "llm-ingest" in wrong(served)


# A real fleet


def test_a_fleet_counts_what_it_did(fleet: Fleet) -> None:
    """Each document once, and the daemons tell of themselves."""
    fleet.configure(processing={"retry_attempts": 0})
    fleet.start()
    documents = 40
    for number in range(documents):
        fleet.drop(f"{number}.json", f'{{"number": {number}, "metadata": {{"priority": "{LEVELS[number % 3]}"}}}}')
    fleet.drop("picture.json", b"\x89PNG\r\n\x1a\n\x00\x00")
    fleet.wait_finished(documents + 1)
    client = fleet.server.client()
    api = Api(fleet.folder, fleet.server.url)
    api.clock.at = SystemClock().now()
    try:
        total = wait_until(
            lambda: (found := api.get("/stats?window=24h"))["done"] + found["rejected"] > documents and found, "a count"
        )
        assert (total["received"], total["done"], total["rejected"]) == (documents + 1, documents, 1)
        assert total["by_code"] == {"binary": 1}
        assert total["processing_seconds"]["count"] in (documents, documents + 1)
        assert total["arrival_to_done_seconds"]["count"] == documents
        assert 0 < total["arrival_to_done_seconds"]["p95"] < 60
        assert fleet.ledger_total("done") == documents

        [host] = api.get("/hosts")["hosts"]
        assert (host["name"], host["versions"], host["version_skew"]) == (socket.gethostname(), [__version__], False)
        assert sorted(each["role"] for each in host["daemons"]) == ["collector", "ingest", "scheduler"]
        assert host["disk"]["free_bytes"] > 0
        assert sum(host["workers"].values()) == len(LEVELS)
        workers = api.get("/workers")["workers"]
        assert {worker["version"] for worker in workers} == {__version__}
        assert all(worker["rss"] > 10**7 for worker in workers)
        assert wait_until(lambda: api.get("/hosts")["hosts"][0]["cpu"] is not None, "a second look at the CPU")

        api.clock.at = SystemClock().now()
        assert wrong_in(api, fleet) == {}
        found = scraped(api)
        assert sum(found[f"scheduler_tasks_total {level} done"] for level in LEVELS) == documents
        assert found[f"scheduler_cpu_usage {socket.gethostname()}"] >= 0
        assert api.get("/schedules")["holder"].startswith(f"{socket.gethostname()}-{fleet.running['scheduler'].pid}-")

        fleet.stop("scheduler")
        assert not client.exists(KEYS.heartbeat("scheduler")), "it takes back its word"
        assert "llm-scheduler" in wrong_in(api, fleet)
    finally:
        api.stop()
        client.close()


def wrong_in(api: Api, fleet: Fleet) -> dict[str, str]:
    api.clock.at += 2
    found = api.http.get("/ready").json()
    return {check["name"]: check["message"] for check in found["checks"] if not check["ok"]}
