"""`llm-ingest`: watches, claims, reads, routes and submits; holds back when there is enough; reconciles."""

import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from itertools import islice, repeat, takewhile

from redis import Redis
from redis.exceptions import RedisError

from llm_scheduler.ingest.command_runner import Orders
from llm_scheduler.ingest.finder import Finder, Ready, files, is_ignored_path
from llm_scheduler.ingest.fs_events import Hints
from llm_scheduler.ingest.held_back import MOST, Held, Place
from llm_scheduler.ingest.outage_note import OutageNote
from llm_scheduler.ingest.recovery import Reconcile
from llm_scheduler.ingest.router import Asked, Router
from llm_scheduler.ingest.splitter import Splitter
from llm_scheduler.ingest.spool import Claim, Claims, Folders, SpoolLock, Trouble, explain
from llm_scheduler.ingest.spool.freeze import Gate
from llm_scheduler.ingest.submitter import Submitted, Submitter
from llm_scheduler.jobs import faults
from llm_scheduler.jobs.clock import Clock, SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import Route, Status, new_id
from llm_scheduler.jobs.faults import FaultPoint
from llm_scheduler.jobs.process import arguments
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.process.heartbeat import Word
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.process.startup import URL_VARIABLE, Outage, Stop, start
from llm_scheduler.jobs.sealing import seal_of_originals
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.commands import RestartWatch
from llm_scheduler.jobs.store.full_redis import finishing
from llm_scheduler.jobs.store.ledger import EPOCH_KEY, Load

GROUP = 256  # documents claimed together: one manifest, one sync, one round trip
GROUP_BYTES = 32 * 1024 * 1024
OVERHEAD_BYTES = 1024  # what a document takes in Redis beside itself, about
TICK_SECONDS = 1.0
RECONCILE_EVERY = 30.0
_RATE_SECONDS = 0.2
_FAIR_SECONDS = 1.0  # of work in flight, with fairness
_PEEKS = 64  # files read in one step while a level is full, only to learn their level
_STANDSTILL = 0.75  # of all in flight; when so many wait in batches, hardly anything is left that makes room
_PEEK_SECONDS = 0.05
_GATE_LOOK_SECONDS = 0.02
_NEWEST = 16  # newcomers that are looked at in one step ahead of those that came before them


class Came(Enum):
    """Where a file to look at comes from."""

    NEW = 1
    NEWEST = 2
    HELD = 3
    SCAN = 4


