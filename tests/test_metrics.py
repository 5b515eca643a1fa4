"""What is counted, once each, and what `/stats` and `/metrics` make of it."""

import logging
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import KEYS, LEVELS, Fleet, Server
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as LostConnection
from test_api import Api, ToldClock
from test_docs import rows

from llm_scheduler.api.state import metric_families
from llm_scheduler.ingest.collector import Collector
from llm_scheduler.ingest.outcome_reader import OutcomeEntry
from llm_scheduler.ingest.spool.claims import Claim, FileStamp
from llm_scheduler.ingest.spool.commit import CommitResult
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.document import Route, Status, new_id
from llm_scheduler.jobs.process.heartbeat import HeartbeatRecord
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.process.termination import Stop
from llm_scheduler.jobs.process.vitals import HostVitals
from llm_scheduler.jobs.store import alerts, commands, counters, ledger, outcomes, producers
from llm_scheduler.jobs.store.counters import BOUNDS, Durations, OutcomeCounts
from llm_scheduler.jobs.store.outcomes import Outcome
from llm_scheduler.jobs.store.producers import ProducerCount

NOON = 1_800_000_000.0 - 1_800_000_000.0 % 60


def ended(queue: str = "high", code: str = "", seconds: float = 0.0, attempts: int = 1) -> Outcome:
    return Outcome(
        kind="rejected" if code else "done",
        id=new_id(NOON),
        group="group",
        attempts=attempts,
        completed_at=NOON,
        route=Route(priority=queue, queue=queue, handler="default", reasons=[]),
        code=code,
        seconds=seconds,
    )


def ends(*outcomes: Outcome, age: float = 1.0) -> OutcomeCounts:
    made = OutcomeCounts()
    for each in outcomes:
        made.add(each, Status.REJECTED if each.code else Status.DONE, age)
    return made


def count(redis: Redis, now: float, made: OutcomeCounts) -> None:
    with redis.pipeline() as pipeline:
        counters.count_ended(pipeline, now, made, None)
        pipeline.execute()


def totals(redis: Redis) -> dict[str, counters.QueueCounters]:
    return counters.parse(redis.hgetall(KEYS.totals), LEVELS)  # type: ignore[arg-type]


# Tallies


def test_what_ended_is_counted_by_queue_code_and_time(redis: Redis) -> None:
    done = [ended(seconds=0.001), ended(seconds=0.0011), ended(seconds=7200), ended("low", seconds=0.3)]
    refused = [
        ended(code="binary:png", attempts=0),
        ended(code="schema", seconds=0.02),
        ended(code="of a newer version"),
    ]
    made = ends(*done, *refused, age=0.2)
    made.add(ended("medium", seconds=5), Status.CANCELLED, 60)
    count(redis, NOON, made)
    found = totals(redis)
    high = found["high"]
    assert (high.done, high.rejected_total, high.cancelled, high.received) == (3, 3, 0, 0)
    assert high.rejected == {"binary": 1, "schema": 1, counters.OTHER: 1}
    assert high.error_rate == 0.5
    assert (found["medium"].cancelled, found["medium"].finished, found["medium"].processing.count) == (1, 1, 0)
    assert high.processing.count == 5, "no handler saw the picture"
    assert high.processing.buckets[BOUNDS.index(0.001)] == 2, "a bound belongs to its bucket"
    assert high.processing.buckets[BOUNDS.index(0.0025)] == 1
    assert high.processing.buckets[-1] == 1
    assert high.processing.seconds == pytest.approx(7200.0221)
    assert high.arrival_to_done.count == 3, "of the rejected nothing came"
    assert high.arrival_to_done.seconds == pytest.approx(0.6)


def test_percentiles_lie_in_the_right_bucket() -> None:
    times = Durations()
    assert (times.mean, times.percentile(50)) == (None, None)
    times.buckets[BOUNDS.index(0.1)] = 90  # from 0.05 to 0.1
    times.buckets[BOUNDS.index(10.0)] = 9
    times.buckets[-1] = 1
    times.seconds = 200
    assert times.mean == 2
    assert times.percentile(50) == pytest.approx(0.05 + 0.05 * 50 / 90)
    assert times.percentile(90) == pytest.approx(0.1)
    assert times.percentile(95) == pytest.approx(5 + 5 * 5 / 9)
    assert times.percentile(99.5) == BOUNDS[-1]


