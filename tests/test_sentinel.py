"""Redis behind Sentinel: a master, two replicas and three sentinels, all real, some of them killed or frozen."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import KEYS, Fleet, Server, account, wait_until
from msgspec import convert
from redis import Redis
from redis.connection import SSLConnection, parse_url
from redis.exceptions import ConnectionError as LostConnection

from llm_scheduler.api.local.embedded_server import program
from llm_scheduler.api.state.health import read_health
from llm_scheduler.ingest.recovery import Recovery
from llm_scheduler.ingest.router import Router
from llm_scheduler.ingest.splitter import Splitter
from llm_scheduler.ingest.spool import Claims, Folders
from llm_scheduler.ingest.submitter import Submitter
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import Config, ConfigError, load
from llm_scheduler.jobs.config.mask import masked
from llm_scheduler.jobs.config.sentinel_address import sentinel_address
from llm_scheduler.jobs.process.connection import AWAY, connect, explain
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.process.termination import Stop

SERVICE = "papers"
LONG = "LLM_TEST_OUTAGE" in os.environ  # set by `make test-long`


class Program:
    """A server or a sentinel with a port of its own: can be killed, started again, frozen and thawed."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.folder = folder
        self.folder.mkdir()
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program(), *self.arguments, "--port", str(self.port), "--dir", str(self.folder)], stdout=log
            )

    def client(self) -> Redis:
        return Redis(port=self.port, socket_timeout=5)

    def replication(self) -> dict[str, Any]:
        client = self.client()
        try:
            return dict(client.info("replication"))
        except AWAY:
            return {}
        finally:
            client.close()

    def replicas(self) -> int:
        """How many replicas follow this server and have all it has."""
        said = self.replication()
        replicas = [value for name, value in said.items() if name.startswith("slave") and isinstance(value, dict)]
        return sum(replica["state"] == "online" for replica in replicas)

    def is_replica(self) -> bool:
        return self.replication().get("role") == "slave"

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class Watched(Server):
    """What `Server` is to a fleet, as six processes and a redis+sentinel:// address."""

    def __init__(self, folder: Path, careful: bool = True) -> None:
        self.folder = folder
        durable = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "notice")
        # What docs/decisions/0007-sentinel.md advises, only quicker.
        care = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "3") if careful else ()
        quick = ("--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0")
        self.servers = [Program(folder / f"server{number}", *durable, *care, *quick) for number in range(3)]
        for replica in self.servers[1:]:
            replica.arguments += ("--replicaof", f"127.0.0.1 {self.servers[0].port}")
        self.sentinels = [self._sentinel(number) for number in range(3)]
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}/0"

    def _sentinel(self, number: int) -> Program:
        folder = self.folder / f"sentinel{number}"
        sentinel = Program(folder, str(folder / "sentinel.conf"), "--sentinel")
        (folder / "sentinel.conf").write_text(
            "bind 127.0.0.1\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} 1000\n"
            f"sentinel failover-timeout {SERVICE} 5000\n"
            f"sentinel parallel-syncs {SERVICE} 2\n"
        )
        return sentinel

    def start(self, *options: str) -> "Watched":
        for server in self.servers:
            server.start()
        # A sentinel asks for replicas when it starts, and then only every ten seconds.
        wait_until(lambda: self.servers[0].replicas() == 2, "two replicas to follow the master")
        for sentinel in self.sentinels:
            sentinel.start()
        wait_until(lambda: all(self._knows_all(each) for each in self.sentinels), "the sentinels to find one another")
        return self

    def _knows_all(self, sentinel: Program) -> bool:
        client = sentinel.client()
        try:
            state = client.sentinel_masters()[SERVICE]
            return int(state["num-slaves"]) == 2 and int(state["num-other-sentinels"]) == 2
        except AWAY:
            return False
        finally:
            client.close()

    def master(self) -> Program:
        """The server that the first sentinel names."""
        client = self.sentinels[0].client()
        try:
            place = client.sentinel_get_master_addr_by_name(SERVICE)
        finally:
            client.close()
        return next(server for server in self.servers if server.port == place[1])

    def kill(self) -> None:
        for each in (*self.sentinels, *self.servers):
            each.kill()


@pytest.fixture
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    folder = Path(tempfile.mkdtemp(prefix="llm-"))
    server = Watched(folder, careful=getattr(request, "param", True))
    try:
        yield server.start()
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


