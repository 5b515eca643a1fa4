"""Running the commands that people give for documents: retry them, or cancel them.

Every step of a command may run twice. A command leaves its stream after the last step, so after a crash it runs again.
"""

import contextlib
import os
from collections.abc import Iterable, Sequence

from llm_scheduler.ingest.router import Router
from llm_scheduler.ingest.spool import Candidate, Claim, Claims, FileStamp, Folders, FreezeLock, explain
from llm_scheduler.ingest.spool.file_io import sha256_of
from llm_scheduler.ingest.spool.finished_files import find
from llm_scheduler.ingest.spool.names import safe_path
from llm_scheduler.ingest.spool.originals import is_in_place
from llm_scheduler.ingest.submitter import Submission, Submitter
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.document import FINAL, Route, Status
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.sealing import WrongKey, seal_of_originals
from llm_scheduler.jobs.store import commands, ledger, outcomes
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.load import read_load

READ_EVERY = 0.5  # seconds


class CommandRunner:
    """Runs commands. Only ingest uses it."""

    def __init__(self, runtime: Runtime, claims: Claims, router: Router, submitter: Submitter) -> None:
        config = runtime.config
        self._redis, self._clock, self._log = runtime.redis, runtime.clock, runtime.log
        self._folders = Folders.of(config.directories)
        self._freeze = FreezeLock(self._folders.temp, "retries")
        self._claims = claims
        self._router = router
        self._submitter = submitter
        self._seal = seal_of_originals(config.security)
        self._levels = config.queue.priority_levels
        self._limits = intake.IntakeLimits.from_config(config.processing)
        self._next_read = float("-inf")

    def run(self) -> int:
        """Run waiting commands, if it is time to read them. Returns how many were run. Raises RedisError."""
        now = self._clock.monotonic()
        if now < self._next_read:
            return 0
        done = 0
        for entry_id, command in commands.waiting(self._redis):
            if command is None:
                self._log.error("A command in %s can't be read. It was removed.", keys_of(self._redis).commands)
            elif command.kind != "retry":
                self._run(command)
            elif self._freeze.enter():
                try:
                    self._run(command)
                finally:
                    self._freeze.leave()
            else:
                continue  # a backup reads finished originals: they have to stay where they are until its end
            commands.remove(self._redis, entry_id)
            done += 1
        self._next_read = now if done else now + READ_EVERY
        return done

    def _run(self, command: commands.Command) -> None:
        """Run a command. An error of the disk ends only the command, so that it can't block documents."""
        run = self._retry if command.kind == "retry" else self._cancel
        try:
            run(command)
        except OSError as error:
            self._log.error(
                "The command of %s to %s %d document(s) was not completed: %s Nothing is lost; give the command again.",
                command.by,
                command.kind,
                len(command.ids),
                explain(error),
            )

    def _retry(self, command: commands.Command) -> None:
        """Claim the originals again, with the same ids, and submit them."""
        held = self._held(command.ids)
        groups: dict[str, list[Claim]] = {}
        missing = 0
        for entry in self._entries(command.ids):
            if entry.status not in FINAL or entry.status == Status.DONE:
                continue
            if entry.id in held:
                self._remove_leftovers(entry)
            elif claimed := self._reclaim(entry):
                held[entry.id] = claimed
            else:
                missing += 1
                continue
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
            "Retry of %d document(s), asked by %s: %d are submitted%s",
            len(command.ids),
            command.by,
            len(ids),
            f"; the originals of {missing} are not in the error folder" if missing else "",
        )

    def _reclaim(self, entry: ledger.Entry) -> tuple[str, Claim] | None:
        """Claim an original from the error folder. Returns its group and claim; None when it is not there."""
        files = find(self._folders, entry)
        if files is None or files.original is None:
            return None
        now = self._clock.now()
        received_at = entry.times.get("received", now)
        watch = self._folders.watch[0]
        try:
            claimed = self._claims.reclaim(files.original, entry.id, entry.source, watch, received_at, now, self._seal)
        except FileNotFoundError:
            return None
        except WrongKey as error:
            self._log.error("%s can't be retried: %s", entry.source, error)
            return None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(files.report)
        return claimed

    def _remove_leftovers(self, entry: ledger.Entry) -> None:
        """Remove what an interrupted run of this command left in the error folder."""
        files = find(self._folders, entry)
        if files is None:
            return
        if files.original and is_in_place(files.original, entry.id):
            os.unlink(files.original)
        os.unlink(files.report)

    def _submit(self, group: str, claims: Sequence[Claim]) -> None:
        for claim in claims:
            try:
                raw = self._claims.read(group, claim.id)
            except FileNotFoundError:
                continue  # an interrupted run of this command submitted it, and it is finished
            value = intake.Preview(raw, claim.source, self._limits).value
            route = self._router.decide(value, claim.source, claim.stamp.size).route
            # One at a time: people retry few documents, and these may be large.
            self._submitter.submit([Submission(group, claim, raw, route)], read_load(self._redis, self._levels))

    def _cancel(self, command: commands.Command) -> None:
        """Keep workers from starting the documents, claim those that are unclaimed, and let the collector end them."""
        wanted = [entry for entry in self._entries(command.ids) if entry.status not in FINAL]
        now = self._clock.now()
        with self._redis.pipeline() as pipeline:
            commands.mark_cancelled(pipeline, [entry.id for entry in wanted], now)
            pipeline.execute()
        held = self._held([entry.id for entry in wanted])
        message = f"Cancelled by {command.by}."
        cancelled = 0
        for entry in wanted:
            group = held[entry.id][0] if entry.id in held else self._claim_unread(entry)
            if group is None:
                continue  # it is finished, or its file was removed
            cancelled += 1
            stream = keys_of(self._redis).outcomes(entry.queue or self._levels[0])
            self._redis.xadd(stream, {outcomes.FIELD: outcomes.encode([_cancelled(entry, group, message, now)])})
        self._log.info("Cancelled %d of %d document(s), asked by %s", cancelled, len(command.ids), command.by)

    def _claim_unread(self, entry: ledger.Entry) -> str | None:
        """Claim a document that is still in a watch folder. Returns the group; None when it isn't there."""
        source = safe_path(entry.source)
        for watch in self._folders.watch:
            path = os.path.join(watch, source)
            now = self._clock.now()
            try:
                stamp = FileStamp.of(os.lstat(path))
            except OSError:
                continue
            group, claims = self._claims.take([Candidate(watch, source, entry.id, stamp, now, sha256_of(path))], now)
            if claims:
                return group
        return None

    def _entries(self, ids: Iterable[str]) -> list[ledger.Entry]:
        return [entry for entry in ledger.entries(self._redis, list(ids)) if entry is not None]

    def _held(self, ids: Iterable[str]) -> dict[str, tuple[str, Claim]]:
        """The group and the claim of those documents that are claimed."""
        wanted = set(ids)
        held: dict[str, tuple[str, Claim]] = {}
        for group in self._claims.groups():
            try:
                present = wanted.intersection(os.listdir(os.path.join(self._claims.temp, group)))
            except OSError as error:
                self._log.warning("%s", explain(error))
                continue
            if present:
                claims = self._claims.held(group)
                held.update((each, (group, claims[each])) for each in present if each in claims)
        return held


def _cancelled(entry: ledger.Entry, group: str, message: str, now: float) -> outcomes.Outcome:
    return outcomes.Outcome(
        kind="cancelled",
        id=entry.id,
        group=group,
        attempts=entry.attempts,
        completed_at=now,
        route=Route(priority=entry.priority, queue=entry.queue, handler=entry.handler, reasons=entry.reasons),
        code=Code.CANCELLED,
        message=message,
        rq_job_id=entry.rq_job_id or "",
    )