def test_a_group_whose_acknowledgement_was_lost_is_counted_once(
    redis: Redis, redis_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path / "spool", redis_server)
    fleet.temp.mkdir()
    collector = Collector(Runtime(fleet.config(), redis, ToldClock(), Stop(), logging.getLogger("llm.collector")))
    done, refused, late = ended(seconds=0.5), ended(code="schema"), ended("low")
    first: Any = redis.xadd(KEYS.outcomes("high"), {"o": outcomes.encode([done, refused, late])})
    second: Any = redis.xadd(KEYS.outcomes("low"), {"o": outcomes.encode([])})
    entries = [OutcomeEntry(KEYS.outcomes("high"), first, []), OutcomeEntry(KEYS.outcomes("low"), second, [])]
    came = ToldClock().now() - 3
    claim = Claim(id=done.id, source="a.json", watch=str(fleet.raw), stamp=FileStamp(1, 1, 1), received_at=came)
    committed = [
        CommitResult(done, Status.DONE, claim),
        CommitResult(refused, Status.REJECTED, claim),
        CommitResult(late, Status.DONE),
    ]
    execute = Pipeline.execute
    answers = 0

    def lost(self: Pipeline, raise_on_error: bool = True) -> list[Any]:
        nonlocal answers
        answer: list[Any] = execute(self, raise_on_error)
        answers += 1
        if answers == 1:
            raise LostConnection("the answer is lost")
        return answer

    monkeypatch.setattr(Pipeline, "execute", lost)
    collector._acknowledger.run(entries, committed)
    assert answers == 2, "it was told again"
    high, _, low = (totals(redis)[level] for level in LEVELS)
    assert (high.done, high.rejected_total, low.done) == (1, 1, 0)
    assert high.arrival_to_done.seconds == pytest.approx(3)
    assert redis.xlen(KEYS.outcomes("high")) == redis.xlen(KEYS.outcomes("low")) == 0


def test_only_what_is_new_is_received(redis: Redis) -> None:
    ids = [new_id(NOON) for _ in range(6)]
    fields: ledger.Fields = {"priority": "high", "size": 1}
    for each, status in zip(ids, (Status.RECEIVED, Status.QUEUED, Status.DONE), strict=False):
        ledger.move(redis, status, NOON, [(each, fields)])
    with redis.pipeline() as pipeline:
        counters.count_received(pipeline, NOON, {"high": ids[:4], "low": ids[4:]})
        ledger.move(pipeline, Status.QUEUED, NOON, [(each, fields) for each in ids])
        counters.count_received(pipeline, NOON, {"high": ids[:4], "low": ids[4:]})
        pipeline.execute()
    found = totals(redis)
    assert (found["high"].received, found["low"].received) == (2, 2), "one came through the API, one from the folder"