# The address


def test_an_address_says_where_the_sentinels_are_and_what_to_tell_the_server() -> None:
    address = sentinel_address(
        "rediss+sentinel://me:p%40ss%2F@one,two:26380,[::1]:5000,[fe80::2]/papers/3"
        "?sentinel_username=guard&sentinel_password=s%26s&ssl_check_hostname=false&health_check_interval=9"
    )
    assert address is not None
    assert address.sentinels == (("one", 26379), ("two", 26380), ("::1", 5000), ("fe80::2", 26379))
    assert (address.service, address.secure, address.username, address.password) == ("papers", True, "guard", "s&s")
    assert parse_url(address.server) == {
        "connection_class": SSLConnection,
        "host": "sentinel",
        "username": "me",
        "password": "p@ss/",
        "db": 3,
        "ssl_check_hostname": False,
        "health_check_interval": 9,
    }
    assert "s&s" not in repr(address)
    assert "p%40ss" not in repr(address)
    by_option = sentinel_address("redis+sentinel://one/papers?db=2")
    assert by_option is not None
    assert parse_url(by_option.server)["db"] == 2
    for plain in ("redis://host:1/0", "rediss://host", "unix:///run/s?db=0"):
        assert sentinel_address(plain) is None


@pytest.mark.parametrize(
    ("rest", "cure"),
    [
        ("one:26379", "the name of the service"),
        ("one:26379/", "the name of the service"),
        ("/papers", "a host and a port"),
        ("one,,two/papers", "a host and a port"),
        ("one:0/papers", "a host and a port"),
        ("one:65536/papers", "a host and a port"),
        ("::1:26379/papers", "a host and a port"),
        ("one/papers/first", "a number as the database"),
        ("one/papers?db=first", "a number as the database"),
        ("one/papers?sentinel_pasword=hush", "sentinel_username and sentinel_password"),
        ("me:hush#@one/papers", "%23"),
    ],
)
def test_an_address_that_is_none_is_refused_with_its_cure(tmp_path: Path, rest: str, cure: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"queue": {"type": "redis", "redis_url": f"redis+sentinel://{rest}"}}))
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    (problem,) = caught.value.problems
    assert problem.key == "queue.redis_url"
    assert cure in str(problem)
    assert "hush" not in str(problem)


def test_no_password_of_an_address_is_shown() -> None:
    url = "redis+sentinel://me:hush@one,two:26380/papers/0?sentinel_username=guard&sentinel_password=quiet"
    shown = str(masked(convert({"queue": {"type": "redis", "redis_url": url}}, Config)))
    assert "one,two:26380/papers/0" in shown
    assert "hush" not in shown
    assert "quiet" not in shown
    client = connect(url)
    assert "hush" not in repr(client)
    assert "quiet" not in repr(client)
    client.close()


# The client


def test_who_cannot_be_asked_is_passed_over_and_the_words_say_so(watched: Watched) -> None:
    watched.sentinels[0].freeze()
    client = connect(watched.url)
    began = time.monotonic()
    client.set("a", 1)
    assert time.monotonic() - began < 10, "a frozen sentinel is not waited for as long as a server is"
    assert client.connection_pool.master_address == ("127.0.0.1", watched.servers[0].port)
    health = read_health(Config(), client, SystemClock())
    assert (health.status, health.redis.reachable) == ("ok", True)
    client.close()

    strange = connect(watched.url.replace(f"/{SERVICE}/", "/letters/"))
    with pytest.raises(AWAY) as caught:
        strange.ping()
    assert "no master of 'letters'; of 3 sentinels" in explain(caught.value)
    assert "2 watch no service of that name" in explain(caught.value)
    strange.close()

    for sentinel in watched.sentinels:
        sentinel.kill()
    client = connect(watched.url)
    with pytest.raises(AWAY) as caught:
        client.ping()
    assert "Connection refused" in explain(caught.value)
    health = read_health(Config(), client, SystemClock())
    assert (health.status, health.redis.reachable) == ("degraded", False)
    client.close()


