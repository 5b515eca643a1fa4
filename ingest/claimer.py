"""Taking documents: read complete files, route them, claim those that have room, submit them."""

from collections import Counter

from llm_scheduler.ingest.file_queue import GROUP, FileOrigin, FileQueue
from llm_scheduler.ingest.finder import CompleteFile, Finder
from llm_scheduler.ingest.room import Room
from llm_scheduler.ingest.router import RouteDecision, Router
from llm_scheduler.ingest.splitter import Splitter
from llm_scheduler.ingest.spool import Claim, Claims, Folders
from llm_scheduler.ingest.submitter import Submission, Submitter
from llm_scheduler.jobs.document import Route, Status, id_prefix_at
from llm_scheduler.jobs.faults import FaultPoint
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.store import batches, ledger
from llm_scheduler.jobs.store.load import Load, read_load

GROUP_BYTES = 32 * 1024 * 1024
OVERHEAD_BYTES = 1024  # of Redis for a document, apart from its bytes
_MAX_READ_WHILE_FULL = 64  # files in one step, only to learn their level
# When this share of all documents in flight is in batches, hardly any other can finish and make room.
_STANDSTILL = 0.75


class Claimer:
    """Claims and submits files that are complete and have room, in groups. `queue` has the files to read."""

    def __init__(
        self, runtime: Runtime, claims: Claims, router: Router, submitter: Submitter, splitter: Splitter, at: FaultPoint
    ) -> None:
        self._config = config = runtime.config
        self._redis, self._clock, self._log = runtime.redis, runtime.clock, runtime.log
        self._at = at
        self._claims = claims
        self._router = router
        self._submitter = submitter
        self._splitter = splitter
        self._levels = config.queue.priority_levels

        self._finder = Finder(config.processing, runtime.clock, self._is_taken, config.intake)
        self._room = Room(config, runtime.clock)
        self.queue = FileQueue(runtime, Folders.of(config.directories), self._finder, splitter)

    def status(self) -> str:
        """What is on hand, in words."""
        return f"{self._finder.incomplete} incomplete, {len(self.queue.held)} held back"

    def run(self) -> bool:
        """Claim and submit one group. Returns whether to call it again at once. Raises RedisError and OSError."""
        if not self.queue.collect():
            return False  # most often; Redis is not asked
        load = read_load(self._redis, self._levels)
        room = self._room.read(load)
        max_bytes = min(GROUP_BYTES, load.spare)
        full = min(room.values()) <= 0
        if full and load.batched >= _STANDSTILL * load.documents > 0:
            # The batches would wait for documents that have no room.
            batches.flush_all(self._redis, self._levels, self._config.processing, self._clock)
        held = self.queue.held
        ready: list[tuple[CompleteFile, RouteDecision]] = []
        size = read = 0
        for path, origin in self.queue.take(room):
            read += 1
            file = self._finder.read(*path)
            if file is None:
                continue
            decision = self._router.decide(file.value, file.candidate.source, file.candidate.stamp.size)
            level = decision.priority
            if origin is FileOrigin.NEWEST:
                if level != self._levels[0]:
                    continue
                self.queue.take_urgent(path)
            # With fairness, a new file waits behind those that are held.
            in_turn = origin is FileOrigin.HELD or not (held.fair and held.has_any(level))
            if room[level] > 0 and in_turn:
                room = self._room.without_one(room, level)
                ready.append((file, decision))
                size += len(file.raw) + OVERHEAD_BYTES
                if len(ready) >= GROUP or size >= max_bytes:
                    break
            else:
                held.add(path, level, file.value)
            if origin is FileOrigin.SCAN and full and read >= _MAX_READ_WHILE_FULL:
                break
        if ready:
            self._claim(ready, load)
        return bool(ready) or (read > 0 and not full)

    def _claim(self, ready: list[tuple[CompleteFile, RouteDecision]], load: Load) -> None:
        self._router.complete([decision for _, decision in ready])
        by_id: dict[str, tuple[CompleteFile, Route]] = {}
        for file, decision in ready:  # of two files with one id, the first is claimed
            by_id.setdefault(file.candidate.id, (file, decision.route))
        group, claims = self._claims.take([file.candidate for file, _ in ready], self._clock.now())
        self._at("ingest.claimed")
        documents: list[Submission] = []
        for claim in claims:
            file, route = by_id[claim.id]
            if file.parts:
                self._split(group, claim, file.parts, route)
            else:
                documents.append(Submission(group, claim, file.raw, route))
        if documents:
            self._submitter.submit(documents, load)
            self._room.rates.add(Counter(document.route.priority for document in documents))
            self._log.debug("Claimed %d document(s) as group %s", len(documents), group)
        self._at("ingest.submitted")

    def _split(self, group: str, claim: Claim, parts: list[bytes], route: Route) -> None:
        """Split a file of several documents, and queue these."""
        root = self._splitter.split(group, claim, parts)
        self._submitter.record_split(claim, route, len(parts))
        self._log.info("Split %s into %d documents", claim.source, len(parts), extra={"document_id": claim.id})
        self.queue.add(root)

    def _is_taken(self, document_id: str) -> bool:
        """Whether the id in a file name belongs to another document already."""
        status = ledger.known(self._redis, [document_id])[0][0]
        if status is not None:
            return status is not Status.RECEIVED
        # The ledger forgets old documents. A file with such an id may be an old original that was dropped again.
        keep_days = self._config.monitoring.metrics_retention_days
        return document_id < id_prefix_at(ledger.horizon(self._clock.now(), keep_days))
