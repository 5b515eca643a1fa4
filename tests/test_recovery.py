"""Recovery: every claim is brought to an end by somebody, and what is in good hands is left there."""

import logging
from collections.abc import Callable

import pytest
from conftest import KEYS, Fleet, account, wait_until
from redis import Redis
from redis.connection import AbstractConnection
from rq.registry import FailedJobRegistry

from llm_scheduler.ingest.finder import Finder
from llm_scheduler.ingest.recovery import PATIENCE_SECONDS, Recovery
from llm_scheduler.ingest.router import Router
from llm_scheduler.ingest.splitter import Splitter
from llm_scheduler.ingest.spool import Claims, Folders
from llm_scheduler.ingest.submitter import Submission, Submitter
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.process.termination import Stop
from llm_scheduler.jobs.store import batches, ledger, outcomes
from llm_scheduler.jobs.store.load import Load, read_load
from llm_scheduler.jobs.store.rq_job import DocumentJob

LOG = logging.getLogger("test")

LEVELS = ["high", "medium", "low"]
LATER = 30.0  # the time from one look to the next


class HandClock:
    at = 1_800_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Ground:
    """A spool and its claims, without any daemon; reconciled by hand."""

    def __init__(self, fleet: Fleet, redis: Redis) -> None:
        self.fleet = fleet
        self.redis = redis
        self.clock = HandClock()
        self.fleet.temp.mkdir(exist_ok=True)
        self.reconcile = self.made()

    def made(self) -> Recovery:
        """Recovery as a new ingest has it, with the configuration of now."""
        config = self.fleet.config()
        claims = Claims(config.directories.temp_directory)
        submitter = Submitter(config, self.redis, self.clock)
        splitter = Splitter(Folders.of(config.directories), claims)
        runtime = Runtime(config, self.redis, self.clock, Stop(), LOG)
        return Recovery(runtime, claims, Router(config), submitter, splitter)

    def claim(self, count: int, level: str = "medium", together: int = 1) -> list[str]:
        """`count` documents of `level`, claimed and submitted in jobs of `together`; their ids."""
        config = self.fleet.config()
        finder = Finder(config.processing, self.clock, lambda document_id: False)
        for number in range(count):
            self.fleet.drop(f"{level}{number}.json", b'{"metadata": {"priority": "%s"}}' % level.encode())
        ready = [finder.read(str(self.fleet.raw), f"{level}{number}.json") for number in range(count)]
        group, claims = Claims(config.directories.temp_directory).take(
            [each.candidate for each in ready if each is not None], self.clock.now()
        )
        assert len(claims) == count
        router, submitter = Router(config), Submitter(config, self.redis, self.clock)
        documents = [
            Submission(group, each, b"{}", router.decide({"metadata": {"priority": level}}).route) for each in claims
        ]
        queued = {level: 10**6 if together > 1 else 0}
        load = Load(in_flight={}, queued=queued, bytes=0, pace={level: 0.25 / together})
        submitter.submit(documents, load)
        return [each.id for each in claims]

    def looks(self, *after: float) -> list[int]:
        """How many are submitted at a look after each of these times."""
        found = []
        for seconds in after:
            self.clock.at += seconds
            found.append(self.reconcile.run())
        return found

    def documents(self, queue: str) -> list[str]:
        """The documents on `queue`, by the jobs there."""
        names = [name.decode() for name in self.redis.lrange(KEYS.queue(queue), 0, -1)]
        jobs = [job for job in DocumentJob.fetch_many(names, connection=self.redis) if job]
        return [payload.id for job in jobs for payload in job.payloads]

    def take_job(self) -> str:
        """The first job of the queue, taken from there by nobody."""
        return self.redis.lpop(KEYS.queue("medium")).decode()


@pytest.fixture
def ground(fleet: Fleet, redis: Redis) -> Ground:
    return Ground(fleet, redis)


def between(ground: Ground) -> None:
    ground.redis.lmove(KEYS.queue("medium"), KEYS.intermediate("medium"), "LEFT", "RIGHT")


def begun(ground: Ground) -> None:
    ground.redis.zadd(KEYS.begun("medium"), {f"{ground.take_job()}:e1": 9e9})


def scheduled(ground: Ground) -> None:
    ground.redis.zadd(KEYS.schedule, {ground.take_job(): 9e9})


def nothing(ground: Ground) -> None:
    pass