def test_the_sentinels_have_a_password_of_their_own(watched: Watched) -> None:
    for sentinel in watched.sentinels:
        admin = sentinel.client()
        admin.execute_command("ACL SETUSER guard on >quiet allcommands allchannels")
        admin.execute_command("ACL SETUSER default resetpass")
        admin.close()
    client = connect(f"{watched.url}?sentinel_username=guard&sentinel_password=quiet")
    assert client.ping()
    client.close()
    for wrong in ("", "?sentinel_username=guard&sentinel_password=loud"):
        client = connect(watched.url + wrong)
        with pytest.raises(AWAY) as caught:
            client.ping()
        assert "3 refuse sentinel_username or sentinel_password" in explain(caught.value)
        client.close()


def test_a_master_without_replicas_is_left_at_once(watched: Watched) -> None:
    """It may have been deposed without knowing. The sentinels know."""
    admin = watched.servers[0].client()
    client = connect(watched.url)
    before = client.client_id()
    admin.config_set("min-replicas-to-write", 3)
    with pytest.raises(LostConnection, match="NOREPLICAS"):
        client.set("a", 1)
    admin.config_set("min-replicas-to-write", 0)
    client.set("a", 1)
    assert client.client_id() != before, "the sentinels were asked again"
    client.close()
    admin.close()


# A fleet


