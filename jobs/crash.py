"""Crash reports: how a worker process ended, its memory, and the last lines that it printed."""

import re
import signal
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import msgspec

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.exit_codes import ExitCode

_MAX_LINES = 20
_MAX_DUMP_LINES = 40  # from its beginning: a stack dump begins with the innermost frames
_MAX_CHARACTERS = 4096
_MAX_LINE = 400
# How faulthandler's dumps begin: after a fatal signal, and when a handler hangs.
_DUMP = re.compile(r"Fatal Python error: |Timeout \(\d+:\d\d:\d\d(\.\d+)?\)!$")
_FRAME = re.compile(r"Fatal Python error: [\w ]+$|Timeout \(|(Current t|T)hread 0x|  File \".*\", line \d+ in \S+$")
_TIMEOUT = re.compile(r"^Timeout \(\d+:\d\d:\d\d(\.\d+)?\)!$", re.MULTILINE)


class CrashReport(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one worker. `at` is in RFC 3339; `peak_memory_bytes` is the largest resident size of its life.

    Either `signal` or `exit_status` is set. `cause`: `hang` is a handler that ran longer than its time and could not be
    interrupted, `memory` one that reached `processing.worker_memory`.
    """

    worker: str
    at: str
    cause: Literal["signal", "exit", "hang", "memory"]
    signal: str | None
    exit_status: int | None
    peak_memory_bytes: int
    last_lines: list[str]


def crash_report(
    worker: str, at: str, exit_code: int, peak_memory_bytes: int, stderr: bytes, *, quotes: bool = True
) -> CrashReport:
    """`exit_code` is that of `os.waitstatus_to_exitcode`, `stderr` the last part of what the worker printed.

    Without `quotes` only a stack dump is kept of it: what a handler prints may hold sensitive values.
    """
    text = stderr.decode("utf-8", "replace")
    cause: Literal["signal", "exit", "hang", "memory"] = "signal" if exit_code < 0 else "exit"
    if exit_code == ExitCode.OUT_OF_MEMORY:
        cause = "memory"
    elif exit_code == 1 and _TIMEOUT.search(text):  # faulthandler exits with 1, like a Python error
        cause = "hang"
    return CrashReport(
        worker=worker,
        at=at,
        cause=cause,
        signal=_signal_name(-exit_code) if exit_code < 0 else None,
        exit_status=exit_code if exit_code >= 0 else None,
        peak_memory_bytes=peak_memory_bytes,
        last_lines=[line for line in last_lines(text) if quotes or _FRAME.match(line)],
    )


def describe_end(report: CrashReport) -> str:
    """How the worker ended, to follow "died"."""
    if report.cause == "hang":
        return "because its handler could not be interrupted"
    if report.cause == "memory":
        return "for want of memory (processing.worker_memory)"
    return f"of {report.signal}" if report.signal else f"with exit status {report.exit_status}"


def verdict(crashes: int, reports: Sequence[CrashReport]) -> tuple[Code, str]:
    """Error code and message for a document with which `crashes` workers died. Some may have left no report."""
    died = f"{crashes} workers died with this document in hand"
    if not reports:
        return Code.WORKER_LOST, f"{died}. How they ended is not known: their supervisors died too."
    last = reports[-1]
    facts = f"peak memory {last.peak_memory_bytes / 1e6:.0f} MB."
    if summary := " | ".join(_summary(last.last_lines)):
        facts += f" Last lines: {summary}"
    if last.cause == "hang":
        reason = "The handler ran longer than worker_timeout and could not be interrupted"
        return Code.TIMEOUT, f"{reason}: {crashes} workers were ended with this document in hand; the last: {facts}"
    which = "the last" if len(reports) == crashes else "one of them"
    return Code.WORKER_LOST, f"{died}, {which} {describe_end(last)}; {facts}"


def last_lines(text: str) -> list[str]:
    """The lines to keep: the last ones, or the stack dump from its beginning."""
    lines = [line.rstrip()[:_MAX_LINE] for line in text.splitlines() if line.strip()]
    dump = next((index for index in reversed(range(len(lines))) if _DUMP.match(lines[index])), None)
    if dump is not None:
        return _bounded(lines[max(0, dump - 2) : dump + _MAX_DUMP_LINES])
    return _bounded(lines[-_MAX_LINES:][::-1])[::-1]


def _bounded(lines: list[str]) -> list[str]:
    """The first lines, up to `_MAX_CHARACTERS` in all."""
    return [line for line, size in zip(lines, accumulate(map(len, lines)), strict=True) if size <= _MAX_CHARACTERS]


def _summary(lines: Sequence[str]) -> list[str]:
    """Three lines: the last ones, or a dump's first line and the two innermost frames of its last thread."""
    dump = next((index for index in range(len(lines)) if _DUMP.match(lines[index])), None)
    if dump is None:
        return [line.strip() for line in lines[-3:]]
    heads = [index for index in range(dump, len(lines)) if "(most recent call first)" in lines[index]]
    inner = lines[heads[-1] + 1 : heads[-1] + 3] if heads else []
    return [line.strip() for line in (lines[dump], *inner)]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
