"""Runs the documents of one job: each through intake and its handler, each to an outcome of its own."""

import logging
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Processing
from llm_scheduler.jobs.document import Payload
from llm_scheduler.jobs.handler import BatchContext, BatchHandler, Context, Handler, HandlerMissing
from llm_scheduler.jobs.intake import ReadDocument
from llm_scheduler.jobs.sealing import Sealing
from llm_scheduler.jobs.store.outcomes import Outcome
from llm_scheduler.jobs.time_limit import TimeLimit, alarm_handler_kept
from llm_scheduler.jobs.worker.failure import Failure, failure_of
from llm_scheduler.jobs.worker.hang_guard import HangGuard
from llm_scheduler.jobs.worker.reader import Reader, intake_report
from llm_scheduler.jobs.worker.result_json import encode_result

_MAX_RESULT_BYTES = 64 * 1024 * 1024  # of the results of a job, before the rest of its documents become another job
_MAX_BACKOFF = 3600.0
_BATCH_RULE = "handle_batch has to return a list with one result for each document"


@dataclass(frozen=True)
class Retry:
    """A document to run again at epoch seconds `at`."""

    payload: Payload
    at: float
    reason: str


@dataclass
class JobResult:
    """What came of a job. `not_begun`: documents left because of a request to stop, or because the results are large
    enough already. `result_bytes`: the size of all results."""

    job_id: str
    outcomes: list[Outcome] = field(default_factory=list)
    retries: list[Retry] = field(default_factory=list)
    not_begun: list[Payload] = field(default_factory=list)
    result_bytes: int = 0


@dataclass(frozen=True)
class LoadedDocument:
    """A payload, and the document that intake read from it."""

    payload: Payload
    reading: ReadDocument


