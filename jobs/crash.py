"""What is known of a worker's death: how it ended, how much memory it had, and the last that it said."""

import re
import signal
from collections.abc import Sequence
from typing import Literal

import msgspec

from llm_scheduler.jobs.codes import Code

# Ends a worker whose handler ran out of memory: its heap is in doubt.
EXIT_OUT_OF_MEMORY = 83

_LINES = 20
_DUMP_LINES = 40  # a stack's innermost frames come first, so a dump is kept from its beginning
_CHARACTERS = 4096
_MAX_LINE = 400
# The first lines of what faulthandler prints, on a fatal signal and when a document's time is up for good.
_DUMP = re.compile(r"Fatal Python error: |Timeout \(\d+:\d\d:\d\d(\.\d+)?\)!$")
_FRAME = re.compile(r"Fatal Python error: [\w ]+$|Timeout \(|(Current t|T)hread 0x|  File \".*\", line \d+ in \S+$")
_TIMEOUT = re.compile(r"^Timeout \(\d+:\d\d:\d\d(\.\d+)?\)!$", re.MULTILINE)


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's death. `at` is in RFC 3339; `peak_memory_bytes` is the largest resident size of its whole life.

    `signal` or `exit_status` says how the process ended; `cause` what that means: `hang` is a handler that ran over its
    time and could not be interrupted, `memory` one that ran into `processing.worker_memory`.
    """

    worker: str
    at: str
    cause: Literal["signal", "exit", "hang", "memory"]
    signal: str | None
    exit_status: int | None
    peak_memory_bytes: int
    last_lines: list[str]


def evidence_of(
    worker: str, at: str, exit_code: int, peak_memory_bytes: int, said: bytes, *, quotes: bool = True
) -> Evidence:
    """`exit_code` as `os.waitstatus_to_exitcode` gives it; `said`: the end of what the worker wrote to stderr.

    Without `quotes` only a dump of its stack is kept of that: what a handler prints may hold what is to be hidden.
    """
    text = said.decode("utf-8", "replace")
    cause: Literal["signal", "exit", "hang", "memory"] = "signal" if exit_code < 0 else "exit"
    if exit_code == EXIT_OUT_OF_MEMORY:
        cause = "memory"
    elif exit_code == 1 and _TIMEOUT.search(text):  # faulthandler's way out has no status of its own
        cause = "hang"
    return Evidence(
        worker=worker,
        at=at,
        cause=cause,
        signal=_signal_name(-exit_code) if exit_code < 0 else None,
        exit_status=exit_code if exit_code >= 0 else None,
        peak_memory_bytes=peak_memory_bytes,
        last_lines=[line for line in last_lines(text) if quotes or _FRAME.match(line)],
    )


def ending(evidence: Evidence) -> str:
    """How the worker ended, to follow "died"."""
    if evidence.cause == "hang":
        return "because its handler could not be interrupted"
    if evidence.cause == "memory":
        return "for want of memory (processing.worker_memory)"
    return f"of {evidence.signal}" if evidence.signal else f"with exit status {evidence.exit_status}"


def verdict(crashes: int, found: Sequence[Evidence]) -> tuple[Code, str]:
    """Code and message of a document that `crashes` workers died with. `found` may tell of fewer of them."""
    if not found:
        unknown = "Nothing is known of their end: what watched them died with them."
        return Code.WORKER_LOST, f"{crashes} workers died with this document in hand. {unknown}"
    last = found[-1]
    facts = f"peak memory {last.peak_memory_bytes / 1e6:.0f} MB."
    if gist := " | ".join(_gist(last.last_lines)):
        facts += f" Last lines: {gist}"
    if last.cause == "hang":
        said = "The handler ran longer than worker_timeout and could not be interrupted"
        return Code.TIMEOUT, f"{said}: {crashes} workers were ended with this document in hand; the last: {facts}"
    which = "the last" if len(found) == crashes else "one of them"
    return Code.WORKER_LOST, f"{crashes} workers died with this document in hand, {which} {ending(last)}; {facts}"


def last_lines(text: str) -> list[str]:
    """The lines worth keeping: the last few, or a dump of the stack from its beginning."""
    lines = [line.rstrip()[:_MAX_LINE] for line in text.splitlines() if line.strip()]
    dump = next((index for index in reversed(range(len(lines))) if _DUMP.match(lines[index])), None)
    if dump is not None:
        lines = lines[max(0, dump - 2) : dump + _DUMP_LINES]
        return _fitting(lines)
    return _fitting(lines[-_LINES:][::-1])[::-1]


def _fitting(lines: list[str]) -> list[str]:
    room = _CHARACTERS
    kept = []
    for line in lines:
        room -= len(line)
        if room < 0:
            break
        kept.append(line)
    return kept


def _gist(lines: Sequence[str]) -> list[str]:
    """Three lines for a message: a dump's first and the innermost frames of its last thread, or else the last."""
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
