"""What an exception means for the document that raised it."""

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.handler import HandlerMissing, Reject
from llm_scheduler.jobs.intake import IntakeRejection, ReadDocument
from llm_scheduler.jobs.receipt import Position
from llm_scheduler.jobs.sealing import Sealing, WrongKey
from llm_scheduler.jobs.time_limit import OutOfTime
from llm_scheduler.jobs.worker.result_json import ResultTooLarge

_MAX_MESSAGE = 2000


class OutOfMemory(BaseException):
    """A handler ran out of memory. The process must end: other allocations may have failed too."""


@dataclass(frozen=True)
class Failure:
    """Why a document has no result. `code` is one of `llm_scheduler.jobs.codes`; `binary` has a kind after a colon."""

    code: str
    message: str
    position: Position | None = None
    retryable: bool = False


def failure_of(
    error: BaseException,
    documents: Sequence[ReadDocument],
    worker_timeout: float,
    sealing: Sealing | None,
    log: logging.Logger,
) -> Failure:
    """The failure for `error` from a call with `documents`; it quotes no sensitive value. Raises OutOfMemory."""
    if isinstance(error, MemoryError):
        raise OutOfMemory from error
    failure = _failure(error, len(documents), worker_timeout)
    if failure is None:
        if sealing is None:
            log.debug("Handler error", exc_info=error)
        else:  # the exception's message may quote the document
            log.debug("Handler error, at\n%s", "".join(traceback.format_tb(error.__traceback__)))
        last_line = traceback.format_exception_only(error)[-1].strip()
        failure = Failure(Code.HANDLER_FAILED, _clean(last_line), retryable=True)
    if sealing:
        for document in documents:
            failure = replace(failure, message=sealing.hidden(failure.message, document.text))
    return failure


def _failure(error: BaseException, documents: int, worker_timeout: float) -> Failure | None:
    """None for an exception of the handler's own."""
    if isinstance(error, IntakeRejection):
        return Failure(error.name, error.message, error.position)
    if isinstance(error, Reject):
        return Failure(Code.HANDLER_REJECTED, _clean(str(error)) or "The handler gave no reason.")
    if isinstance(error, WrongKey):
        return Failure(Code.WRONG_KEY, str(error), retryable=True)
    if isinstance(error, HandlerMissing):
        return Failure(Code.HANDLER_MISSING, str(error))
    if isinstance(error, OutOfTime):
        limit = f"worker_timeout ({worker_timeout:g} s)"
        times = f" for each of {documents} documents" if documents > 1 else ""
        return Failure(Code.TIMEOUT, f"The handler ran longer than {limit}{times}.", retryable=True)
    if isinstance(error, ResultTooLarge):
        return Failure(Code.HANDLER_FAILED, str(error))
    return None


def _clean(message: str) -> str:
    """`message` cut to a bounded length, with only characters that UTF-8 can encode."""
    return message[:_MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()
