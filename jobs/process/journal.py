"""Logging to the systemd journal with priorities and fields: `journalctl -p err`, `journalctl DOCUMENT_ID=01M8...`.

The protocol is https://systemd.io/JOURNAL_NATIVE_PROTOCOL/: one datagram for each entry, with `FIELD=value` lines. A
value of several lines has its length in front.
"""

import logging
import os
import socket
import struct
import sys
from collections.abc import MutableMapping

SOCKET = "/run/systemd/journal/socket"
# A process whose stderr is the journal sets it for the processes that it forks: their stderr may be a pipe to it.
VARIABLE = "LLM_JOURNAL"

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # syslog(3)
_MAX_BYTES = 32 * 1024  # for one datagram: a longer message is cut
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def is_in_use(environ: MutableMapping[str, str]) -> bool:
    """Whether what this process writes to stderr goes to the journal: `$JOURNAL_STREAM` (systemd.exec(5)) names it."""
    if environ.get(VARIABLE) == "1":
        return True
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    if environ.get("JOURNAL_STREAM") != f"{status.st_dev}:{status.st_ino}" or not os.path.exists(SOCKET):
        return False
    environ[VARIABLE] = "1"
    return True


class JournalHandler(logging.Handler):
    """Sends each record with its priority, and its `extra` as fields of the same names."""

    def __init__(self, process: str, address: str = SOCKET) -> None:
        super().__init__()
        self._address = address
        self._always = {"SYSLOG_IDENTIFIER": f"llm-{process}", "LLM_PROCESS": process}

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record, or print it on stderr when that fails."""
        text = self.format(record)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(self._entry(record, text), self._address)
        except OSError:
            print(text, file=sys.stderr)

    def _entry(self, record: logging.LogRecord, text: str) -> bytes:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        fields = {"MESSAGE": text, "PRIORITY": str(priority), "LOGGER": record.name, **self._always}
        for name, value in vars(record).items():
            if name not in _ORDINARY and value is not None and name.isidentifier() and not name.startswith("_"):
                fields[name.upper()] = str(value)
        return b"".join(_line(name, value) for name, value in fields.items())


def _line(name: str, value: str) -> bytes:
    content = value.encode(errors="backslashreplace")[:_MAX_BYTES]
    if b"\n" not in content:
        return b"%b=%b\n" % (name.encode(), content)
    return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(content)), content)
