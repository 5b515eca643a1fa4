"""Carrying out what people ask for: documents that are to be tried again, and documents that are to be cancelled.

Both are done in steps that may be done twice. An order leaves its stream when the last of them is through, so after a
crash it is simply carried out again.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Sequence

from redis import Redis

from llm_scheduler.ingest.router import Router
from llm_scheduler.ingest.spool import Claim, Claims, Folders, Found, explain
from llm_scheduler.ingest.spool.claims import Seen
from llm_scheduler.ingest.spool.file_io import sha256_of
from llm_scheduler.ingest.spool.finished_files import find
from llm_scheduler.ingest.spool.freeze import Gate
from llm_scheduler.ingest.spool.originals import is_at_rest
from llm_scheduler.ingest.spool.renames import within
from llm_scheduler.ingest.submitter import Submitted, Submitter
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import FINAL, Route, Status
from llm_scheduler.jobs.sealing import Seal, WrongKey
from llm_scheduler.jobs.store import commands, ledger, outcomes
from llm_scheduler.jobs.store.commands import Order
from llm_scheduler.jobs.store.ledger import Entry
from llm_scheduler.jobs.store.outcomes import Outcome

LOOK_EVERY = 0.5  # seconds between two looks at the stream


class Orders:
    """Carries out orders. Belongs to ingest, the only one who claims."""

    def __init__(
        self,
        config: Config,
        redis: Redis,
        claims: Claims,
        router: Router,
        submitter: Submitter,
        seal: Seal | None,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._redis = redis
        self._folders = Folders.of(config.directories)
        self._gate = Gate(self._folders.temp, "retries")
        self._claims = claims
        self._router = router
        self._submitter = submitter
        self._seal = seal
        self._clock = clock
        self._log = log
        self._levels = config.queue.priority_levels
        self._limits = intake.Limits(config.processing.max_document_bytes, config.processing.max_depth)
        self._next_look = float("-inf")

    def carry_out(self) -> int:
        """Carry out what waits, if it is time to look. Returns how many orders. Raises RedisError."""
        now = self._clock.monotonic()
        if now < self._next_look:
            return 0
        carried_out = 0
        for place, order in commands.waiting(self._redis):
            if order is None:
                self._log.error("An order in %s can't be read and was passed over", commands.STREAM)
            elif order.kind != "retry":
                self._try(order)
            elif self._gate.passes():
                try:
                    self._try(order)
                finally:
                    self._gate.leave()
            else:
                continue  # a backup is reading the finished originals: they stay where they are until it has
            commands.carried_out(self._redis, place)
            carried_out += 1
        self._next_look = now if carried_out else now + LOOK_EVERY
        return carried_out

    def _try(self, order: Order) -> None:
        """What is wrong with the disk must hold up no document: the order is given up, and can be given again."""
        try:
            if order.kind == "retry":
                self._retry(order)
            else:
                self._cancel(order)
        except OSError as error:
            self._log.error(
                "Asked by %s to %s %d document(s), which was not finished: %s Nothing is lost; ask again.",
                order.by,
                order.kind,
                len(order.ids),
                explain(error),
            )

    # To be tried again

    def _retry(self, order: Order) -> None:
        """Claim the originals anew, under their old ids, and submit them."""
        held = self._held(order.ids)
        wanted = [entry for entry in self._entries(order.ids) if entry.status in FINAL and entry.status != Status.DONE]
        groups: dict[str, list[Claim]] = {}
        missing = 0
        for entry in wanted:
            if entry.id in held:
                self._clear_away(entry)
            else:
                claimed = self._claim_again(entry)
                if claimed is None:
                    missing += 1
                    continue
                held[entry.id] = claimed
            group, claim = held[entry.id]
            groups.setdefault(group, []).append(claim)
        ids = [claim.id for claims in groups.values() for claim in claims]
        ledger.revive(self._redis, self._clock.now(), ids)
        with self._redis.pipeline() as pipeline:
            commands.unmark_cancelled(pipeline, ids)
            pipeline.execute()
        for group, claims in groups.items():
            self._submit(group, claims)
        self._log.info(
            "Asked by %s to try %d document(s) again: %d are on their way%s",
            order.by,
            len(order.ids),
            len(ids),
            f", the originals of {missing} are not in the error folder" if missing else "",
        )

    def _claim_again(self, entry: Entry) -> tuple[str, Claim] | None:
        """Take an original out of the error folder. None when it is not there."""
        place = find(self._folders, entry)
        if place is None or place.original is None:
            return None
        try:
            group, claim = self._claims.take_again(
                place.original,
                entry.id,
                entry.source,
                self._folders.watch[0],
                entry.times.get("received", self._clock.now()),
                self._clock.now(),
                self._seal,
            )
        except FileNotFoundError:
            return None
        except WrongKey as error:
            self._log.error("%s can't be tried again: %s", entry.source, error)
            return None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.report)
        return group, claim

    def _clear_away(self, entry: Entry) -> None:
        """What an earlier try of this order has left in the error folder, when it was ended between two steps."""
        place = find(self._folders, entry)
        if place is None:
            return
        if place.original and is_at_rest(place.original, entry.id):
            os.unlink(place.original)
        os.unlink(place.report)

    def _submit(self, group: str, claims: Sequence[Claim]) -> None:
        for claim in claims:
            try:
                raw = self._claims.read(group, claim.id)
            except FileNotFoundError:
                continue  # an earlier try of this order has submitted it, and it is done
            complete, value = intake.glance(raw, claim.source, self._limits)
            route = self._router.route(
                value if complete else intake.guess(raw, self._limits), claim.source, claim.seen.size
            )
            # One by one: the documents that somebody has looked at are few, and may be large.
            self._submitter.submit([Submitted(group, claim, raw, route)], ledger.load(self._redis, self._levels))

    # To be cancelled

    def _cancel(self, order: Order) -> None:
        """Let no worker begin with them, claim those that nobody has claimed yet, and have the collector end them."""
        wanted = [entry for entry in self._entries(order.ids) if entry.status not in FINAL]
        now = self._clock.now()
        with self._redis.pipeline() as pipeline:
            commands.mark_cancelled(pipeline, [entry.id for entry in wanted], now)
            pipeline.execute()
        held = self._held([entry.id for entry in wanted])
        message = f"Cancelled by {order.by}."
        ended = 0
        for entry in wanted:
            group = held[entry.id][0] if entry.id in held else self._claim_unread(entry)
            if group is None:
                continue  # it was finished, or its file was taken away
            ended += 1
            told = _cancelled(entry, group, message, now)
            self._redis.xadd(outcomes.stream(entry.queue or self._levels[0]), {outcomes.FIELD: outcomes.encode([told])})
        self._log.info("Asked by %s to cancel %d document(s): %d are", order.by, len(order.ids), ended)

    def _claim_unread(self, entry: Entry) -> str | None:
        """Claim a document that waits in a watch folder; the group, or None when it isn't there."""
        for watch in self._folders.watch:
            source = within(entry.source)
            path = os.path.join(watch, source)
            try:
                found = Found(watch, source, entry.id, Seen.of(os.lstat(path)), self._clock.now(), sha256_of(path))
            except OSError:
                continue
            group, claims = self._claims.take([found], self._clock.now())
            if claims:
                return group
        return None

    def _entries(self, ids: Iterable[str]) -> list[Entry]:
        return [entry for entry in ledger.entries(self._redis, list(ids)) if entry is not None]

    def _held(self, ids: Iterable[str]) -> dict[str, tuple[str, Claim]]:
        """Which of the documents are claimed, and in which group."""
        wanted = set(ids)
        held: dict[str, tuple[str, Claim]] = {}
        for group in self._claims.groups():
            try:
                there = wanted.intersection(os.listdir(os.path.join(self._claims.temp, group)))
            except OSError as error:
                self._log.warning("%s", explain(error))
                continue
            if there:
                claims = self._claims.held(group)
                held.update((each, (group, claims[each])) for each in there if each in claims)
        return held


def _cancelled(entry: Entry, group: str, message: str, now: float) -> Outcome:
    return Outcome(
        kind="cancelled",
        id=entry.id,
        claim=group,
        attempts=entry.attempts,
        completed_at=now,
        route=Route(priority=entry.priority, queue=entry.queue, handler=entry.handler, reasons=entry.reasons),
        code=Code.CANCELLED,
        message=message,
        rq_job_id=entry.rq_job_id or "",
    )
