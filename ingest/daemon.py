"""`llm-ingest`: watches, claims, reads, routes and submits; holds back when there is enough; reconciles."""

import logging
import os
from collections.abc import Iterator
from itertools import islice

from redis import Redis
from redis.exceptions import RedisError

from ingest.finding import Finder, Ready, files, is_ignored_path
from ingest.outage import OutageNote
from ingest.reconcile import Reconcile
from ingest.router import Router
from ingest.spool import Claims, Folders, SpoolLock, Trouble, explain
from ingest.submitting import Submitted, Submitter
from ingest.watching import Hints
from ingest.word import Word
from jobs import faults, ledger
from jobs.clock import Clock, SystemClock
from jobs.config import Config
from jobs.connection import connect
from jobs.document import new_id
from jobs.faults import FaultPoint
from jobs.ledger import EPOCH_KEY
from jobs.process import URL_VARIABLE, Outage, Stop, start

GROUP = 256  # documents claimed together: one manifest, one sync, one round trip
GROUP_BYTES = 32 * 1024 * 1024
TICK_SECONDS = 1.0
RECONCILE_EVERY = 30.0
_MOST_HELD = 100_000
_PEEKS = 64  # files read in one step while a level is full, only to learn their level
_PEEK_SECONDS = 0.05

Place = tuple[str, str]  # (watch folder, source)