class Rates:
    """How many documents of each level are finished a second, seen from what is in flight and what was added to it."""

    def __init__(self, levels: Sequence[str]) -> None:
        self.per_second = dict.fromkeys(levels, 0.0)
        self._claimed: Counter[str] = Counter()
        self._before: dict[str, int] = {}
        self._at = 0.0

    def claimed(self, counts: Mapping[str, int]) -> None:
        """So many documents of each level were added."""
        self._claimed.update(counts)

    def look(self, in_flight: Mapping[str, int], now: float) -> None:
        """So many are in flight at monotonic `now`. Averages over about two seconds."""
        passed = now - self._at
        if passed < _RATE_SECONDS and self._before:
            return
        for level, count in in_flight.items() if self._before else ():
            finished = max(0, self._before[level] + self._claimed[level] - count)
            share = min(1.0, passed / 2.0)
            self.per_second[level] += share * (finished / passed - self.per_second[level])
        self._before, self._at = dict(in_flight), now
        self._claimed.clear()


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
        notify: Notify | None = None,
    ) -> None:
        self._notify = notify or Notify()
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
        self._submitter = Submitter(config, redis, clock)
        self._finder = Finder(config.processing, clock, self._is_taken, config.intake)
        self._splitter = Splitter(self._folders, self._claims, at, seal_of_originals(config.security))
        self._reconcile = Reconcile(
            config, redis, self._claims, self._router, self._submitter, self._splitter, clock, log
        )
        self._orders = Orders(
            config,
            redis,
            self._claims,
            self._router,
            self._submitter,
            seal_of_originals(config.security),
            clock,
            log,
        )
        self._hints = Hints(self._folders.watch, log)
        self._outage = Outage(log, told=self._notify.turn)
        self._note = OutageNote(self._folders.temp)
        self._lock = SpoolLock(self._folders.temp, "ingest")
        self._gate = Gate(self._folders.temp, "moves")
        self._scan: Iterator[Place] | None = None
        self._next_scan = self._next_reconcile = float("-inf")
        self._word = Word(finishing(redis), "ingest", clock, self._folders.temp)
        self._held = Held(self._levels, config.processing.fairness)
        self._rates = Rates(self._levels)
        self._fresh: OrderedDict[Place, bool] = OrderedDict()  # newcomers by arrival, and whether one was looked at
        self._hurries = False  # this step is for urgent newcomers alone; the next one isn't
        self._epoch = ""
        self._trouble = ""
        self._restart = RestartWatch()

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
            self._notify.stopping()
            self._hints.stop()
            self._gate.close()
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
            if not self._gate.passes():
                self._notify.turn("Waits for a moment, while a backup begins")
                self._stop.wait(_GATE_LOOK_SECONDS)
                continue
            try:
                idle = self._step()
            except RedisError as error:
                self._note.write(self._clock.now() - self._outage.seconds)
                self._stop.wait(self._outage.failed(error))
                self._next_reconcile = float("-inf")
                continue
            self._trouble = ""
            self._notify.turn(f"Takes documents: {self._on_hand()}")
            if idle:
                self._folders.prepare()
                self._hints.wait(self._until_next())

    def _step(self) -> bool:
        """One turn, behind a gate that has been passed. Returns whether there was nothing to do. Raises RedisError."""
        try:
            self._check_in()
            return not self._orders.carry_out() and not self._take_documents()
        finally:
            self._gate.leave()

    def _wait_out(self, trouble: str) -> None:
        """Something about the folders is wrong: say so once, and look again soon."""
        if trouble != self._trouble:
            self._log.error("%s", trouble)
            self._trouble = trouble
        self._notify.turn(f"Waits: {trouble}")
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
            if self._restart.look(self._redis):
                self._log.info("A restart was asked for")
                self._stop.set()
            if said := self._router.refresh():
                self._log.warning("%s", said)
            self._word.say("working", self._on_hand())
        if now >= self._next_reconcile:
            self._reconcile.run()
            self._next_reconcile = now + RECONCILE_EVERY
            self._epoch = self._agree_on_epoch()

    def _on_hand(self) -> str:
        return f"{self._finder.waiting} incomplete, {len(self._held)} held back"

    def _agree_on_epoch(self) -> str:
        self._redis.set(EPOCH_KEY, new_id(self._clock.now()), nx=True)
        epoch = self._redis.get(EPOCH_KEY)
        return epoch.decode() if isinstance(epoch, bytes) else ""

    def _is_taken(self, document_id: str) -> bool:
        """Whether an id that a file name carries is already another document's."""
        status = ledger.known(self._redis, [document_id])[0][0]
        if status is not None:
            return status is not Status.RECEIVED
        # Of what is so old the ledger has forgotten whose it was; an old original that somebody puts back, say.
        days = self._config.monitoring.metrics_retention_days
        return ledger.is_before(document_id, ledger.horizon(self._clock.now(), days))

    # Documents

    def _take_documents(self) -> bool:
        """Claim and submit one group of what is ready and has room. Returns whether there may be more to do at once."""
        self._hear()
        if not self._has_candidates():
            return False
        load = ledger.load(self._redis, self._levels)
        room = self._room(load)
        most = min(GROUP_BYTES, load.spare)
        full = min(room.values()) <= 0
        if full and load.batched >= _STANDSTILL * load.documents > 0:
            self._submitter.flush_all()  # the batches wait for company that there is no room for
        ready: list[tuple[Ready, Route | None]] = []
        size = 0
        looked = 0
        hurried, self._hurries = self._hurries, False
        for place, came in self._candidates(room):
            looked += 1
            found = self._finder.look(*place)
            if found is None:
                continue
            named = (found.found.source, found.found.seen.size)
            route = self._router.early(found.value, *named)
            level = route.priority if route else self._router.level(found.value, *named)
            # In turns, a newcomer has to queue up behind those who wait.
            in_turn = came is Came.HELD or not (self._held.fair and self._held.waits(level))
            if came is Came.NEWEST:
                if level != self._levels[0]:
                    continue  # it waits for its turn behind those that came before it
                self._fresh.pop(place, None)
                self._hurries = not hurried
            if room[level] > 0 and in_turn:
                room = self._less(room, level)
                ready.append((found, route))
                size += len(found.raw) + OVERHEAD_BYTES
                if len(ready) >= GROUP or size >= most:
                    break
            else:
                self._held.add(place, level, found.value)
            if came is Came.SCAN and full and looked >= _PEEKS:
                break
        if ready:
            self._claim(ready, load)
        return bool(ready) or (looked > 0 and not full)

    def _hear(self) -> None:
        """Add what has been hinted at, and what has settled, to the files to look at next."""
        for watch, source in self._hints.take():
            if is_ignored_path(source):
                continue
            path = os.path.join(watch, source)
            if os.path.isdir(path) and not os.path.islink(path):
                self._fresh.update(((watch, inner), False) for inner in islice(files(watch, source), MOST))
            else:
                self._fresh[watch, source] = False
        self._fresh.update((place, False) for place in self._finder.due())

    def _has_candidates(self) -> bool:
        """Whether there is anything to look at: most often there isn't, and then Redis isn't asked for the load."""
        return bool(self._fresh or len(self._held) or self._scan is not None or self._is_scan_due())

    def _is_scan_due(self) -> bool:
        return self._hints.overflowed or self._clock.monotonic() >= self._next_scan

    def _candidates(self, room: dict[str, int]) -> Iterator[tuple[Place, "Came"]]:
        """What to look at, and where from.

        Newcomers come first (they may be urgent), then what was held back, then what the scan finds. While a level
        is full the scan goes on in small steps: among the files it finds there may be some of a level that is not.
        """
        for place in self._newest():
            yield place, Came.NEWEST
        if self._hurries:
            return
        while self._fresh:
            place, _ = self._fresh.popitem(last=False)
            if place not in self._held:
                yield place, Came.NEW
        for level in self._levels:
            for place in self._held.take(level, room[level]):
                yield place, Came.HELD
        if max(room.values()) <= 0:
            return
        if self._scan is None and self._is_scan_due():
            self._hints.overflowed = False
            self._scan = self._all_files()
        while self._scan is not None:
            found = next(self._scan, None)
            if found is None:
                self._scan = None
                self._next_scan = self._clock.monotonic() + self._config.processing.scan_interval
            elif found not in self._held:
                yield found, Came.SCAN

    def _newest(self) -> list[Place]:
        """Who came last, while many came before: of ten thousand that are dropped together, the one that is dropped
        after them may be urgent. Each is looked at once, and stays where it is unless it is."""
        if len(self._fresh) <= GROUP:
            return []
        newest = list(islice(takewhile(lambda place: not self._fresh[place], reversed(self._fresh)), _NEWEST))
        self._fresh.update(dict.fromkeys(newest, True))
        return newest

    def _all_files(self) -> Iterator[Place]:
        """The files of the watch folders in turn, so that a full one doesn't hide the others."""
        pending = [zip(repeat(folder), files(folder), strict=False) for folder in self._watched()]
        while pending:
            for walk in list(pending):
                found = next(walk, None)
                if found is None:
                    pending.remove(walk)
                else:
                    yield found

    def _watched(self) -> list[str]:
        """The folders that documents are found in: the configured ones, and files that were taken apart."""
        return [*self._folders.watch, *self._splitter.roots()]

    def _claim(self, ready: list[tuple[Ready, Route | None]], load: Load) -> None:
        asked = [Asked(each.value, each.found.source, each.found.seen.size) for each, route in ready if route is None]
        routes = iter(self._router.routes(asked))
        by_id: dict[str, tuple[Ready, Route]] = {}
        for found, route in ready:  # the first of an id: that one is claimed
            by_id.setdefault(found.found.id, (found, route or next(routes)))
        group, claims = self._claims.take([found.found for found, _ in ready], self._clock.now())
        self._at("ingest.claimed")
        documents: list[Submitted] = []
        for claim in claims:
            found, route = by_id[claim.id]
            if found.parts:
                self._take_apart(group, claim, found.parts, route)
            else:
                documents.append(Submitted(group, claim, found.raw, route))
        if documents:
            try:
                self._submitter.submit(documents, load)
            except Exception:
                self._next_reconcile = float("-inf")  # they are claims that Redis may not know
                raise
            self._rates.claimed(Counter(document.route.priority for document in documents))
            self._log.debug("Claimed %d document(s) as group %s", len(documents), group)
        self._at("ingest.submitted")

    def _take_apart(self, group: str, claim: Claim, parts: list[bytes], route: Route) -> None:
        """Make a file of several documents one of many; its parts are found like any others."""
        try:
            root = self._splitter.take_apart(group, claim, parts)
            self._submitter.record_split(claim, route, len(parts))
        except Exception:
            self._next_reconcile = float("-inf")
            raise
        self._log.info("Took %s apart: %d documents", claim.source, len(parts), extra={"document_id": claim.id})
        self._fresh.update(((root, source), False) for source in islice(files(root), MOST))

    def _room(self, load: Load) -> dict[str, int]:
        """How many documents each level may still claim: the lowest leaves a fifth of all room to those above it.

        With fairness, no level has more in flight than it finishes in a moment: what is queued can't be overtaken,
        so turns can be taken only among those who still wait in front.
        """
        most = self._config.queue.max_queue_size
        if load.bytes >= self._config.queue.max_queue_bytes or load.spare <= 0:
            return dict.fromkeys(self._levels, 0)
        steps = 10 * max(1, len(self._levels) - 1)
        room = {level: most - 2 * most * place // steps - load.documents for place, level in enumerate(self._levels)}
        if not self._held.fair:
            return room
        self._rates.look(load.in_flight, self._clock.monotonic())
        least = 4 * self._config.processing.batch_size
        window = {level: max(least, int(self._rates.per_second[level] * _FAIR_SECONDS)) for level in self._levels}
        return {level: min(room[level], window[level] - load.in_flight[level]) for level in self._levels}

    def _less(self, room: dict[str, int], level: str) -> dict[str, int]:
        """The room that is left when one more document of `level` is claimed."""
        if not self._held.fair:
            return {each: left - 1 for each, left in room.items()}
        return {**room, level: room[level] - 1}

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
    config, log = start("ingest", arguments.read("llm-ingest", "Take documents from the watch folders.").config)
    notify = Notify.of(os.environ, SystemClock())
    notify.say("Starts: settles what is in the spool.")
    stop = Stop()
    stop.on_signals()
    redis = connect(os.environ.get(URL_VARIABLE, config.queue.redis_url))
    try:
        log.info("Watching %s", ", ".join(config.directories.watch))
        Ingest(config, redis, SystemClock(), stop, log, faults.from_environment(os.environ), notify).run()
        log.info("Ingest has stopped")
    finally:
        redis.close()


if __name__ == "__main__":
    main()
