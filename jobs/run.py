"""Running the documents of one RQ job: each through intake and its handler, each to an outcome of its own."""

import faulthandler
import logging
import random
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal

import msgspec
from rq import get_current_job

from jobs import intake
from jobs.clock import Clock
from jobs.codes import Code
from jobs.config import Processing
from jobs.document import Packet
from jobs.handler import Context, Handler, HandlerMissing, Reject
from jobs.outcome import Outcome, Position
from jobs.rq_job import DocumentJob

# How long after a document's time is up a handler that can't be interrupted (it hangs in C) is given
# before the process ends itself; another worker then finds the document abandoned.
GRACE_SECONDS = 10.0
_LONGEST_BACKOFF = 3600.0
_LONGEST_MESSAGE = 2000


class OutOfTime(BaseException):
    """The document's time is up. Not an `Exception`, so that a handler's `except Exception` doesn't swallow it."""


@dataclass(frozen=True)
class Again:
    """A document to be tried again, at epoch seconds `at`."""

    packet: Packet
    at: float
    reason: str


@dataclass(frozen=True)
class Rejection:
    """Why a document came to no result; `again`: it may come to one another time."""

    code: Code
    message: str
    position: Position | None = None
    again: bool = False


@dataclass
class Ran:
    """What came of a job: outcomes, documents to try again later, and those not begun because of a request to stop."""

    outcomes: list[Outcome] = field(default_factory=list)
    again: list[Again] = field(default_factory=list)
    left: list[Packet] = field(default_factory=list)


class Runner:
    """All that running a document takes. One a worker process, made at its start."""

    def __init__(
        self,
        processing: Processing,
        handlers: Mapping[str, Handler | HandlerMissing],
        clock: Clock,
        stopping: Callable[[], bool],
        log: logging.Logger,
    ) -> None:
        self._processing = processing
        self._handlers = handlers
        self._clock = clock
        self._stopping = stopping
        self._log = log
        self._limits = intake.Limits(processing.max_document_bytes, processing.max_depth)
        self._random = random.Random()  # noqa: S311 - jitter, not a secret

    def run(self, packets: list[Packet], job_id: str) -> Ran:
        """Run `packets` in order; a request to stop is heeded between two of them."""
        ran = Ran()
        guard = HangGuard(self._processing.worker_timeout + GRACE_SECONDS, self._clock)
        try:
            for index, packet in enumerate(packets):
                if self._stopping():
                    ran.left = packets[index:]
                    break
                guard.renew()
                self._run_one(packet, job_id, ran)
        finally:
            guard.end()
        return ran

    def _run_one(self, packet: Packet, job_id: str, ran: Ran) -> None:
        began = self._clock.monotonic()
        attempt = packet.attempts + 1
        try:
            result = self._handle(packet, attempt)
        except intake.Refused as refused:
            rejection = Rejection(refused.code, refused.message, refused.position)
        except Reject as reject:
            rejection = Rejection(Code.HANDLER_REJECTED, _sendable(str(reject)) or "The handler gave no reason.")
        except HandlerMissing as missing:
            rejection = Rejection(Code.HANDLER_MISSING, str(missing))
        except OutOfTime:
            limit = self._processing.worker_timeout
            rejection = Rejection(
                Code.TIMEOUT, f"The handler ran longer than worker_timeout ({limit:g} s).", again=True
            )
        except BaseException as error:  # a handler's sys.exit() too: no signal of ours raises anything else
            self._log.debug("Handler error", exc_info=error)
            last_line = traceback.format_exception_only(error)[-1].strip()
            rejection = Rejection(Code.HANDLER_FAILED, _sendable(last_line), again=True)
        else:
            ran.outcomes.append(self._outcome(packet, attempt, began, job_id, "done", result=result))
            return
        if rejection.again and attempt <= self._processing.retry_attempts:
            at = self._clock.now() + backoff(self._processing.retry_delay, attempt, self._random.random())
            again = msgspec.structs.replace(packet, attempts=attempt)
            ran.again.append(Again(again, at, f"{rejection.code}: {rejection.message}"))
        else:
            ran.outcomes.append(self._outcome(packet, attempt, began, job_id, "rejected", rejection=rejection))

    def _handle(self, packet: Packet, attempt: int) -> bytes:
        """The handler's result as JSON text."""
        text, value = intake.read(packet.text(), self._limits)
        name = packet.route.handler
        handler = self._handlers.get(name)
        if handler is None:
            raise HandlerMissing(f"No handler is called {name!r} in the configuration of this worker.")
        if isinstance(handler, HandlerMissing):
            raise handler
        context = Context(
            id=packet.id,
            source=packet.source,
            priority=packet.route.priority,
            queue=packet.route.queue,
            handler=name,
            attempt=attempt,
            received_at=packet.received_at,
            text=text,
        )
        with time_limit(self._processing.worker_timeout):
            result = handler(value, context)
        return encode_result(result)

    def _outcome(
        self,
        packet: Packet,
        attempt: int,
        began: float,
        job_id: str,
        kind: Literal["done", "rejected"],
        *,
        result: bytes = b"",
        rejection: Rejection | None = None,
    ) -> Outcome:
        route = packet.route
        return Outcome(
            kind=kind,
            id=packet.id,
            claim=packet.claim,
            attempts=attempt,
            completed_at=self._clock.now(),
            priority=route.priority,
            queue=route.queue,
            handler=route.handler,
            reasons=route.reasons,
            result=result,
            code=rejection.code.value if rejection else "",
            message=rejection.message if rejection else "",
            position=rejection.position if rejection else None,
            seconds=self._clock.monotonic() - began,
            rq_job_id=job_id,
        )


def run_documents() -> Ran:
    """The one function that RQ jobs name. It runs inside `jobs.worker`, which gives the job its runner."""
    job = get_current_job()
    if not isinstance(job, DocumentJob):
        raise TypeError("run_documents() runs only inside jobs.worker, on its own kind of job")
    return job.runner.run(job.packets, job.id)


def backoff(delay: float, attempt: int, jitter: float) -> float:
    """Seconds until the next attempt after `attempt` failed ones: doubled each time, then between 50 and 100 % of it.

    The jitter (0 to 1) keeps documents that failed together from coming back together; see
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ ("equal jitter").
    """
    whole: float = min(delay * 2 ** (attempt - 1), _LONGEST_BACKOFF)
    return whole / 2 + jitter * whole / 2


def _sendable(message: str) -> str:
    """A handler's words, short enough to keep and in characters that UTF-8 has."""
    return message[:_LONGEST_MESSAGE].encode("utf-8", "backslashreplace").decode()


def encode_result(result: object) -> bytes:
    """A handler's result as JSON text. Raises TypeError or ValueError for what JSON can't hold (NaN, say)."""
    text = msgspec.json.encode(result)
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
    ending that thread costs more than most documents (40 % of a worker's time when it was done for each, measured), so
    it is renewed only when a tenth of the grace has passed since the last time.
    """

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._renewed = float("-inf")

    def renew(self) -> None:
        """A document begins: it has its time, and the grace less a tenth."""
        now = self._clock.monotonic()
        if now - self._renewed >= GRACE_SECONDS / 10:
            self._renewed = now
            faulthandler.dump_traceback_later(self._seconds, exit=True)

    def end(self) -> None:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block after `seconds`, and again each second while it is swallowed."""

    def ring(signum: int, frame: FrameType | None) -> None:
        raise OutOfTime

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # again: the alarm may have gone off at the very line above
        signal.signal(signal.SIGALRM, previous)
