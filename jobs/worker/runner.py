"""Running the documents of one RQ job: each through intake and its handler, each to an outcome of its own."""

import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
from rq import get_current_job

from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.config import Intake, Processing
from llm_scheduler.jobs.document import Payload
from llm_scheduler.jobs.handler import BatchContext, BatchHandler, Context, Handler, HandlerMissing, Reject
from llm_scheduler.jobs.intake import Reading, Refused
from llm_scheduler.jobs.receipt import Position
from llm_scheduler.jobs.sealing import Sealing, WrongKey
from llm_scheduler.jobs.store.outcomes import Outcome, Read
from llm_scheduler.jobs.store.rq_job import DocumentJob
from llm_scheduler.jobs.time_limit import OutOfTime, TimeLimit
from llm_scheduler.jobs.worker.reader import Reader, told

# How long after a document's time is up a handler that can't be interrupted (it hangs in C) is given
# before the process ends itself; another worker then finds the document abandoned.
GRACE_SECONDS = 10.0
HELD_BYTES = 64 * 1024 * 1024  # results that a job may come to before the rest of its documents become another job
_NEVER = float("-inf")
_MAX_BACKOFF = 3600.0
_MAX_MESSAGE = 2000
_ASKED_OF_A_BATCH = "handle_batch has to return a list with one result for each document"


class ResultTooLarge(Exception):
    """A handler's result has more bytes than may travel through Redis."""


class OutOfMemory(BaseException):
    """A document's handler ran out of memory. This process is to end: what else failed to allocate, nobody knows."""


@dataclass(frozen=True)
class Again:
    """A document to be tried again, at epoch seconds `at`."""

    payload: Payload
    at: float
    reason: str


@dataclass(frozen=True)
class Rejection:
    """Why a document came to no result; `again`: it may come to one another time.

    `code` is one of `llm_scheduler.jobs.codes`; a binary file's has its kind behind a colon.
    """

    code: str
    message: str
    position: Position | None = None
    again: bool = False


@dataclass
class Ran:
    """What came of a job: outcomes, documents to try again later, and those not begun because of a request to stop or
    because the results so far are enough to hold."""

    outcomes: list[Outcome] = field(default_factory=list)
    again: list[Again] = field(default_factory=list)
    left: list[Payload] = field(default_factory=list)
    held: int = 0  # bytes of results


@dataclass(frozen=True)
class Document:
    """A payload that is a document: how it was read."""

    payload: Payload
    reading: Reading