# In good hands


@pytest.mark.parametrize("place", [nothing, between, begun, scheduled])
def test_what_somebody_will_bring_to_an_end_is_left_alone(ground: Ground, place: Callable[[Ground], None]) -> None:
    ground.claim(3, together=3)
    place(ground)
    assert ground.looks(0, LATER, LATER, LATER) == [0, 0, 0, 0]


def test_a_backlog_is_not_submitted_twice_and_costs_few_round_trips(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.fleet.configure(processing={"mode": "batch", "batch_size": 50, "batch_timeout": 3600})
    ground.claim(170, "low")
    ground.claim(230, "medium")
    ground.fleet.configure(processing={"mode": "real_time"})
    ground.claim(100, "high")
    before = ground.documents("high"), ground.documents("medium"), ground.redis.llen(KEYS.batch("low"))
    sent: list[object] = []
    send = AbstractConnection.send_packed_command
    monkeypatch.setattr(
        AbstractConnection, "send_packed_command", lambda *words, **more: sent.append(words) or send(*words, **more)
    )
    assert ground.looks(0, LATER, LATER, LATER) == [0, 0, 0, 0]
    assert 0 < len(sent) <= 4 * (1 + 2 * 3), "one for all, and two for each of the three groups of claims"
    assert before == (ground.documents("high"), ground.documents("medium"), ground.redis.llen(KEYS.batch("low")))


def test_a_large_batch_names_all_of_its_members(ground: Ground) -> None:
    ground.fleet.configure(processing={"mode": "batch", "batch_size": 1000, "batch_timeout": 3600})
    ids = ground.claim(250)
    pipeline = ground.redis.pipeline()
    batches.members(pipeline, "medium")
    batches.members(pipeline, "high")
    assert pipeline.execute() == [[each.encode() for each in ids], []]


# In nobody's hands


def gone_from_the_queue(ground: Ground) -> None:
    """The job is there still, and on no list."""
    ground.take_job()


def a_name_without_a_job(ground: Ground) -> None:
    ground.redis.delete(*ground.redis.keys(KEYS.job("*")))


def failed(ground: Ground) -> None:
    """RQ's own registry of failed jobs is the end of a job, and none of its documents'."""
    ground.redis.zadd(FailedJobRegistry("medium", connection=ground.redis).key, {ground.take_job(): 9e9})


@pytest.mark.parametrize("lose", [gone_from_the_queue, a_name_without_a_job, failed])
def test_what_is_in_nobodys_hands_is_submitted_again_once(ground: Ground, lose: Callable[[Ground], None]) -> None:
    ids = ground.claim(3, together=3)
    lose(ground)
    assert ground.looks(0, 5, LATER) == [0, 0, 3]
    assert ground.documents("medium") == ids
    assert ground.looks(LATER, LATER) == [0, 0]


def test_only_the_missing_members_of_a_batch_are_submitted_again(ground: Ground) -> None:
    ground.fleet.configure(processing={"mode": "batch", "batch_timeout": 3600})
    ground.reconcile = ground.made()
    ids = ground.claim(6)
    ground.claim(2, "low")
    members = ground.redis.lrange(KEYS.batch("medium"), 0, -1)
    for lost in (0, 3):
        ground.redis.lrem(KEYS.batch("medium"), 1, members[lost])
    assert ground.looks(0, LATER, LATER) == [0, 2, 0]
    assert {each[:26].decode() for each in ground.redis.lrange(KEYS.batch("medium"), 0, -1)} == set(ids)
    assert ground.redis.llen(KEYS.batch("medium")) == 6


def test_what_has_moved_since_it_was_missed_is_looked_at_again(ground: Ground) -> None:
    """It was on its way from one place to another when each of two looks was taken."""
    (document_id,) = ground.claim(1)
    ground.take_job()
    assert ground.looks(0) == [0]
    ledger.move(ground.redis, Status.RETRYING, 1, [(document_id, {"rq_job_id": "another"})])
    assert ground.looks(LATER) == [0]
    assert ground.looks(LATER) == [1]


def test_outcomes_that_wait_for_the_collector_are_waited_for(ground: Ground) -> None:
    """Or all that was done while the collector was stopped would be done again at each look."""
    ids = ground.claim(3)
    ground.redis.delete(KEYS.queue("medium"))
    told = ground.redis.xadd(KEYS.outcomes("medium"), {outcomes.FIELD: "x"})
    assert ground.looks(0, LATER, LATER) == [0, 0, 0]
    milliseconds = int(told.partition(b"-")[0])
    ground.redis.xdel(KEYS.outcomes("medium"), told)
    ground.redis.xadd(KEYS.outcomes("medium"), {outcomes.FIELD: "later"}, id=f"{milliseconds + 3_600_000}-0")
    assert ground.looks(1) == [3], "what waits now was told of later"
    assert ground.documents("medium") == ids


def test_an_outcome_that_can_never_be_committed_holds_nothing_up_for_ever(ground: Ground) -> None:
    ground.claim(1)
    ground.redis.delete(KEYS.queue("medium"))
    ground.redis.xadd(KEYS.outcomes("medium"), {outcomes.FIELD: "x"})
    assert ground.looks(0, PATIENCE_SECONDS - 1, 2) == [0, 0, 1]


# Levels that are no more


def waits_in_a_batch(ground: Ground) -> None:
    ground.fleet.configure(processing={"mode": "batch", "batch_timeout": 3600})


@pytest.mark.parametrize("place", [nothing, between, begun, scheduled, waits_in_a_batch])
def test_what_waits_at_a_level_that_is_no_more_is_routed_anew_at_once(
    ground: Ground, place: Callable[[Ground], None]
) -> None:
    if place is waits_in_a_batch:
        place(ground)
    ids = ground.claim(3, together=3)
    if place is not waits_in_a_batch:
        place(ground)
    if place is scheduled:
        ledger.move(ground.redis, Status.RETRYING, 1, [(each, {}) for each in ids])
    ground.redis.xadd(KEYS.outcomes("medium"), {outcomes.FIELD: "x"})
    ground.fleet.configure(queue={"priority_levels": ["urgent", "rest"]}, processing={"mode": "real_time"})
    ground.reconcile = ground.made()
    assert ground.looks(0) == [3]
    assert ground.documents("urgent") == ids, "medium is the first of two"
    entries = ledger.entries(ground.redis, ids)
    assert {(each.queue, each.priority, each.status) for each in entries if each} == {("urgent", "urgent", "queued")}
    assert None not in entries
    assert read_load(ground.redis, LEVELS).documents == 0
    assert ground.redis.keys("*medium*") == [], "nobody would ever look at it"
    assert {name.decode() for name in ground.redis.keys(KEYS.job("*"))} == {
        KEYS.job(name.decode()) for name in ground.redis.lrange(KEYS.queue("urgent"), 0, -1)
    }
    assert ground.looks(LATER, LATER) == [0, 0]


def test_a_finished_document_of_a_level_that_is_no_more_is_no_orphan(ground: Ground) -> None:
    """The collector is just taking its claim away."""
    ids = ground.claim(1)
    ledger.move(ground.redis, Status.DONE, 1, [(ids[0], {})])
    ground.fleet.configure(queue={"priority_levels": ["high", "low"]})
    ground.reconcile = ground.made()
    assert ground.looks(0) == [0]


@pytest.mark.slow
def test_a_level_is_removed_while_documents_wait_there(fleet: Fleet, redis: Redis) -> None:
    """Some on the queue, some in the batch."""
    levels = ("high", "medium", "low")
    content = '{"metadata": {"priority": "%s"}, "n": %d}'
    dropped = {f"{number}.json": (content % (levels[number % 3], number)).encode() for number in range(9)}
    fleet.configure(processing={"mode": "batch", "batch_timeout": 3600, "batch_size": 2}).start("ingest")
    for name, raw in dropped.items():
        fleet.drop(name, raw)
    wait_until(lambda: fleet.ledger_total("batched", "queued") == 9, "all submitted")
    wait_until(lambda: fleet.ledger_total("batched") == 3, "one of each left in a batch")
    fleet.stop("ingest")
    fleet.configure(queue={"priority_levels": ["high", "low"]}, processing={"batch_timeout": 1})
    fleet.start("ingest", "collector", "scheduler", "high", "low")
    fleet.wait_finished(len(dropped), deadline=20)
    account(fleet, dropped)
    assert {result["priority"] for result in fleet.results()} == {"high", "low"}
    assert redis.keys(KEYS.batch("*")) == []
    assert not redis.exists(KEYS.queue("medium"))