class Stream:
    """Distinct documents, dropped steadily by a thread until stopped."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.dropped: dict[str, bytes] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drop)
        self._thread.start()

    def _drop(self) -> None:
        while not self._ended.wait(0.03):
            number = len(self.dropped)
            level = ("high", "medium", "low")[number % 3]
            content = b'{"metadata": {"priority": "%s"}, "n": %d}' % (level.encode(), number)
            self.dropped[f"{number}.json"] = content
            self.fleet.drop(f"{number}.json", content)

    def stop(self) -> dict[str, bytes]:
        self._ended.set()
        self._thread.join()
        return self.dropped


@pytest.fixture
def watched_fleet(tmp_path: Path, watched: Watched) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path / "spool", watched)
    yield fleet
    for process in fleet.running.values():
        process.kill()
        process.wait()


def works_again(fleet: Fleet, deposed: Program, since: float) -> float:
    """Wait until the sentinels name another master and documents are finished after that; how long it took."""
    watched = fleet.server
    assert isinstance(watched, Watched)
    wait_until(lambda: watched.master() is not deposed, "a new master")
    before = fleet.finished()
    wait_until(lambda: fleet.finished() > before + 5, "the fleet to work with it")
    return time.monotonic() - since


@pytest.mark.slow
@pytest.mark.parametrize(
    "watched",
    [
        pytest.param(True, id="careful"),
        # Here a deposed master takes writes, and loses them, for as long as it doesn't know that it is one.
        pytest.param(False, id="careless", marks=pytest.mark.skipif(not LONG, reason="make test-long")),
    ],
    indirect=True,
)
def test_a_fleet_lives_through_failovers(watched: Watched, watched_fleet: Fleet) -> None:
    fleet = watched_fleet.start()
    pids = {name: process.pid for name, process in fleet.running.items()}
    stream = Stream(fleet)
    try:
        wait_until(lambda: fleet.finished() > 20, "the fleet to work")
        first = watched.master()
        began = time.monotonic()
        first.kill()
        print(f"killed: works again after {works_again(fleet, first, began):.1f} s")
        first.start()
        began = time.monotonic()
        wait_until(first.is_replica, "the old master to be a replica")
        print(f"started again: a replica after {time.monotonic() - began:.1f} s")
        second = watched.master()
        began = time.monotonic()
        second.freeze()
        wait_until(lambda: watched.master() is not second, "another master")
        second.thaw()  # which believes that it is the master still
        print(f"frozen: works again after {works_again(fleet, second, began):.1f} s")
    finally:
        dropped = stream.stop()
    began = time.monotonic()
    fleet.wait_finished(len(dropped))
    print(f"{len(dropped)} documents; all finished after {time.monotonic() - began:.1f} s more")
    account(fleet, dropped)
    assert {name: process.pid for name, process in fleet.running.items() if process.poll() is None} == pids


# What a replica that lagged behind did not get, once it is the master


class Moment:
    """All that Redis knew at a moment, to be put back: what a failover to a replica that lagged does."""

    _ALL = """
    local all = {}
    for _, key in ipairs(redis.call('KEYS', '*')) do
      all[#all + 1] = {key, redis.call('PTTL', key), redis.call('DUMP', key)}
    end
    return all
    """

    def __init__(self, redis: Redis) -> None:
        self._keys = redis.eval(self._ALL, 0)

    def put_back(self, redis: Redis) -> None:
        with redis.pipeline() as pipeline:
            pipeline.flushall()
            for key, left, value in self._keys:
                pipeline.restore(key, max(0, left), value)
            pipeline.execute()


class HandClock:
    at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def claimed(fleet: Fleet, redis: Redis) -> dict[str, bytes]:
    """Six documents that ingest has claimed and submitted, and nobody works on."""
    return _claimed(fleet, redis, "real_time")


def _claimed(fleet: Fleet, redis: Redis, mode: str) -> dict[str, bytes]:
    dropped = {f"{number}.json": b'{"metadata": {"priority": "medium"}, "n": %d}' % number for number in range(6)}
    for name, content in dropped.items():
        fleet.drop(name, content)
    fleet.configure(processing={"mode": mode, "batch_timeout": 3600}).start("ingest")
    wait_until(lambda: fleet.ledger_total("batched", "queued") == len(dropped), "six submitted")
    fleet.kill("ingest")
    return dropped


LOG = logging.getLogger("test")


def reconcile(fleet: Fleet, redis: Redis, clock: HandClock) -> Recovery:
    config = fleet.config()
    claims = Claims(config.directories.temp_directory)
    submitter = Submitter(config, redis, clock)
    splitter = Splitter(Folders.of(config.directories), claims)
    runtime = Runtime(config, redis, clock, Stop(), LOG)
    return Recovery(runtime, claims, Router(config), submitter, splitter)


def forget(redis: Redis, *patterns: str) -> None:
    for pattern in patterns:
        redis.delete(*(redis.keys(pattern) or ["-"]))


def test_a_submission_that_was_lost_is_made_again_at_once(
    fleet: Fleet, redis: Redis, claimed: dict[str, bytes]
) -> None:
    forget(redis, KEYS.record("*"), KEYS.status_set("*", "*"), KEYS.job("*"), KEYS.queue("*"))
    looks = reconcile(fleet, redis, HandClock())
    assert looks.run() == len(claimed)
    assert looks.run() == 0
    fleet.start()
    fleet.wait_finished(len(claimed))
    account(fleet, claimed)


@pytest.mark.slow
def test_jobs_that_were_lost_are_made_again_after_a_grace(
    fleet: Fleet, redis: Redis, claimed: dict[str, bytes]
) -> None:
    forget(redis, KEYS.job("*"), KEYS.queue("*"))
    clock = HandClock()
    looks = reconcile(fleet, redis, clock)
    assert looks.run() == 0, "the outcomes may be on their way"
    clock.at += 30
    assert looks.run() == len(claimed)
    fleet.start()
    fleet.wait_finished(len(claimed))
    account(fleet, claimed)


@pytest.mark.parametrize("lost", [6, 2])
def test_members_of_a_batch_that_were_lost_are_submitted_again(fleet: Fleet, redis: Redis, lost: int) -> None:
    dropped = _claimed(fleet, redis, "batch")
    assert len(redis.lpop(KEYS.batch("medium"), lost) or ()) == lost
    clock = HandClock()
    looks = reconcile(fleet, redis, clock)
    assert looks.run() == 0
    clock.at += 30
    assert looks.run() == lost
    assert redis.llen(KEYS.batch("medium")) == len(dropped)


@pytest.mark.slow
def test_a_job_whose_end_was_lost_is_run_again_although_its_worker_lives(fleet: Fleet, redis: Redis) -> None:
    (fleet.folder / "slow.py").write_text("import time\ndef handle(document, context):\n    time.sleep(1)\n")
    fleet.configure(handlers={"default": "slow:handle"})
    fleet.start("ingest", "scheduler", "high")
    dropped = {"a.json": b'{"metadata": {"priority": "high"}}'}
    fleet.drop("a.json", dropped["a.json"])
    wait_until(lambda: fleet.ledger_total("started") == 1, "the job to be begun")
    before_its_end = Moment(redis)
    wait_until(lambda: redis.keys(KEYS.outcomes("*")), "the worker to tell of its end")
    before_its_end.put_back(redis)
    fleet.start("collector")
    fleet.wait_finished(1, deadline=15)
    account(fleet, dropped)
    assert fleet.results()[0]["attempts"] == 2
