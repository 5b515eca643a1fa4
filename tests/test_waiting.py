"""A wait in Redis that another thread ends: at once, whenever it comes, and after the connection has been another."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from conftest import Fleet, Server, wait_until
from redis import Redis
from redis.exceptions import ConnectionError as LostConnection

from llm_scheduler.jobs.process.blocking_wait import Wait
from llm_scheduler.jobs.process.termination import Stop

LONG = 30.0  # what would be waited if nobody ended it


class Waiting:
    """A thread that waits for something to be moved from `a` to `b`, again and again, until told to stop."""

    def __init__(self, redis: Redis) -> None:
        self.wait = Wait(redis)
        self.stop = Stop()
        self.taken: list[bytes | str] = []
        self._threads = [
            threading.Thread(target=self._take),
            threading.Thread(target=self.wait.end_on_stop, args=(self.stop,)),
        ]
        for thread in self._threads:
            thread.start()

    def _take(self) -> None:
        while not self.stop:
            with suppress(LostConnection), self.wait.begin() as redis:
                if self.stop:
                    return
                found = redis.blmove("a", "b", int(LONG))
                if found:
                    self.taken.append(found)

    def ended_in(self) -> float:
        """Ask it to stop; how many seconds it took."""
        began = time.monotonic()
        self.stop.set()
        self._threads[0].join(LONG)
        self.wait.close()
        self._threads[1].join(LONG)
        return time.monotonic() - began


@pytest.fixture
def waiting(redis: Redis) -> Iterator[Waiting]:
    made = Waiting(redis)
    yield made
    made.ended_in()


def blocked(redis: Redis) -> bool:
    return bool(redis.info("clients")["blocked_clients"])


def test_it_ends_at_once(waiting: Waiting, redis: Redis) -> None:
    wait_until(lambda: blocked(redis), "a wait")
    assert waiting.ended_in() < LONG / 3


def test_it_ends_whenever_it_is_asked(redis: Redis) -> None:
    """Also before the wait has begun, and with something to be had at that moment."""
    for number in range(40):
        each = Waiting(redis)
        time.sleep(number * 0.0002)
        redis.rpush("a", "x")
        assert each.ended_in() < LONG / 3
        assert len(each.taken) == redis.llen("b"), "nothing is taken without being told"
        redis.delete("a", "b")


def test_a_wait_that_begins_after_it_was_asked_to_end_ends_too(redis: Redis) -> None:
    """Who waits has looked at the request just before it came."""
    stop, wait = Stop(), Wait(redis)
    ender = threading.Thread(target=wait.end_on_stop, args=(stop,))
    ender.start()
    with wait.begin() as client:
        stop.set()
        time.sleep(0.3)
        began = time.monotonic()
        assert client.blmove("a", "b", 15) is None
    assert time.monotonic() - began < LONG / 3
    wait.close()
    ender.join()


def test_it_ends_on_a_connection_that_was_made_anew(waiting: Waiting, redis: Redis, redis_server: Server) -> None:
    wait_until(lambda: blocked(redis), "a wait")
    redis.client_kill_filter(_type="normal", skipme=True)
    redis.rpush("a", "x")
    wait_until(lambda: waiting.taken == [b"x"], "the next wait")
    wait_until(lambda: blocked(redis), "and one more")
    assert waiting.ended_in() < LONG / 3


def test_no_more_than_a_moment_is_waited_for_when_nobody_asks(redis: Redis) -> None:
    wait = Wait(redis)
    wait.end()  # nothing goes on
    with wait.begin() as client:
        assert client.blmove("a", "b", 1) is None
    wait.close()


@pytest.mark.slow
def test_an_idle_fleet_asks_redis_seldom_and_stops_soon(fleet: Fleet, redis: Redis) -> None:
    fleet.configure(processing={"scan_interval": 5})
    fleet.start()
    wait_until(fleet.all_ready, "everybody at work")
    time.sleep(1)  # what is done once, at the start
    before = redis.info("commandstats")
    time.sleep(4)
    after = redis.info("commandstats")
    asked = {name: each["calls"] - before.get(name, {"calls": 0})["calls"] for name, each in after.items()}
    # Measured: 80 to 120, of which some 40 come only each thirty seconds. Once it was 270.
    print(sum(asked.values()), asked)
    assert 0 < sum(asked.values()) < 180, asked
    began = time.monotonic()
    assert set(fleet.stop().values()) == {0}
    assert time.monotonic() - began < 5
