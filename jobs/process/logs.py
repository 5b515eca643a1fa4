"""Logging: one line for each event, for people or as JSON, to stderr and (in local mode) to a rotated file.

Several processes write the same file. Only `llmctl up` rotates it (`rotate`); the others reopen it when it has been
moved (`WatchedFileHandler`).
"""

import logging
import os
import sys
import time
from functools import lru_cache
from logging.handlers import RotatingFileHandler, WatchedFileHandler
from pathlib import Path

from pythonjsonlogger.msgspec import MsgspecFormatter

from llm_scheduler.jobs.config.model import Logging
from llm_scheduler.jobs.process import journal

ROTATE_BYTES = 10 * 1024 * 1024
KEPT_FILES = 5


def setup(config: Logging, process: str, file: str | None = None, *, quiet: bool = False) -> logging.Logger:
    """Send all log records to stderr (or the journal), and to `file` if given. Returns the process's logger.

    `quiet` leaves only warnings on stderr: a person reads it, and the rest is in the file.
    """
    formatter = _formatter(config, process)
    in_journal = journal.is_in_use(os.environ)
    console = journal.JournalHandler(process) if in_journal else logging.StreamHandler(sys.stderr)
    if quiet and file:
        console.setLevel("WARNING")
    handlers: list[logging.Handler] = [console]
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(WatchedFileHandler(file, encoding="utf-8", errors="backslashreplace"))
    root = logging.getLogger()
    root.handlers.clear()
    for handler in handlers:
        # The journal adds the time, the priority and the process itself.
        bare = handler is console and in_journal and config.format != "json"
        handler.setFormatter(OneLine("%(message)s") if bare else formatter)
        root.addHandler(handler)
    root.setLevel(config.level.upper())
    # No line shows the place in the code, the thread or the process, and they take half of a log call's time: see
    # "Optimization" in https://docs.python.org/3/howto/logging.html.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for chatty in ("watchdog", "rq", "rq.worker", "rq.job", "rq_scheduler.scheduler", "asyncio"):
        logging.getLogger(chatty).setLevel("WARNING")
    return logging.getLogger(f"llm.{process}")


def _formatter(config: Logging, process: str) -> logging.Formatter:
    if config.format == "json":
        return MsgspecFormatter(
            ["asctime", "levelname", "message"],
            rename_fields={"asctime": "time", "levelname": "level", "exc_info": "traceback"},
            static_fields={"process": process, "pid": os.getpid()},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    return OneLine(f"%(asctime)s.%(msecs)03d %(levelname)-7s {process}: %(message)s", "%Y-%m-%d %H:%M:%S")


class OneLine(logging.Formatter):
    """One line for each event, with control characters escaped: a file name may hold a newline."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _second(int(record.created), datefmt or self.default_time_format)

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        return line if line.isprintable() else line.translate(_CONTROLS)


@lru_cache(maxsize=4)
def _second(epoch: int, form: str) -> str:
    """The local time, cached: thousands of lines share a second."""
    return time.strftime(form, time.localtime(epoch))


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def rotate(file: str) -> None:
    """Move a log larger than `ROTATE_BYTES` aside, and keep `KEPT_FILES` of them. Only `llmctl up` calls it."""
    try:
        if os.path.getsize(file) >= ROTATE_BYTES:
            RotatingFileHandler(file, backupCount=KEPT_FILES, delay=True).doRollover()
    except OSError as error:
        logging.getLogger("llm.logs").warning("Could not rotate %s: %s", file, error)