@dataclass
class Runner:
    """One for each worker process."""

    processing: Processing
    handlers: Mapping[str, Handler | BatchHandler | HandlerMissing]
    clock: Clock
    stopping: Callable[[], bool]
    log: logging.Logger
    guard: HangGuard
    reader: Reader
    sealing: Sealing | None = None

    def __post_init__(self) -> None:
        self._random = random.Random()  # noqa: S311 - jitter, not a secret
        self._pid = os.getpid()

    def run(self, payloads: list[Payload], job_id: str) -> JobResult:
        """Run `payloads`, those of a batch handler together. It stops between two calls when asked to."""
        job = JobResult(job_id)
        calls = deque(self._calls(payloads))
        try:
            with alarm_handler_kept():
                while calls:
                    if self.stopping() or job.result_bytes >= _MAX_RESULT_BYTES:
                        job.not_begun = [payload for call in calls for payload in call]
                        break
                    call = calls.popleft()
                    self.guard.renew(self.processing.worker_timeout * len(call) + HangGuard.GRACE_SECONDS)
                    handler = self.handlers.get(call[0].route.handler)
                    if isinstance(handler, BatchHandler):
                        split = self._run_batch(handler, call, job)
                        calls.extendleft([payload] for payload in reversed(split))
                    else:
                        self._run_one(call[0], job)
        finally:
            self.guard.end()
        return job

    def _calls(self, payloads: list[Payload]) -> list[list[Payload]]:
        """What runs together: all payloads of one batch handler, each payload of another handler alone."""
        calls: dict[str | int, list[Payload]] = {}
        for index, payload in enumerate(payloads):
            name = payload.route.handler
            together = isinstance(self.handlers.get(name), BatchHandler)
            calls.setdefault(name if together else index, []).append(payload)
        return list(calls.values())

    def _run_one(self, payload: Payload, job: JobResult) -> None:
        began = self.clock.monotonic()
        documents: list[LoadedDocument] = []
        try:
            documents = [document := LoadedDocument(payload, self.reader.read(payload))]
            result = self._call_handler(document)
        except BaseException as error:  # includes a handler's sys.exit(); no signal handler of ours raises
            self._fail(payload, self._failure(error, documents), began, job)
        else:
            self._complete(document, result, began, job)

    def _call_handler(self, document: LoadedDocument) -> Any:
        payload = document.payload
        name = payload.route.handler
        handler = self.handlers.get(name)
        if handler is None:
            raise HandlerMissing(f"No handler is called {name!r} in the configuration of this worker.")
        if isinstance(handler, HandlerMissing):
            raise handler
        assert not isinstance(handler, BatchHandler)
        return self._call(1, handler, document.reading.value, _context(document))

    def _run_batch(self, handler: BatchHandler, payloads: list[Payload], job: JobResult) -> list[Payload]:
        """Run `payloads` together. When that fails as a whole, it returns those to run one by one."""
        documents: list[LoadedDocument] = []
        for payload in payloads:
            began = self.clock.monotonic()
            try:
                documents.append(LoadedDocument(payload, self.reader.read(payload)))
            except Exception as error:  # only this document fails; the others run
                self._fail(payload, self._failure(error), began, job)
        if not documents:
            return []
        began = self.clock.monotonic()
        results: list[Any] | tuple[Any, ...]
        try:
            results = self._call_batch_handler(handler, documents)
        except BaseException as error:
            if len(documents) > 1:
                self.log.warning(
                    "Handler %s failed for %d documents together, so they are run one by one: %s",
                    documents[0].payload.route.handler,
                    len(documents),
                    self._failure(error, documents).message,
                )
                return [document.payload for document in documents]
            results = [error]
        share = (self.clock.monotonic() - began) / len(documents)
        for document, result in zip(documents, results, strict=True):
            began = self.clock.monotonic() - share
            if isinstance(result, BaseException):
                self._fail(document.payload, self._failure(result, [document]), began, job)
            else:
                self._complete(document, result, began, job)
        return []

    def _call_batch_handler(
        self, handler: BatchHandler, documents: list[LoadedDocument]
    ) -> list[Any] | tuple[Any, ...]:
        """One result for each of `documents`. Raises TypeError or ValueError when the handler returns anything else."""
        route = documents[0].payload.route
        context = BatchContext(route.queue, route.handler, tuple(_context(document) for document in documents))
        values = [document.reading.value for document in documents]
        results = self._call(len(documents), handler.function, values, context)
        if not isinstance(results, list | tuple):
            raise TypeError(f"{_BATCH_RULE}, and it returned a value of type {type(results).__name__}")
        if len(results) != len(documents):
            raise ValueError(f"{_BATCH_RULE}, and it returned {len(results)} for {len(documents)}")
        return results

    def _call(self, documents: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the user's `function`, for at most `worker_timeout` for each of `documents`."""
        try:
            with TimeLimit(self.processing.worker_timeout * documents):
                return function(*arguments)
        finally:
            if os.getpid() != self._pid:
                # The handler forked and the child returned: it would run on as a second worker of the same name.
                print("A process that a handler forked came back from the handler; it is ended.", file=sys.stderr)
                sys.stderr.flush()
                os._exit(1)

    def _failure(self, error: BaseException, documents: Sequence[LoadedDocument] = ()) -> Failure:
        readings = [document.reading for document in documents]
        return failure_of(error, readings, self.processing.worker_timeout, self.sealing, self.log)

    def _complete(self, document: LoadedDocument, result: Any, began: float, job: JobResult) -> None:
        """Add the outcome for a handler's `result`; a failure if JSON cannot hold it."""
        payload = document.payload
        try:
            text = encode_result(result, self.processing.max_result_bytes)
            reading = document.reading
            if self.sealing:
                text, reading = self.sealing.sealed(text), self.sealing.sealed_reading(reading)
        except BaseException as error:  # methods of the result may raise anything
            self._fail(payload, self._failure(error, [document]), began, job)
        else:
            read = intake_report(reading, document.reading.text)
            job.result_bytes += len(text) + (len(read.document) if read else 0)
            self._end(payload, began, job, kind="done", result=text, read=read)

    def _fail(self, payload: Payload, failure: Failure, began: float, job: JobResult) -> None:
        """Add a retry, or the outcome that rejects the document."""
        attempts = payload.attempts + 1
        failed = attempts - payload.losses  # a lost worker is no failure of the document
        if failure.retryable and failed <= self.processing.retry_attempts:
            at = self.clock.now() + backoff(self.processing.retry_delay, failed, self._random.random())
            next_attempt = msgspec.structs.replace(payload, attempts=attempts)
            job.retries.append(Retry(next_attempt, at, f"{failure.code}: {failure.message}"))
        else:
            fields = {"code": failure.code, "message": failure.message, "position": failure.position}
            self._end(payload, began, job, kind="rejected", **fields)

    def _end(self, payload: Payload, began: float, job: JobResult, **fields: Any) -> None:
        """Add an outcome with `fields` of its own."""
        outcome = Outcome(
            id=payload.id,
            group=payload.group,
            attempts=payload.attempts + 1,
            completed_at=self.clock.now(),
            route=payload.route,
            seconds=self.clock.monotonic() - began,
            rq_job_id=job.job_id,
            **fields,
        )
        job.outcomes.append(outcome)


def _context(document: LoadedDocument) -> Context:
    payload, route = document.payload, document.payload.route
    return Context(
        id=payload.id,
        source=payload.source,
        priority=route.priority,
        queue=route.queue,
        handler=route.handler,
        attempt=payload.attempts + 1,
        received_at=payload.received_at,
        text=document.reading.text,
        country=route.country,
        city=route.city,
        industry=route.industry,
        language=route.language,
        tags=tuple(route.tags),
    )


def backoff(delay: float, attempt: int, jitter: float) -> float:
    """Seconds until the next attempt after `attempt` failed ones: doubled each time, then 50 to 100 % of that.

    `jitter` is from 0 to 1: documents that failed together do not come back together. This is "equal jitter" of
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    whole: float = min(delay * 2 ** (attempt - 1), _MAX_BACKOFF)
    return whole / 2 + jitter * whole / 2