class Runner:
    """All that running a document takes. One a worker process, made at its start."""

    def __init__(
        self,
        processing: Processing,
        handlers: Mapping[str, Handler | BatchHandler | HandlerMissing],
        clock: Clock,
        stopping: Callable[[], bool],
        log: logging.Logger,
        guard: "HangGuard | None" = None,
        reader: Reader | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        self._processing = processing
        self._handlers = handlers
        self._clock = clock
        self._stopping = stopping
        self._log = log
        self._reader = reader or Reader(processing, Intake())
        self._sealing = sealing
        self._guard = guard or HangGuard(clock)
        self._random = random.Random()  # noqa: S311 - jitter, not a secret
        self._pid = os.getpid()

    def run(self, payloads: list[Payload], job_id: str) -> Ran:
        """Run `payloads`, those of a handler of batches together; a request to stop is heeded between two calls."""
        ran = Ran()
        guard = self._guard
        calls = deque(self._calls(payloads))
        try:
            with alarms():
                while calls:
                    if self._stopping() or ran.held >= HELD_BYTES:
                        ran.left = [payload for call in calls for payload in call]
                        break
                    call = calls.popleft()
                    guard.renew(self._time(call) + GRACE_SECONDS)
                    handler = self._handlers.get(call[0].route.handler)
                    if isinstance(handler, BatchHandler):
                        split = self._run_batch(handler, call, job_id, ran)
                        calls.extendleft([payload] for payload in reversed(split))
                    else:
                        self._run_one(call[0], job_id, ran)
        finally:
            guard.end()
        return ran

    def _calls(self, payloads: list[Payload]) -> list[list[Payload]]:
        """What is run together: all payloads of a handler of batches, each payload of any other handler alone."""
        calls: list[list[Payload]] = []
        batches: dict[str, list[Payload]] = {}
        for payload in payloads:
            name = payload.route.handler
            if name in batches:
                batches[name].append(payload)
                continue
            calls.append([payload])
            if isinstance(self._handlers.get(name), BatchHandler):
                batches[name] = calls[-1]
        return calls

    def _time(self, payloads: Sequence[object]) -> float:
        """Seconds that a call with these documents may take: `worker_timeout` is a document's."""
        return self._processing.worker_timeout * len(payloads)

    def _run_one(self, payload: Payload, job_id: str, ran: Ran) -> None:
        began = self._clock.monotonic()
        documents: list[Document] = []
        try:
            documents = [document := self._read(payload)]
            result = self._handle(document)
        except BaseException as error:  # a handler's sys.exit() too: no signal of ours raises anything else
            self._failed(payload, self._rejection(error, documents), began, job_id, ran)
        else:
            self._done(document, result, began, job_id, ran)

    def _handle(self, document: Document) -> Any:
        payload = document.payload
        name = payload.route.handler
        handler = self._handlers.get(name)
        if handler is None:
            raise HandlerMissing(f"No handler is called {name!r} in the configuration of this worker.")
        if isinstance(handler, HandlerMissing):
            raise handler
        assert not isinstance(handler, BatchHandler)
        return self._call(self._time([payload]), handler, document.reading.value, _context(document))

    def _run_batch(self, handler: BatchHandler, payloads: list[Payload], job_id: str, ran: Ran) -> list[Payload]:
        """Run `payloads` together. Returns those to be run one by one, because the whole of them failed."""
        documents: list[Document] = []
        for payload in payloads:
            began = self._clock.monotonic()
            try:
                documents.append(self._read(payload))
            except Exception as error:  # it is refused alone; its neighbours are run
                self._failed(payload, self._rejection(error), began, job_id, ran)
        if not documents:
            return []
        began = self._clock.monotonic()
        results: list[Any] | tuple[Any, ...]
        try:
            results = self._handle_batch(handler, documents)
        except BaseException as error:
            if len(documents) > 1:
                said = self._rejection(error, documents).message
                self._log.warning(
                    "Handler %s failed for %d documents together, so they are run one by one: %s",
                    documents[0].payload.route.handler,
                    len(documents),
                    said,
                )
                return [document.payload for document in documents]
            results = [error]
        share = (self._clock.monotonic() - began) / len(documents)
        for document, result in zip(documents, results, strict=True):
            began = self._clock.monotonic() - share
            if isinstance(result, BaseException):
                self._failed(document.payload, self._rejection(result, [document]), began, job_id, ran)
            else:
                self._done(document, result, began, job_id, ran)
        return []

    def _handle_batch(self, handler: BatchHandler, documents: list[Document]) -> list[Any] | tuple[Any, ...]:
        """One result for each of `documents`. Raises TypeError or ValueError when the handler returns anything else."""
        route = documents[0].payload.route
        context = BatchContext(route.queue, route.handler, tuple(_context(document) for document in documents))
        values = [document.reading.value for document in documents]
        results = self._call(self._time(documents), handler.function, values, context)
        if not isinstance(results, list | tuple):
            raise TypeError(f"{_ASKED_OF_A_BATCH}, and it returned a value of type {type(results).__name__}")
        if len(results) != len(documents):
            raise ValueError(f"{_ASKED_OF_A_BATCH}, and it returned {len(results)} for {len(documents)}")
        return results

    def _call(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the user's `function`, which has so many seconds."""
        try:
            with TimeLimit(seconds):
                return function(*arguments)
        finally:
            if os.getpid() != self._pid:
                # It has forked, and this is the copy, which would go on as a second worker under the same name.
                print("A process that a handler forked came back from the handler; it is ended.", file=sys.stderr)
                sys.stderr.flush()
                os._exit(1)

    def _read(self, payload: Payload) -> Document:
        return Document(payload, self._reader.read(payload))

    def _rejection(self, error: BaseException, documents: Sequence[Document] = ()) -> Rejection:
        """What `error`, out of a call with these documents, says of them, and nothing that it may not quote."""
        rejection = self._explained(error, len(documents))
        if self._sealing is None:
            return rejection
        for document in documents:
            rejection = replace(rejection, message=self._sealing.hidden(rejection.message, document.reading.text))
        return rejection

    def _explained(self, error: BaseException, documents: int) -> Rejection:
        if isinstance(error, Refused):
            return Rejection(error.name, error.message, error.position)
        if isinstance(error, Reject):
            return Rejection(Code.HANDLER_REJECTED, _sendable(str(error)) or "The handler gave no reason.")
        if isinstance(error, WrongKey):
            return Rejection(Code.WRONG_KEY, str(error), again=True)
        if isinstance(error, HandlerMissing):
            return Rejection(Code.HANDLER_MISSING, str(error))
        if isinstance(error, OutOfTime):
            limit = f"worker_timeout ({self._processing.worker_timeout:g} s)"
            times = f" for each of {documents} documents" if documents > 1 else ""
            return Rejection(Code.TIMEOUT, f"The handler ran longer than {limit}{times}.", again=True)
        if isinstance(error, MemoryError):
            raise OutOfMemory from error
        if isinstance(error, ResultTooLarge):
            return Rejection(Code.HANDLER_FAILED, str(error))
        if self._sealing is None:
            self._log.debug("Handler error", exc_info=error)
        else:  # the error's own words may quote the document
            self._log.debug("Handler error, at\n%s", "".join(traceback.format_tb(error.__traceback__)))
        last_line = traceback.format_exception_only(error)[-1].strip()
        return Rejection(Code.HANDLER_FAILED, _sendable(last_line), again=True)

    def _done(self, document: Document, result: Any, began: float, job_id: str, ran: Ran) -> None:
        """The handler gave `result`; the document is done if JSON can hold it."""
        payload = document.payload
        try:
            text = encode_result(result, self._processing.max_result_bytes)
            reading = document.reading
            if self._sealing:
                text, reading = self._sealing.sealed(text), self._sealing.sealed_reading(reading)
        except BaseException as error:  # a result's own methods may raise anything
            self._failed(payload, self._rejection(error, [document]), began, job_id, ran)
        else:
            ran.held += len(text)
            read = told(reading, document.reading.text)
            ran.held += len(read.document) if read else 0
            ran.outcomes.append(self._outcome(payload, began, job_id, "done", result=text, read=read))

    def _failed(self, payload: Payload, rejection: Rejection, began: float, job_id: str, ran: Ran) -> None:
        """To be tried again, or rejected."""
        attempts = payload.attempts + 1
        failures = attempts - payload.losses  # a worker that was lost is no failure of the document's
        if rejection.again and failures <= self._processing.retry_attempts:
            at = self._clock.now() + backoff(self._processing.retry_delay, failures, self._random.random())
            again = msgspec.structs.replace(payload, attempts=attempts)
            ran.again.append(Again(again, at, f"{rejection.code}: {rejection.message}"))
        else:
            ran.outcomes.append(self._outcome(payload, began, job_id, "rejected", rejection=rejection))

    def _outcome(
        self,
        payload: Payload,
        began: float,
        job_id: str,
        kind: Literal["done", "rejected"],
        *,
        result: bytes = b"",
        rejection: Rejection | None = None,
        read: Read | None = None,
    ) -> Outcome:
        return Outcome(
            kind=kind,
            id=payload.id,
            claim=payload.claim,
            attempts=payload.attempts + 1,
            completed_at=self._clock.now(),
            route=payload.route,
            result=result,
            code=rejection.code if rejection else "",
            message=rejection.message if rejection else "",
            position=rejection.position if rejection else None,
            seconds=self._clock.monotonic() - began,
            rq_job_id=job_id,
            read=read,
        )


def _context(document: Document) -> Context:
    payload = document.payload
    return Context(
        id=payload.id,
        source=payload.source,
        priority=payload.route.priority,
        queue=payload.route.queue,
        handler=payload.route.handler,
        attempt=payload.attempts + 1,
        received_at=payload.received_at,
        text=document.reading.text,
        country=payload.route.country,
        city=payload.route.city,
        industry=payload.route.industry,
        language=payload.route.language,
        tags=tuple(payload.route.tags),
    )


def run_documents() -> Ran:
    """The one function that RQ jobs name. It runs inside the worker, which gives the job its runner."""
    job = get_current_job()
    if not isinstance(job, DocumentJob):
        raise TypeError("run_documents() runs only inside llm_scheduler.jobs.worker.loop, on its own kind of job")
    return job.runner.run(job.payloads, job.id)


def backoff(delay: float, attempt: int, jitter: float) -> float:
    """Seconds until the next attempt after `attempt` failed ones: doubled each time, then between 50 and 100 % of it.

    The jitter (0 to 1) keeps documents that failed together from coming back together; see
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ ("equal jitter").
    """
    whole: float = min(delay * 2 ** (attempt - 1), _MAX_BACKOFF)
    return whole / 2 + jitter * whole / 2


def _sendable(message: str) -> str:
    """A handler's words, short enough to keep and in characters that UTF-8 has."""
    return message[:_MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()


def encode_result(result: object, most: int | None = None) -> bytes:
    """A handler's result as JSON text, of at most so many bytes.

    Raises TypeError or ValueError for what JSON can't hold (NaN, say), ResultTooLarge for what is larger.
    """
    text = msgspec.json.encode(result)
    if most is not None and len(text) > most:
        raise ResultTooLarge(
            f"The result is too large: {len(text)} bytes, at most {most} (processing.max_result_bytes)."
        )
    text.decode("utf-8")
    if b"null" in text:
        _refuse_nan(msgspec.to_builtins(result))
    return text


def _refuse_nan(result: object) -> None:
    """msgspec writes NaN and infinities as null: that would change the result without a word."""
    pending = [result]
    while pending:
        value = pending.pop()
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            raise ValueError(f"the handler's result holds {value}, which JSON can't express")
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            pending.extend(value)


class HangGuard:
    """Ends the process when a document hangs in C, where no signal handler of Python's ever runs.

    A watchdog thread of faulthandler's, which needs no interpreter lock, prints the stack and exits. Starting and
    ending that thread costs more than most documents (40 % of a worker's time when it was done for each, 30 % when it
    was done for each job, measured), so it is set anew only when the end it has differs from the one asked for by a
    tenth of the grace, and one that `lingers` is ended by `rest`, which another thread calls now and then.
    """

    def __init__(
        self, clock: Clock, *, lingers: bool = False, told: Callable[[float], None] = lambda seconds: None
    ) -> None:
        """`told` hears how many seconds what begins has."""
        self._clock = clock
        self._lingers = lingers
        self._told = told
        self._lock = threading.Lock()
        self._ends = _NEVER
        self._busy = False

    def renew(self, seconds: float) -> None:
        """What begins now has `seconds`, less at most a tenth of the grace."""
        ends = self._clock.monotonic() + seconds
        self._told(seconds)
        with self._lock:
            self._busy = True
            if not 0 <= ends - self._ends < GRACE_SECONDS / 10:
                self._ends = ends
                faulthandler.dump_traceback_later(seconds, exit=True)

    def end(self) -> None:
        """Nothing runs now."""
        self._busy = False
        if not self._lingers:
            self.rest()

    def rest(self) -> None:
        """Stop watching, unless something runs."""
        with self._lock:
            if not self._busy and self._ends != _NEVER:
                self._ends = _NEVER
                faulthandler.cancel_dump_traceback_later()


@contextmanager
def alarms() -> Iterator[None]:
    """After this block SIGALRM is again what it was before."""
    previous = signal.getsignal(signal.SIGALRM)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, previous)
