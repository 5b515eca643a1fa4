"""Following what happens, over real HTTP and a real server: every event once and in order, whatever goes away
meanwhile; and waiting for one job."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import uvicorn
from conftest import KEYS, Server, listen, mostly_slow, wait_until
from redis import Redis
from redis.exceptions import RedisError
from test_api import PROBLEM, SOME_ID, Process, ToldClock, configuration
from test_sentinel import Watched, watched  # noqa: F401 - a fixture

from llm_scheduler.api.access.key_file import create_key, revoke_key
from llm_scheduler.api.access.roles import Role
from llm_scheduler.api.app import make_app
from llm_scheduler.api.endpoints import job_wait
from llm_scheduler.api.events import streams
from llm_scheduler.api.events.async_redis import async_client
from llm_scheduler.api.events.followers import Bounds, Follower, Followers
from llm_scheduler.api.events.streams import Page, StreamPosition, Streams
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.document import FINAL, Status, new_id
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.store import alerts, ledger
from llm_scheduler.jobs.store.alerts import Event

SOON = 15.0
QUICK = Bounds(block=0.2)


def add_event(redis: Redis, event: Event) -> None:
    """Add an event that belongs to no alert."""
    redis.xadd(KEYS.events, {alerts.FIELD: alerts.encode(event)}, maxlen=alerts.MAX_EVENTS, approximate=True)


def reaches(position: StreamPosition, other: StreamPosition) -> bool:
    """Whether `position` is behind `other` in neither stream."""
    return position.transitions >= other.transitions and position.events >= other.events


class Got(NamedTuple):
    """One block of a stream, as a client takes it apart."""

    kind: str
    id: str
    content: Any


class Listener:
    """A client that follows, in a thread. What it gets is in `got`, comments in `comments`."""

    def __init__(self, port: int, query: str = "", last: str = "", headers: str = "", room: int = 0) -> None:
        self.got: list[Got] = []
        self.last = last
        self.comments: list[str] = []
        self.closed = False
        self.socket = socket.socket()
        if room:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", port))
        head = f"Last-Event-ID: {last}\r\n" if last else ""
        self.socket.sendall(f"GET /events{query} HTTP/1.0\r\nHost: localhost\r\n{head}{headers}\r\n".encode())
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        while self._file.readline().strip():
            pass
        self._thread = threading.Thread(target=self._listen)

    def start(self) -> "Listener":
        self._thread.start()
        return self

    def _listen(self) -> None:
        fields: dict[str, str] = {}
        with suppress(OSError, ValueError):
            for raw in self._file:
                line = raw.decode().rstrip("\n")
                name, _, value = line.partition(":")
                if not line:
                    self._took(fields)
                    fields = {}
                elif name:
                    fields[name] = value.removeprefix(" ")
                else:
                    self.comments.append(value.strip())
        self.closed = True

    def _took(self, fields: dict[str, str]) -> None:
        self.last = fields.get("id", self.last)
        if "data" in fields:
            self.got.append(Got(fields["event"], fields.get("id", ""), json.loads(fields["data"])))

    def of(self, *kinds: str) -> list[Any]:
        return [got.content for got in list(self.got) if got.kind in kinds]

    def numbers(self) -> list[int]:
        """The numbers of what `Writer` wrote."""
        return [int(each.get("message") or each["ids"][0][-6:]) for each in self.of("transition", "event")]

    def until(self, condition: Callable[["Listener"], Any], what: str) -> "Listener":
        wait_until(lambda: condition(self), f"{what}; there were {self.got[-5:]} {self.comments}", SOON, every=0.005)
        return self

    def until_end(self) -> "Listener":
        return self.until(lambda self: self.closed, "the end of the stream")

    def stop(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        if self._thread.ident:
            self._thread.join()
        self._file.close()
        self.socket.close()


class QuickServer(uvicorn.Server):
    """Looks more often whether it is to stop."""

    async def main_loop(self) -> None:
        self.loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            await asyncio.sleep(0.005)


class Served:
    """The API in a thread, with everybody who listens to it."""

    def __init__(self, folder: Path, url: str, bounds: Bounds, **parts: Any) -> None:
        self.clock = ToldClock()
        self.redis = connect(url)
        self.config = configuration(folder, url, **parts)
        app = make_app(self.config, self.redis, self.clock)
        self.followers = app.state.followers = Followers(app.state.api_context.redis, bounds)
        listener = listen()
        # asyncio does so for sockets that say they are TCP's, which this one doesn't; each answer takes 40 ms without.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = listener.getsockname()[1]
        self.server = QuickServer(uvicorn.Config(app, log_config=None, access_log=False))
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.thread.start()
        wait_until(lambda: self.server.started, "a server that listens")
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=70)
        self.listeners: list[Listener] = []

    def listen(self, query: str = "", last: str = "", **more: Any) -> Listener:
        self.listeners.append(Listener(self.port, query, last, **more))
        return self.listeners[-1].start()

    def all(self, query: str = "", last: str = "0-0.0-0") -> Listener:
        """What is there now, from the beginning on."""
        return self.listen(f"?seconds=0{'&' if query else ''}{query}", last).until_end()

    def stop(self) -> None:
        for each in self.listeners:
            each.stop()
        self.http.close()
        self.server.should_exit = True
        self.thread.join()
        self.redis.close()


@pytest.fixture
def serve(tmp_path: Path, redis_server: Server) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def make(bounds: Bounds = QUICK, url: str = redis_server.url, **parts: Any) -> Served:
        made.append(Served(tmp_path / f"spool{len(made)}", url, bounds, **parts))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()


class Writer:
    """Writes numbered transitions and events, in turns; those of one turn in a later millisecond than those before,
    since within one nothing tells which stream was written first."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.count = 0
        self._stream = ""

    def _turn_to(self, stream: str) -> None:
        if stream != self._stream:
            self._stream = stream
            turn(self.redis)

    def write(self, count: int = 1, status: Status = Status.QUEUED, weight: int = 0) -> None:
        for _ in range(count):
            number = self.count
            self.count += 1
            if weight or number % 5 < 3:
                self._turn_to(KEYS.transitions)
                ids = [f"01KZ8D5V6T3H9N2QWRXJ{number:06}", *["x" * 26] * (weight // 26)]
                fields: Any = {"s": status.value, "t": str(number), "i": msgspec.msgpack.encode(ids)}
                self.redis.xadd(KEYS.transitions, fields)
            else:
                self._turn_to(KEYS.events)
                add_event(self.redis, Event(kind="test", at=number / 1000, message=str(number)))


def turn(redis: Redis) -> None:
    """Let a millisecond of the server end."""

    def milliseconds() -> int:
        seconds, microseconds = redis.time()
        return seconds * 1000 + microseconds // 1000

    before = milliseconds()
    while milliseconds() == before:
        pass


@pytest.fixture
def writer(redis: Redis) -> Writer:
    return Writer(redis)


def known(redis: Redis, status: Status = Status.QUEUED) -> str:
    document_id = new_id(time.time())
    moved(redis, document_id, status)
    return document_id


def moved(redis: Redis, document_id: str, status: Status) -> None:
    fields: ledger.Fields = {"priority": "high", "queue": "high", "handler": "default", "source": "a.json"}
    ledger.move(redis, status, time.time(), [(document_id, fields)])


# What is told


def test_both_streams_are_told_in_order_and_as_they_are(served: Served, redis: Redis) -> None:
    listener = served.listen()
    first = known(redis)
    turn(redis)
    alerts.raise_alert(redis, "disk", Event(kind="alert raised", at=1.5, message="The disk is\nfull", details={"a": 1}))
    turn(redis)
    moved(redis, first, Status.DONE)
    redis.xadd(KEYS.transitions, {"what": "is this"})
    redis.xadd(KEYS.transitions, {"s": "done", "t": "9" * 400, "i": b"\x90"})
    turn(redis)
    redis.xadd(KEYS.events, {"e": "[1]"})
    add_event(redis, Event(kind="scaled", at=2.0, message="ω"))
    listener.until(lambda each: len(each.got) >= 4, "four things")
    queued, alert, done, scaled = listener.got
    assert [queued.kind, alert.kind, done.kind, scaled.kind] == ["transition", "event", "transition", "event"]
    assert (queued.content["status"], queued.content["ids"]) == ("queued", [first])
    assert (done.content["status"], done.content["ids"]) == ("done", [first])
    entry = ledger.get(redis, first)
    assert entry is not None
    assert done.content["at"] == rfc3339(entry.times["done"])
    assert alert.content == {
        "kind": "alert raised",
        "at": "1970-01-01T00:00:01.500Z",
        "message": "The disk is\nfull",
        "details": {"a": 1},
    }
    assert scaled.content["message"] == "ω"
    ids = [streams.parse(got.id) for got in listener.got]
    assert ids == sorted(ids)
    assert all(one != other and reaches(other, one) for one, other in pairwise(ids))


def test_documents_that_move_together_are_told_together(served: Served, redis: Redis) -> None:
    listener = served.listen()
    ids = [new_id(1e9 + number) for number in range(3)]
    ledger.move(redis, Status.QUEUED, 1.25, [(each, {"priority": "low"}) for each in ids])
    [content] = listener.until(lambda each: each.got, "a transition").of("transition")
    assert content == {"status": "queued", "at": "1970-01-01T00:00:01.250Z", "ids": ids}


def test_filters_choose_what_is_told(served: Served, redis: Redis) -> None:
    one, other = (new_id(1e9 + number) for number in range(2))
    ledger.move(redis, Status.QUEUED, 1.0, [(each, {"priority": "low"}) for each in (one, other)])
    ledger.move(redis, Status.DONE, 2.0, [(one, {})])
    ledger.move(redis, Status.REJECTED, 2.0, [(other, {})])
    turn(redis)
    add_event(redis, Event(kind="scaled", at=3.0, message="up"))

    def told(query: str) -> list[tuple[str, Any]]:
        return [(got.kind, got.content.get("status", got.content.get("kind"))) for got in served.all(query).got]

    queued, done, rejected = (("transition", status) for status in ("queued", "done", "rejected"))
    scaled = ("event", "scaled")
    assert told("") == [queued, done, rejected, scaled]
    assert told("kinds=transition") == [queued, done, rejected]
    assert told("kinds=event") == [scaled]
    assert told("status=rejected") == [rejected]
    assert told(f"job={one}") == [queued, done]
    assert told(f"job={one}&status=rejected") == []
    assert told(f"job={one}&kinds=event") == [scaled]
    assert [each["ids"] for each in served.all(f"job={one}").of("transition")] == [[one], [one]]
    filtered = served.all(f"job={SOME_ID}")
    assert filtered.last == served.all().got[-1].id, "what is filtered out is passed all the same"


def test_a_bad_place_is_refused(served: Served) -> None:
    for bad in ("1-1", "1-1.1", "x", "1-1.1-1.1-1", "-1-1.1-1", "1-1.1-" + "9" * 19, "1-1.1-٣"):
        answer = served.http.get("/events?seconds=0", headers={b"Last-Event-ID": bad.encode()})
        assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM), bad
        assert answer.json()["parameter"] == "Last-Event-ID"
        answer = served.http.get("/events", params={"seconds": 0, "last_event_id": bad})
        assert (answer.status_code, answer.json()["parameter"]) == (422, "last_event_id"), bad
    for query in ("seconds=-1", "seconds=3601", "kinds=gap", "job=1", "status=lost"):
        assert served.http.get(f"/events?{query}").status_code == 422, query


def test_the_query_names_a_place_and_the_header_a_newer_one(served: Served, writer: Writer) -> None:
    writer.write(4)
    all_there = served.all()
    asked = served.listen(f"?seconds=0&last_event_id={all_there.got[0].id}").until_end()
    assert asked.numbers() == [1, 2, 3]
    again = served.listen(f"?seconds=0&last_event_id={all_there.got[0].id}", all_there.got[2].id).until_end()
    assert again.numbers() == [3]


def test_head_is_answered_and_begins_nothing(served: Served) -> None:
    answer = served.http.head("/events")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert not len(served.followers)


def test_a_stream_is_kept_alive_and_says_where_it_is(serve: Callable[..., Served], writer: Writer) -> None:
    served = serve(Bounds(ping=0.1, block=0.2))
    listener = served.listen(f"?job={SOME_ID}").until(lambda each: each.last, "a first place")
    first = listener.last
    writer.write(3)
    end = served.all().last
    listener.until(lambda each: "ping" in each.comments and each.last == end, "a ping from a later place")
    assert listener.got == []
    assert first != listener.last == end


def test_who_is_not_known_any_more_is_let_go(serve: Callable[..., Served], tmp_path: Path) -> None:
    file = str(tmp_path / "keys.json")
    served = serve(Bounds(ping=0.05, block=0.2), security={"api_key_enabled": True, "api_keys_file": file})
    key = create_key(file, "ci", Role.READONLY, served.clock.now(), None).text
    assert served.listen().status == 401
    listener = served.listen(headers=f"X-API-Key: {key}\r\n")
    listener.until(lambda each: "ping" in each.comments, "a ping")
    revoke_key(file, "ci")
    served.clock.at += 2
    listener.until_end()
    assert "not good any more" in listener.comments[-1]


# Coming back


def test_nothing_is_lost_or_told_twice_by_whoever_comes_back(serve: Callable[..., Served], writer: Writer) -> None:
    """To another process of the API each time, with things happening all the while."""
    apis = [serve(), serve(Bounds(pause=0.0, block=0.2))]
    total = 900
    thread = threading.Thread(target=lambda: [(writer.write(3), time.sleep(0.002)) for _ in range(total // 3)])
    listener = apis[0].listen().until(lambda each: each.last, "a first place")
    thread.start()
    numbers: list[int] = []
    turns = 0
    while len(numbers) + len(listener.got) < total:
        wanted = min(30, total - len(numbers))
        listener.until(lambda each, wanted=wanted: len(each.got) >= wanted or each.closed, "some more")
        listener.stop()
        numbers += listener.numbers()
        turns += 1
        listener = apis[turns % 2].listen(last=listener.last)
    numbers += listener.numbers()
    thread.join()
    assert numbers == list(range(total)), f"{len(numbers)} numbers"
    assert turns > 3


def test_a_place_is_given_before_anything_happens(served: Served, writer: Writer) -> None:
    listener = served.listen().until(lambda each: each.last, "a place")
    assert listener.last == "0-0.0-0"
    listener.stop()
    writer.write(7)
    again = served.listen(last=listener.last).until(lambda each: len(each.got) >= 7, "all of it")
    assert again.numbers() == list(range(7))
    writer.write(1)
    again.until(lambda each: len(each.got) >= 8, "and what comes then")
    assert again.numbers() == list(range(8))


def test_more_than_one_page_is_read_in_the_order_of_time(
    served: Served, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PAGE_ENTRIES", 5)
    writer.write(150)
    assert served.all().numbers() == list(range(150))


def test_where_the_streams_do_not_reach_back_a_gap_is_told_first(served: Served, redis: Redis, writer: Writer) -> None:
    writer.write(10)
    places = {got.id: got for got in served.all().got}
    old = next(iter(places))
    redis.xtrim(KEYS.transitions, maxlen=2, approximate=False)
    found = served.all(last=old)
    [gap] = found.of("gap")
    assert found.got[0].kind == "gap"
    assert gap["kinds"] == ["transition"]
    assert "GET /jobs" in gap["message"]
    assert found.numbers() == [3, 4, 6, 7, 8, 9], "the last two transitions, and all events"
    assert [got.kind for got in served.all("kinds=event", old).got] == ["event"] * 4
    assert served.all(last=found.last).got == []
    assert served.all(last=found.got[3].id).of("gap") == []
    assert served.all(last="0-0.0-0").got[0].kind == "gap"
    # A place that somebody made up: nobody knows what was before it.
    made_up = f"5-0.{found.last.partition('.')[2]}"
    assert [got.kind for got in served.all(last=made_up).got] == ["gap", "transition", "transition"]
    redis.xtrim(KEYS.transitions, maxlen=0, approximate=False)
    assert served.all(last=found.last).got == [], "the end is known, with nothing in front of it"
    [gap] = served.all(last=old).of("gap")
    writer.write(1)
    found = served.all(last=old)
    assert found.of("gap") == [gap]
    assert found.numbers() == [3, 4, 8, 9, 10]


@pytest.mark.parametrize("emptied", [False, True])
def test_what_happens_while_one_is_coming_back_is_told_once(
    served: Served, redis: Redis, writer: Writer, monkeypatch: pytest.MonkeyPatch, emptied: bool
) -> None:
    """Between the moment at which all was read from Redis and the one from which it hears what the others do."""
    writer.write(6)
    old = served.all().got[1].id
    others = served.listen().until(lambda each: each.last, "a place")
    read_page = Streams.read
    pages: list[Page] = []

    async def read(self: Streams, since: StreamPosition, seconds: float = 0.0) -> Page:
        page = await read_page(self, since, seconds)
        if since == streams.parse(old) and not pages:
            pages.append(page)
            if emptied:
                redis.flushall()
            writer.write(2)
        return page

    monkeypatch.setattr(Streams, "read", read)
    again = served.listen(last=old).until(lambda each: len(each.numbers()) >= 6, "all of it")
    assert again.numbers() == [2, 3, 4, 5, 6, 7]
    others.until(lambda each: len(each.numbers()) >= 2, "what happens meanwhile")
    assert len(again.of("gap")) == len(others.of("gap")) == (2 if emptied else 0)


def test_what_comes_while_a_gap_is_found_belongs_to_it(
    served: Served, redis: Redis, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.write(2)
    old = served.all().got[0].id
    redis.xtrim(KEYS.transitions, maxlen=0, approximate=False)
    infos = Streams.infos
    found: list[Any] = []

    async def late(self: Streams) -> Any:
        found.append(await infos(self))
        if len(found) == 1:
            writer.write(1)
        return found[-1]

    monkeypatch.setattr(Streams, "infos", late)
    assert [got.kind for got in served.all(last=old).got] == ["gap", "transition"]


def test_what_happened_before_somebody_came_is_not_told(served: Served, writer: Writer) -> None:
    writer.write(5)
    listener = served.listen().until(lambda each: each.last, "a place")
    writer.write(2)
    listener.until(lambda each: len(each.got) >= 2, "what is new")
    assert listener.numbers() == [5, 6]


# What goes wrong


def test_a_client_that_does_not_read_delays_nobody_and_misses_nothing(
    serve: Callable[..., Served], writer: Writer
) -> None:
    served = serve(Bounds(pause=0.0, block=0.2))
    slow = Listener(served.port, room=4096)  # its thread isn't started: it reads nothing but the head
    served.listeners.append(slow)
    quick = served.listen().until(lambda each: each.last, "a place")
    count = 800
    for sent in range(1, count + 1):
        writer.write(weight=20_000)
        if sent % 10 == 0:
            quick.until(lambda each, sent=sent: len(each.got) >= sent, "all of it, in time")
    slow.start().until(lambda each: len(each.got) >= count, "all of it, in its own time")
    assert slow.numbers() == quick.numbers() == list(range(count))
    assert not slow.of("gap", "lagging")


def test_a_client_so_slow_that_the_stream_was_trimmed_gets_a_gap_and_what_there_still_is(
    served: Served, redis: Redis, writer: Writer
) -> None:
    slow = Listener(served.port, room=4096)
    served.listeners.append(slow)
    wait_until(lambda: len(served.followers), "one who follows", SOON)
    count = 900
    for _ in range(count):
        writer.write(weight=20_000)
    redis.xtrim(KEYS.transitions, maxlen=5, approximate=False)
    slow.start().until(
        lambda each: each.of("gap") and len(each.numbers()) and each.numbers()[-1] == count - 1, "the end"
    )
    [place] = [number for number, got in enumerate(slow.got) if got.kind == "gap"]
    numbers = slow.numbers()
    assert numbers[:place] == list(range(place)), "all up to the gap"
    assert 0 < place < count - 5
    assert numbers[place:] == list(range(count - 5, count)), "and all behind it"


def test_nothing_is_read_for_a_client_that_does_not_take_it(
    serve: Callable[..., Served], redis: Redis, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PAGE_ENTRIES", 10)
    served = serve(Bounds(pause=0.0, block=0.2))
    slow = Listener(served.port, room=4096)
    served.listeners.append(slow)
    wait_until(lambda: len(served.followers), "one who follows", SOON)
    writer.write(600, weight=20_000)

    def reads() -> int:
        return int(redis.info("commandstats").get("cmdstat_xread", {}).get("calls", 0))

    def is_quiet() -> bool:
        before = reads()
        time.sleep(0.5)
        return reads() == before

    wait_until(is_quiet, "the end of the reads", SOON)
    assert reads() < 59, "the rest stays in Redis"
    slow.start().until(lambda each: len(each.got) >= 600, "all of it")
    assert slow.numbers() == list(range(600))


def test_a_client_that_takes_nothing_is_given_up(serve: Callable[..., Served], writer: Writer) -> None:
    served = serve(Bounds(send=0.2, block=0.2))
    dead = Listener(served.port, room=4096)
    served.listeners.append(dead)
    wait_until(lambda: len(served.followers), "one who follows", SOON)

    def is_given_up() -> bool:
        writer.write(20, weight=20_000)
        return not len(served.followers)

    wait_until(is_given_up, "the end of the one who follows", SOON)


def test_more_followers_than_there_is_room_for_are_sent_away_in_words(
    serve: Callable[..., Served], redis: Redis
) -> None:
    served = serve(Bounds(followers=2, block=0.2))
    first, second = (served.listen().until(lambda each: each.last, "a place") for _ in range(2))
    job = known(redis)
    for path in ("/events", f"/jobs/{job}/wait"):
        answer = served.http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM), path
        assert "2 clients follow" in answer.json()["detail"]
        assert int(answer.headers["Retry-After"]) >= 1
    first.stop()
    wait_until(lambda: len(served.followers) == 1, "room", SOON)
    third = served.listen()
    assert third.status == 200
    assert second.closed is False


def test_redis_goes_away_and_comes_back_and_nothing_is_skipped(
    served: Served, redis_server: Server, redis: Redis, writer: Writer
) -> None:
    writer.write(3)
    early = served.listen().until(lambda each: each.last, "a place")
    back = served.all()
    writer.write(1)
    early.until(lambda each: each.numbers() == [3], "what happens before")
    redis_server.stop()
    early.until(lambda each: each.of("redis"), "word of the outage")
    assert early.of("redis")[0]["reachable"] is False
    assert "Redis is unreachable" in early.of("redis")[0]["message"]
    late = served.listen().until(lambda each: each.of("redis"), "word of the outage for one who comes now")
    late_again = served.listen(last=back.last).until(lambda each: each.of("redis"), "and for one who comes back")
    assert late.status == late_again.status == 200
    assert served.all(last=back.last).of("redis", "transition")[0]["reachable"] is False, "and stays for no time at all"
    redis_server.start()
    writer.write(4)  # most likely before the reader is back
    early.until(lambda each: each.numbers() == [3, 4, 5, 6, 7], "everything")
    late.until(lambda each: each.numbers() == [4, 5, 6, 7], "everything from then on")
    late_again.until(lambda each: each.numbers() == [3, 4, 5, 6, 7], "everything since then")
    for each in (early, late, late_again):
        assert [word["reachable"] for word in each.of("redis")] == [False, True]
        assert each.of("gap") == []
    after = served.listen(last=back.last).until(lambda each: len(each.got) >= 5, "the same, later")
    assert after.of("redis") == [], "what is over is not told again"


def test_one_who_comes_while_redis_is_away_hears_from_its_return_on(
    serve: Callable[..., Served], redis_server: Server, writer: Writer
) -> None:
    redis_server.stop()
    served = serve()
    listener = served.listen().until(lambda each: each.of("redis"), "word of the outage")
    assert listener.last == ""
    redis_server.start()
    listener.until(lambda each: len(each.of("redis")) == 2, "word of the return")
    writer.write(2)
    listener.until(lambda each: len(each.got) >= 4, "what happens then")
    assert listener.numbers() == [0, 1]
    assert listener.last == served.all().last


@pytest.mark.parametrize("number", ["*", "5-0"])
def test_an_emptied_redis_is_a_gap(served: Served, redis: Redis, writer: Writer, number: str) -> None:
    """Even if its ids begin anew at lower numbers."""
    writer.write(5)
    old = served.all().last
    listener = served.listen().until(lambda each: each.last, "a place")
    redis.flushall()
    listener.until(lambda each: len(each.of("gap")) == 2, "a gap in both streams")
    assert served.all(last=old).of("gap") == listener.of("gap")
    fields: Any = {"s": "done", "t": "1", "i": msgspec.msgpack.encode([SOME_ID])}
    redis.xadd(KEYS.transitions, fields, id=number)
    listener.until(lambda each: each.of("transition"), "what happens then")
    assert listener.of("transition")[0]["ids"] == [SOME_ID]
    assert len(listener.got) == 3
    assert served.all(last=listener.last).got == []


def test_a_redis_emptied_and_filled_between_two_looks_is_a_gap(served: Served, redis: Redis, writer: Writer) -> None:
    writer.write(5)
    listener = served.listen().until(lambda each: each.last, "a place")
    with redis.pipeline() as pipeline:
        pipeline.flushall()
        pipeline.xadd(KEYS.transitions, {"s": "done", "t": "1", "i": msgspec.msgpack.encode([SOME_ID])})
        pipeline.execute()
    listener.until(lambda each: len(each.got) >= 3, "two gaps and a transition")
    assert [got.kind for got in listener.got] == ["gap", "gap", "transition"]


def test_two_hundred_at_once_are_all_told_everything(served: Served, writer: Writer) -> None:
    clients, count = 200, 60

    async def follow(ready: asyncio.Semaphore) -> list[int]:
        reader, out = await asyncio.open_connection("127.0.0.1", served.port)
        out.write(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b": following\n\n")
        ready.release()
        numbers: list[int] = []
        while len(numbers) < count:
            line = await reader.readline()
            if line.startswith(b"data: "):
                content = json.loads(line[6:])
                numbers.append(int(content.get("message") or content["ids"][0][-6:]))
        out.close()
        return numbers

    async def everybody() -> list[list[int]]:
        ready = asyncio.Semaphore(0)
        tasks = [asyncio.create_task(follow(ready)) for _ in range(clients)]
        for _ in range(clients):
            await ready.acquire()
        assert threading.active_count() < 80, "a follower holds no thread"
        for _ in range(count // 10):
            await asyncio.to_thread(writer.write, 10)
            began = time.monotonic()
            assert (await asyncio.to_thread(served.http.get, "/health")).status_code == 200
            assert time.monotonic() - began < 2
        async with asyncio.timeout(SOON):
            return await asyncio.gather(*tasks)

    assert asyncio.run(everybody()) == [list(range(count))] * clients


def test_nothing_is_left_in_redis_when_the_last_one_leaves(served: Served, redis: Redis, writer: Writer) -> None:
    def reading() -> int:
        return int(redis.info("clients")["blocked_clients"])

    connections = len(redis.client_list())
    first, second = served.listen(), served.listen()
    wait_until(lambda: reading() == 2, "a read for each", SOON)
    first.stop()
    wait_until(lambda: reading() == 1, "the end of the first read", SOON)
    writer.write(1)
    second.until(lambda each: each.got, "what happens while there is one")
    second.stop()
    wait_until(lambda: len(redis.client_list()) <= connections, "the end of their connections", SOON)
    third = served.listen().until(lambda each: each.last, "a place")
    writer.write(1)
    third.until(lambda each: each.numbers() == [1], "what happens then")


def test_a_read_that_waits_for_redis_holds_nobody_up(serve: Callable[..., Served], redis: Redis) -> None:
    served = serve(Bounds(block=1.5))
    listener = served.listen().until(lambda each: each.last, "a place")
    wait_until(lambda: redis.info("clients")["blocked_clients"], "a read that waits", SOON)
    began = time.monotonic()
    served.server.loop.call_soon_threadsafe(served.followers.stop)
    listener.until_end()
    served.stop()
    assert time.monotonic() - began < 1
    assert listener.comments[-1] == "the server is stopping"


@pytest.mark.parametrize("workers", mostly_slow([2, 1]))
def test_streams_and_waits_end_when_the_server_is_told_to_stop(
    tmp_path: Path, redis_server: Server, redis: Redis, workers: int
) -> None:
    job = known(redis)
    running = Process(tmp_path / "spool", redis_server.url, api={"workers": workers})
    waits: list[httpx.Response] = []
    listeners: list[Listener] = []
    try:
        running.until_health(lambda health: health["status"] == "ok", "a healthy API")
        listeners += [Listener(running.port).start() for _ in range(8)]
        listeners.append(Listener(running.port, "?seconds=3000").start())
        url = f"http://127.0.0.1:{running.port}/jobs/{job}/wait?timeout=60"
        thread = threading.Thread(target=lambda: waits.append(httpx.get(url, timeout=70)))
        for each in listeners:
            each.until(lambda each: each.last, "a place")
        with redis.monitor() as monitor:
            thread.start()
            # One look before it follows, one after.
            looks = (each for each in monitor.listen() if each["command"] == f"GET {KEYS.record(job)}")
            assert len(list(islice(looks, 2))) == 2
        began = time.monotonic()
        assert running.stop() == 0
        seconds = time.monotonic() - began
        for each in listeners:
            each.until_end()
            assert each.comments[-1] == "the server is stopping"
        thread.join()
        assert (waits[0].status_code, waits[0].json()["status"]) == (200, "queued")
        log = running.log.read_text()
        assert "Traceback" not in log
        assert "rror" not in log
        assert seconds < 2.5, "less than the grace, which is for those that don't end"
    finally:
        running.process.kill()
        running.process.wait()
        for each in listeners:
            each.stop()


# Waiting for one job


def wait_for(served: Served, job: str, timeout: float) -> tuple[int, Any, float]:
    began = time.monotonic()
    answer = served.http.get(f"/jobs/{job}/wait?timeout={timeout}")
    return answer.status_code, answer.json(), time.monotonic() - began


def test_a_wait_ends_as_soon_as_the_job_is_final(served: Served, redis: Redis) -> None:
    for status in FINAL:
        job = known(redis)

        def run(job: str = job, status: Status = status) -> None:
            wait_until(lambda: len(served.followers), "one who waits", SOON)
            moved(redis, job, Status.STARTED)
            moved(redis, known(redis), status)
            moved(redis, job, status)

        thread = threading.Thread(target=run)
        thread.start()
        code, content, seconds = wait_for(served, job, 60)
        thread.join()
        assert (code, content["id"], content["status"]) == (200, job, status)
        assert content == served.http.get(f"/jobs/{job}").json()
        assert seconds < 5
        wait_until(lambda: not len(served.followers), "nobody who waits", SOON)


def test_a_job_that_is_final_just_before_it_is_followed_is_not_missed(
    served: Served, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = known(redis)
    follow = Followers.follow

    async def late(everybody: Followers) -> Follower:
        moved(redis, job, Status.DONE)
        return await follow(everybody)

    monkeypatch.setattr(Followers, "follow", late)
    code, content, seconds = wait_for(served, job, 60)
    assert (code, content["status"]) == (200, "done")
    assert seconds < 5


def test_a_job_that_is_final_is_not_waited_for(served: Served, redis: Redis) -> None:
    code, content, seconds = wait_for(served, known(redis, Status.REJECTED), 60)
    assert (code, content["status"]) == (200, "rejected")
    assert seconds < 5
    assert not len(served.followers)


def test_at_the_end_of_the_time_the_job_is_told_as_it_is(served: Served, redis: Redis) -> None:
    job = known(redis)
    code, content, seconds = wait_for(served, job, 0.5)
    assert (code, content["status"]) == (200, "queued")
    assert 0.5 <= seconds < 5
    assert wait_for(served, job, 0)[:2] == (200, content)
    assert not len(served.followers)


def test_what_is_unknown_or_too_long_is_refused(served: Served) -> None:
    code, content, seconds = wait_for(served, SOME_ID, 60)
    assert (code, content["status"]) == (404, 404)
    assert seconds < 5
    assert served.http.get("/jobs/x/wait").status_code == 404
    for timeout in ("60.5", "-1", "x", "inf"):
        assert served.http.get(f"/jobs/{SOME_ID}/wait?timeout={timeout}").status_code == 422, timeout


def test_a_client_that_leaves_waits_no_more(served: Served, redis: Redis) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(f"GET /jobs/{known(redis)}/wait HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until(lambda: len(served.followers), "one who waits", SOON)
    wait_until(lambda: not len(served.followers), "nobody who waits", SOON)


def test_two_hundred_wait_at_once_and_hold_no_threads(served: Served, redis: Redis) -> None:
    jobs = [known(redis) for _ in range(200)]

    async def wait(job: str) -> str:
        reader, out = await asyncio.open_connection("127.0.0.1", served.port)
        out.write(f"GET /jobs/{job}/wait?timeout=60 HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        content = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
        out.close()
        return f"{content['id']} {content['status']}"

    async def everybody() -> list[str]:
        tasks = [asyncio.create_task(wait(job)) for job in jobs]
        async with asyncio.timeout(SOON):
            while len(served.followers) < len(jobs):
                await asyncio.sleep(0.01)
            # Those of the pool, of which each look at the ledger takes one for a moment.
            assert threading.active_count() < 80
            assert (await asyncio.to_thread(served.http.get, "/health")).status_code == 200
            for job in jobs:
                await asyncio.to_thread(moved, redis, job, Status.DONE)
            return await asyncio.gather(*tasks)

    assert asyncio.run(everybody()) == [f"{job} done" for job in jobs]


def test_a_wait_outlives_an_outage(
    served: Served, redis_server: Server, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_wait, "POLL_SECONDS", 0.2)
    job = known(redis)

    def run() -> None:
        wait_until(lambda: len(served.followers), "one who waits", SOON)
        redis_server.stop()
        served.listen().until(lambda each: each.of("redis"), "an outage that was noticed")
        redis_server.start()
        moved(redis, job, Status.DONE)

    thread = threading.Thread(target=run)
    thread.start()
    code, content, seconds = wait_for(served, job, 60)
    thread.join()
    assert (code, content["status"]) == (200, "done")
    assert seconds < 10


def test_without_redis_a_wait_is_answered_as_everything_is(served: Served, redis_server: Server, redis: Redis) -> None:
    job = known(redis)

    def stop() -> None:
        wait_until(lambda: len(served.followers), "one who waits", SOON)
        redis_server.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    code, content, seconds = wait_for(served, job, 1)
    thread.join()
    assert (code, "Redis is unreachable" in content["detail"]) == (503, True)
    assert 1 <= seconds < 6, "it may come back in time"
    code, _, seconds = wait_for(served, job, 60)
    assert code == 503
    assert seconds < 6, "whoever comes then is told at once"


def test_while_transitions_cannot_be_followed_the_ledger_is_asked(
    served: Served, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_wait, "POLL_SECONDS", 0.2)
    redis.set(KEYS.events, "which is no stream")
    job = known(redis)

    def run() -> None:
        served.listen().until(lambda each: each.of("redis"), "trouble in following")
        moved(redis, job, Status.DONE)

    thread = threading.Thread(target=run)
    thread.start()
    code, content, seconds = wait_for(served, job, 60)
    thread.join()
    assert (code, content["status"]) == (200, "done")
    assert seconds < 8


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("unix:///nowhere/s?db=1", "UnixDomainSocketConnection"),
        ("redis://someone:secret@127.0.0.1:1/2", "Connection"),
        ("rediss://127.0.0.1:1?ssl_cert_reqs=none", "SSLConnection"),
        ("redis+sentinel://127.0.0.1:1/service/3", "_AsyncMasterConnection"),
        ("rediss+sentinel://127.0.0.1:1/service?ssl_cert_reqs=none", "_AsyncSecureMasterConnection"),
    ],
)
def test_a_follower_connects_as_the_rest_of_the_project_does(url: str, kind: str) -> None:
    redis = connect(url)
    pool: Any = async_client(redis, 1.5).connection_pool
    connection = pool.make_connection()
    assert type(connection).__name__ == kind
    assert connection.socket_timeout == 1.5
    settings = redis.connection_pool.connection_kwargs
    for name in {"db", "username", "password", "path"} & set(settings):
        assert getattr(connection, name) == settings[name]


def test_positions_are_what_their_text_says() -> None:
    position = streams.parse("1795581184000-0.1795581183000-12")
    assert str(position) == "1795581184000-0.1795581183000-12"
    assert re.fullmatch(streams.PATTERN, str(position))


@pytest.mark.slow
def test_a_follower_goes_on_at_the_next_master_behind_sentinel(
    watched: Watched,  # noqa: F811 - the fixture
    serve: Callable[..., Served],
    writer: Writer,
) -> None:
    served = serve(url=watched.url)
    listener = served.listen().until(lambda each: each.last, "a place")
    writer.redis = connect(watched.url)
    writer.write(2)
    listener.until(lambda each: each.numbers() == [0, 1], "what happens at the first master")
    wait_until(lambda: writer.redis.wait(2, 100) == 2, "both replicas to have it")
    watched.master().kill()
    wait_until(lambda: [each["reachable"] for each in listener.of("redis")] == [False, True], "the next master")

    def is_written() -> bool:
        with suppress(RedisError):
            writer.write(1, weight=26)
            return True
        return False

    wait_until(is_written, "a write at the next master")
    listener.until(lambda each: each.numbers()[-1:] == [writer.count - 1], "what happens there")
    writer.redis.close()