def test_a_look_back_goes_on_to_a_full_minute_and_no_further(redis: Redis) -> None:
    for back, documents in ((0, 1), (60, 10), (120, 100), (3600, 1000), (24 * 3600, 10_000), (24 * 3600 + 60, 100_000)):
        count(redis, NOON - back + 59, ends(*[ended()] * documents))
    sums = {seconds: counters.recent(redis, LEVELS, NOON + 30, seconds) for seconds in (60, 3600, 24 * 3600, 10**9)}
    assert [found.queues["high"].done for found in sums.values()] == [11, 1111, 11111, 11111]
    assert (sums[60].since, sums[60].seconds) == (NOON - 60, 90)
    assert 24 * 3600 < redis.ttl(KEYS.minute(int(NOON // 60))) <= 26 * 3600  # type: ignore[operator]


# The API


@pytest.fixture
def served(tmp_path: Path, redis_server: Server) -> Iterator[Api]:
    api = Api(tmp_path / "spool", redis_server.url)
    yield api
    api.stop()


def samples(text: str, families: Callable[[str], Any] = text_string_to_metric_families) -> dict[str, float]:
    """Each sample by its name and its labels' values, as in `name high done`."""
    found = [sample for family in families(text) for sample in family.samples]
    made = {" ".join([each.name, *(value for _, value in sorted(each.labels.items()))]): each.value for each in found}
    assert len(made) == len(found), "a series is there twice"
    return made


def scraped(served: Api) -> dict[str, float]:
    answer = served.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answer.text)


def furnish(served: Api) -> None:
    """Something of everything that is shown."""
    redis, now = served.redis, served.clock.now()
    count(redis, now, ends(ended(seconds=0.2), ended(seconds=3), ended("low", code="schema", seconds=0.1), age=2))
    with redis.pipeline() as pipeline:
        counters.count_received(pipeline, now, {"high": [new_id(now) for _ in range(5)]})
        producers.count(
            pipeline, now, {ProducerCount("shop", "gpt", "valid"): 3, ProducerCount("shop", "", "empty"): 1}, 1
        )
        pipeline.execute()
    waiting = [new_id(now - 90), new_id(now - 30)]
    ledger.move(redis, Status.QUEUED, now - 90, [(waiting[0], {"priority": "high"})])
    ledger.move(redis, Status.BATCHED, now - 30, [(waiting[1], {"priority": "high"})])
    redis.rpush(KEYS.batch("high"), "x")
    redis.zadd(KEYS.schedule, {"flush-high": now - 1, "a-r1": now - 2, "b-r1": now + 60})
    commands.pause(redis, "low")
    redis.sadd(KEYS.workers, KEYS.worker("w"))
    vitals = b'{"at":1,"cpu":12.5,"memory":40.0,"load":0.5}'
    said = {"birth": "2027", "hostname": "one", "queues": "high", "state": "busy", "llm_version": "0", "vitals": vitals}
    redis.hset(KEYS.worker("w"), mapping=said)  # type: ignore[arg-type]
    alerts.raise_alert(redis, "queue_timeout:high", alerts.Event(kind="queue_timeout", at=now, message="late"))
    word = HeartbeatRecord(
        1, "two", "working", "", now, __version__, HostVitals(at=now, cpu=50, disk_free=10, disk_total=100)
    )
    redis.set(KEYS.heartbeat("ingest"), msgspec.json.encode(word))


def test_everything_is_measured(served: Api) -> None:
    furnish(served)
    served.raw.mkdir()
    (served.raw / "a.json").write_text("{}")
    found = scraped(served)
    expected = {
        "scheduler_tasks_total high done": 2,
        "scheduler_tasks_total high received": 5,
        "scheduler_tasks_total low rejected": 1,
        "scheduler_tasks_total medium cancelled": 0,
        "scheduler_rejected_documents_total schema low": 1,
        "scheduler_rejected_documents_total schema high": 0,
        "scheduler_task_duration_seconds_bucket 0.1 high": 0,
        "scheduler_task_duration_seconds_bucket 0.25 high": 1,
        "scheduler_task_duration_seconds_bucket +Inf high": 2,
        "scheduler_task_duration_seconds_count high": 2,
        "scheduler_task_duration_seconds_sum high": 3.2,
        "scheduler_task_duration_seconds_count low": 1,
        "scheduler_arrival_to_done_seconds_count high": 2,
        "scheduler_arrival_to_done_seconds_sum high": 4,
        "scheduler_arrival_to_done_seconds_count low": 0,
        "scheduler_queue_size high": 2,
        "scheduler_queue_size low": 0,
        "scheduler_oldest_document_age_seconds high": 90,
        "scheduler_oldest_document_age_seconds low": 0,
        "scheduler_batch_documents high": 1,
        "scheduler_queue_paused low": 1,
        "scheduler_queue_paused high": 0,
        "scheduler_documents high queued": 1,
        "scheduler_schedules": 3,
        "scheduler_schedules_due": 2,
        "scheduler_workers high busy": 1,
        "scheduler_workers high idle": 0,
        "scheduler_process_up ingest": 1,
        "scheduler_process_up scheduler": 0,
        "scheduler_version_skew": 1,
        "scheduler_cpu_usage one": 12.5,
        "scheduler_cpu_usage two": 50,
        "scheduler_memory_usage one": 40,
        "scheduler_load one": 0.5,
        "scheduler_spool_free_bytes two": 10,
        "scheduler_spool_size_bytes two": 100,
        "scheduler_alerts queue_timeout": 1,
        "scheduler_producer_documents shop": 4,
        "scheduler_producer_malformed_ratio shop": 0.25,
        "scheduler_ingest_backlog_files waiting": 1,
        "scheduler_ingest_backlog_files claimed": 0,
        "scheduler_redis_up": 1,
        "scheduler_redis_memory_max_bytes": 0,
    }
    assert {name: found.get(name) for name in expected} == pytest.approx(expected)
    assert found["scheduler_redis_memory_used_bytes"] > 100_000
    assert any(name.startswith("scheduler_build_info") and name.endswith(__version__) for name in found)
    codes = {name.split()[1] for name in found if name.startswith("scheduler_rejected_documents_total")}
    assert codes == {code.value for code in Code} - {"cancelled"}


def test_who_asks_for_openmetrics_gets_it(served: Api) -> None:
    furnish(served)
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = served.http.get("/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    assert samples(answer.text, openmetrics_families)["scheduler_tasks_total high done"] == 2


def test_the_page_has_every_metric_and_no_other(served: Api) -> None:
    """By its name, its type and its labels."""
    furnish(served)
    say_disk = HeartbeatRecord(
        1, "two", "working", "", served.clock.now(), __version__, HostVitals(disk_free=1, disk_total=2, load=1)
    )
    served.redis.set(KEYS.heartbeat("collector"), msgspec.json.encode(say_disk))
    page = {
        name: (cells[0], set(re.findall("`([a-z]+)`", cells[1])))
        for name, cells in rows("monitoring.md").items()
        if cells
    }
    found = {}
    for family in text_string_to_metric_families(served.http.get("/metrics").text):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[family.samples[0].name if family.type == "counter" else family.name] = (family.type, labels)
    assert page == found


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here (Debian: apt install prometheus)")
def test_prometheus_has_nothing_to_say_against_it(served: Api) -> None:
    furnish(served)
    text = served.http.get("/metrics").text
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_metrics_are_there_while_redis_is_not(served: Api, redis_server: Server) -> None:
    served.raw.mkdir()
    (served.raw / "a.json").write_text("{}")
    redis_server.kill()
    found = scraped(served)
    assert found["scheduler_redis_up"] == 0
    assert found["scheduler_ingest_backlog_files waiting"] == 1
    assert not any(name.startswith("scheduler_tasks") for name in found), "no zero that nobody has counted"
    redis_server.start()
    assert scraped(served)["scheduler_redis_up"] == 1


def test_labels_are_few_whatever_is_counted(served: Api) -> None:
    redis, now = served.redis, served.clock.now()
    with redis.pipeline() as pipeline:
        counts = {
            ProducerCount(f"producer {number:03}", f"m{number % 2}", "valid"): 500 - number for number in range(200)
        }
        counts[ProducerCount("x" * 5000, "", "empty")] = 1000
        counts[ProducerCount("", "", "empty")] = 999
        producers.count(pipeline, now, counts, 1)
        pipeline.execute()
    redis.sadd(KEYS.workers, *(KEYS.worker(number) for number in range(metric_families.MAX_HOSTS + 50)))
    for number in range(metric_families.MAX_HOSTS + 50):
        vitals = f'{{"at":1,"cpu":{number / 10}}}'
        said = {"birth": "2027", "hostname": f"h{number:03}", "queues": f"q{number}", "state": f"s{number}"}
        redis.hset(KEYS.worker(number), mapping={**said, "vitals": vitals})
    for number in range(100):
        redis.hset(KEYS.totals, f"done:q{number}", 1)
        redis.hset(KEYS.totals, f"rejected:high:code{number}", 1)
        redis.hset(KEYS.totals, f"invented:q{number}:x", 1)
        alerts.raise_alert(redis, f"a{number}", alerts.Event(kind=f"k{number}", at=now, message=""))
    found = scraped(served)
    assert len(found) < 1000

    def labelled(name: str) -> dict[str, float]:
        return {sample.removeprefix(f"{name} "): value for sample, value in found.items() if sample.startswith(name)}

    documents = labelled("scheduler_producer_documents")
    assert len(documents) == metric_families.MAX_PRODUCERS + 1
    assert documents["x" * 100] == 1000
    assert documents["(unnamed)"] == 999
    assert documents["producer 047"] == 453
    assert documents["(other)"] == sum(500 - number for number in range(48, 200))
    hosts = labelled("scheduler_cpu_usage")
    assert len(hosts) == metric_families.MAX_HOSTS + 1
    assert hosts["(other)"] == (metric_families.MAX_HOSTS + 49) / 10, "the one that is nearest to its limit"
    assert labelled("scheduler_tasks_total")["(other) done"] == 100
    assert labelled("scheduler_rejected_documents_total")["(other) high"] == 100
    assert labelled("scheduler_workers")["(other) (other)"] == metric_families.MAX_HOSTS + 50
    assert len(labelled("scheduler_alerts")) == metric_families.MAX_KINDS


def test_stats_of_a_window(served: Api) -> None:
    redis = served.redis
    served.clock.at = NOON + 30
    count(redis, NOON - 50, ends(*[ended(seconds=0.02)] * 3, ended(code="schema", seconds=0.04), age=0.2))
    count(redis, NOON, ends(ended("low", code="binary:png", attempts=0)))
    count(redis, NOON - 290, ends(*[ended()] * 95))
    with redis.pipeline() as pipeline:
        counters.count_received(pipeline, NOON, {"low": [new_id(NOON)]})
        pipeline.execute()
    found = served.get("/stats?window=1m")
    assert (found["received"], found["done"], found["rejected"], found["cancelled"]) == (1, 3, 2, 0)
    assert found["by_code"] == {"binary": 1, "schema": 1}
    assert (found["error_rate"], found["seconds"], found["documents_per_second"]) == (0.4, 90, round(5 / 90, 3))
    assert found["processing_seconds"]["count"] == 4
    assert found["processing_seconds"]["mean"] == pytest.approx(0.025)
    assert 0.01 < found["processing_seconds"]["p50"] <= 0.025
    assert 0.1 < found["arrival_to_done_seconds"]["p99"] <= 0.25
    high, medium, low = found["queues"]
    assert (high["queue"], high["done"], high["error_rate"]) == ("high", 3, 0.25)
    assert (medium["error_rate"], medium["processing_seconds"]["p50"]) == (None, None)
    assert (low["received"], low["rejected"]) == (1, 1)
    assert served.get("/stats")["done"] == 98, "five minutes, unless asked otherwise"
    assert served.get("/stats?window=2m", 422)["allowed"] == sorted(["1m", "5m", "15m", "1h", "6h", "24h"])