class Ingest:
    """The daemon's state and its steps; `run` reads as what it does."""

    def __init__(
        self,
        config: Config,
        redis: Redis,
        clock: Clock,
        stop: Stop,
        log: logging.Logger,
        at: FaultPoint = faults.no_faults,
    ) -> None:
        self._config = config
        self._redis = redis
        self._clock = clock
        self._stop = stop
        self._log = log
        self._at = at
        self._levels = config.queue.priority_levels
        self._folders = Folders.of(config.directories)
        self._claims = Claims(self._folders.temp, at)
        self._router = Router(config)
        self._submitter = Submitter(config, redis, self._router, clock)
        self._reconcile = Reconcile(config, redis, self._claims, self._submitter, clock, log)
        self._finder = Finder(config.processing, clock, self._is_taken)
        self._hints = Hints(self._folders.watch, log)
        self._outage = Outage(log)
        self._note = OutageNote(self._folders.temp)
        self._lock = SpoolLock(self._folders.temp, "ingest")
        self._scan: Iterator[Place] | None = None
        self._next_scan = self._next_reconcile = float("-inf")
        self._word = Word(redis, "ingest", clock)
        # Files that were read and routed, and wait in the watch folder until their level has room.
        self._held: dict[str, dict[Place, None]] = {level: {} for level in self._levels}
        self._fresh: dict[Place, None] = {}
        self._epoch = ""
        self._trouble = ""

    # The loop

    def run(self) -> None:
        """Work until told to stop."""
        try:
            while not self._stop:
                try:
                    self._work()
                except Trouble as trouble:
                    self._wait_out(str(trouble))
                except OSError as error:
                    self._wait_out(explain(error))
        finally:
            self._hints.stop()
            self._lock.release()
            self._word.take_back()

    def _work(self) -> None:
        """Get the folders, the lock and Redis, then take documents for as long as all three are there."""
        for folder in self._folders.prepare():
            self._log.info("Made the folder %s", folder)
        if not self._lock.take():
            raise Trouble(
                f"Another llm-ingest (process {self._lock.holder()}) works on {self._folders.temp}. "
                "This one waits until it stops."
            )
        while not self._stop:
            self._hints.watch()
            try:
                self._check_in()
                idle = not self._take_documents()
            except RedisError as error:
                self._note.write(self._clock.now() - self._outage.seconds)
                self._stop.wait(self._outage.failed(error))
                self._next_reconcile = float("-inf")
                continue
            self._trouble = ""
            if idle:
                self._folders.prepare()
                self._hints.wait(self._until_next())

    def _wait_out(self, trouble: str) -> None:
        """Something about the folders is wrong: say so once, and look again soon."""
        if trouble != self._trouble:
            self._log.error("%s", trouble)
            self._trouble = trouble
        self._word.try_say("waiting", trouble)
        self._stop.wait(TICK_SECONDS)
        self._next_reconcile = float("-inf")

    # Redis

    def _check_in(self) -> None:
        """See that Redis is there and still knows what it knew; reconcile when it doesn't, and now and then."""
        now = self._clock.monotonic()
        if self._word.is_due() or self._outage.seconds:
            epoch = self._redis.get(EPOCH_KEY)
            known = epoch.decode() if isinstance(epoch, bytes) else ""
            if self._outage.seconds:
                self._outage.over()
            self._note.remove()
            if not known or known != self._epoch:
                if self._epoch:
                    self._log.warning("Redis has lost what it knew; every claim on disk is submitted again")
                self._next_reconcile = float("-inf")
            self._word.say("working", f"{self._finder.waiting} incomplete, {self._held_count()} held back")
        if now >= self._next_reconcile:
            self._reconcile.run()
            self._next_reconcile = now + RECONCILE_EVERY
            self._epoch = self._agree_on_epoch()

    def _agree_on_epoch(self) -> str:
        self._redis.set(EPOCH_KEY, new_id(self._clock.now()), nx=True)
        epoch = self._redis.get(EPOCH_KEY)
        return epoch.decode() if isinstance(epoch, bytes) else ""

    def _is_taken(self, document_id: str) -> bool:
        """Whether an id that a file name carries is already another document's."""
        entry = ledger.known(self._redis, [document_id])[0][0]
        return entry not in (None, "received")

    # Documents

    def _take_documents(self) -> bool:
        """Claim and submit one group of what is ready and has room. Returns whether there may be more to do at once."""
        room = self._room()
        full = min(room.values()) <= 0
        self._hear()
        ready: list[Ready] = []
        size = 0
        looked = 0
        for place, from_scan in self._candidates(room):
            looked += 1
            found = self._finder.look(*place)
            if found is None:
                continue
            level = self._router.route(found.value).priority
            if room[level] > 0:
                room = {each: left - 1 for each, left in room.items()}
                ready.append(found)
                size += len(found.raw)
                if len(ready) >= GROUP or size >= GROUP_BYTES:
                    break
            elif self._held_count() < _MOST_HELD:
                self._held[level][place] = None
            if from_scan and full and looked >= _PEEKS:
                break
        if ready:
            self._claim(ready)
        return bool(ready) or (looked > 0 and not full)

    def _hear(self) -> None:
        """Add what has been hinted at, and what has settled, to the files to look at next."""
        for watch, source in self._hints.take():
            if is_ignored_path(source):
                continue
            path = os.path.join(watch, source)
            if os.path.isdir(path) and not os.path.islink(path):
                self._fresh.update(((watch, inner), None) for inner in islice(files(watch, source), _MOST_HELD))
            else:
                self._fresh[watch, source] = None
        self._fresh.update((place, None) for place in self._finder.due())

    def _candidates(self, room: dict[str, int]) -> Iterator[tuple[Place, bool]]:
        """What to look at, and whether it is from the scan.

        Newcomers come first (they may be urgent), then what was held back, then what the scan finds. While a level
        is full the scan goes on in small steps: among the files it finds there may be some of a level that is not.
        """
        fresh, self._fresh = self._fresh, {}
        places = iter(fresh)
        try:
            for place in places:
                yield place, False
        finally:
            self._fresh.update(dict.fromkeys(places))
        for level in self._levels:
            for place in list(islice(self._held[level], max(0, room[level]))):
                del self._held[level][place]
                yield place, False
        if max(room.values()) <= 0:
            return
        if self._scan is None and (self._clock.monotonic() >= self._next_scan or self._hints.overflowed):
            self._hints.overflowed = False
            self._scan = self._all_files()
        while self._scan is not None:
            found = next(self._scan, None)
            if found is None:
                self._scan = None
                self._next_scan = self._clock.monotonic() + self._config.processing.scan_interval
            elif not any(found in held for held in self._held.values()):
                yield found, True

    def _all_files(self) -> Iterator[Place]:
        for folder in self._folders.watch:
            for source in files(folder):
                yield folder, source

    def _claim(self, ready: list[Ready]) -> None:
        by_id = {each.found.id: each for each in ready}
        group, claims = self._claims.take([each.found for each in ready], self._clock.now())
        self._at("ingest.claimed")
        documents = [Submitted(group, claim, by_id[claim.id].raw, by_id[claim.id].value) for claim in claims]
        if documents:
            try:
                self._submitter.submit(documents)
            except Exception:
                self._next_reconcile = float("-inf")  # they are claims that Redis may not know
                raise
            self._log.debug("Claimed %d document(s) as group %s", len(documents), group)
        self._at("ingest.submitted")

    def _room(self) -> dict[str, int]:
        """How many documents each level may still claim: the lowest leaves a fifth of all room to those above it."""
        flight = ledger.in_flight(self._redis, self._levels)
        most = self._config.queue.max_queue_size
        if flight.bytes >= self._config.queue.max_queue_bytes:
            return dict.fromkeys(self._levels, 0)
        steps = 10 * max(1, len(self._levels) - 1)
        return {level: most - 2 * most * place // steps - flight.documents for place, level in enumerate(self._levels)}

    def _held_count(self) -> int:
        return sum(len(held) for held in self._held.values())

    # Waiting

    def _until_next(self) -> float:
        now = self._clock.monotonic()
        times = [TICK_SECONDS, self._word.due_in()]
        due = self._finder.next_due()
        if due is not None:
            times.append(due)
        times.append(_PEEK_SECONDS if self._scan is not None else max(0.0, self._next_scan - now))
        return max(0.005, min(times))


def main() -> None:
    """Entry point of `llm-ingest`."""
    config, log = start("ingest")
    stop = Stop()
    stop.on_signals()
    redis = connect(os.environ.get(URL_VARIABLE, config.queue.redis_url))
    try:
        log.info("Watching %s", ", ".join(config.directories.watch))
        Ingest(config, redis, SystemClock(), stop, log, faults.from_environment(os.environ)).run()
        log.info("Ingest has stopped")
    finally:
        redis.close()


if __name__ == "__main__":
    main()
