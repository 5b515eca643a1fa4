"""One torture run: start a fleet, drop documents, strike blows, wait for the end, and balance the account."""

import errno
import logging
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from llm_scheduler.api.local import embedded_server
from llm_scheduler.api.local.child_processes import Supervisor
from llm_scheduler.api.local.daemons import STOPPING_ORDER, daemons, start_server
from llm_scheduler.api.torture.balance import TortureAccount, TortureDocument, balance, claims, digest_of, originals
from llm_scheduler.api.torture.blows import Blows
from llm_scheduler.api.torture.small_disk import DiskUnavailable, SmallDisk, mount
from llm_scheduler.jobs.config import Config, Directories, Processing
from llm_scheduler.jobs.config.model import Logging
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.process.runtime import URL_VARIABLE
from llm_scheduler.jobs.process.termination import PARENT_VARIABLE, Stop

_DRAIN_SECONDS = 120.0
_DROPPING_SHARE = 0.75  # of the time of the blows, in which documents are dropped
_DISK_BYTES = 96 * 1024 * 1024
_DISK_BYTES_EACH = 24 * 1024  # for a document, its result, and the server's records of both


@dataclass
class TortureProgress:
    """How far a run is, and its blows so far."""

    seconds: float = 0.0
    dropped: int = 0
    ended: int = 0
    blows: Counter[str] = field(default_factory=Counter)
    no_disk: str = ""  # why the disk is not filled; empty if it is
    is_cut_short: bool = False  # stopped before its end


# Is called with what has just happened.
Report = Callable[[str, TortureProgress], None]


class TortureRun:
    """A fleet with its spool in `home`/spool. `output`: the descriptor for the stderr of its processes."""

    def __init__(
        self,
        home: str,
        disk: SmallDisk | None,
        seed: int,
        log: logging.Logger,
        report: Report,
        progress: TortureProgress,
        output: int,
    ) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - a seed to repeat a run by
        self._log = log
        self._report = report
        self._progress = progress
        self._home = home
        spool = os.path.join(home, "spool")
        self.config = Config(
            directories=Directories(
                watch_directory=os.path.join(spool, "raw"),
                output_directory=os.path.join(spool, "processed"),
                archive_directory=os.path.join(spool, "archive"),
                error_directory=os.path.join(spool, "errors"),
                temp_directory=os.path.join(spool, "temp"),
            ),
            processing=Processing(
                batch_timeout=2,
                batch_size=20,
                settle_seconds=0.5,
                scan_interval=1,
                retry_delay=0.2,
                worker_timeout=2,
                worker_memory=256 * 1024 * 1024,
            ),
            handlers={"default": "llm_scheduler.api.torture.poison:handle"},
            logging=Logging(file=os.path.join(home, "scheduler.log")),
        )
        self._stop = Stop()
        self._dropped: dict[str, TortureDocument] = {}
        self._pending: TortureDocument | None = None  # there was no room on the disk for it yet
        url = embedded_server.socket_url(self.config)
        self._redis = connect(url)
        self._supervisor = Supervisor({**os.environ, PARENT_VARIABLE: str(os.getpid()), URL_VARIABLE: url}, log, output)
        self._blows = Blows(self._supervisor, self._redis, disk, self._chance, self._go_on)

    def run(self, documents: Iterator[TortureDocument], count: int, seconds: float) -> TortureAccount:
        """Strike blows for `seconds`, and drop `count` documents meanwhile. Then wait for the end, and balance."""
        self._stop.handle_signals()
        self._waiting, self._count, self._dropping = documents, count, seconds * _DROPPING_SHARE
        self._started = time.monotonic()
        try:
            self._start_fleet()
            self._strike_for(seconds)
            self._drain()
        finally:
            self._supervisor.stop_in_order(STOPPING_ORDER)
            self._redis.close()
        self._progress.seconds = self._spent()
        self._progress.is_cut_short = bool(self._stop)
        return balance(self.config.directories, self._dropped)

    def _spent(self) -> float:
        return time.monotonic() - self._started

    def _start_fleet(self) -> None:
        path = Path(self._home, "scheduler_config.json")
        path.write_bytes(msgspec.json.encode(self.config))
        os.makedirs(self.config.directories.watch[0], exist_ok=True)
        if not start_server(self._supervisor, self.config, self._redis, self._stop, self._log):
            raise RuntimeError("the server did not start")
        for child in daemons(self.config, path):
            if child.name != "api":
                self._supervisor.start(child)

    def _strike_for(self, seconds: float) -> None:
        next_blow = 0.5
        while (spent := self._spent()) < seconds and not self._stop:
            if spent >= next_blow:
                blow = self._blows.strike()
                self._progress.blows[blow] += 1
                self._say(blow)
                next_blow = self._spent() + self._chance.uniform(0.2, 1.5)
            self._go_on(0.05)
        while self._progress.dropped < self._count and not self._stop:
            self._go_on(0.05)

    def _go_on(self, seconds: float) -> None:
        """Let time pass while the supervisor works, and drop the documents that are due meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stop:
            self._drop()
            self._supervisor.watch()
            self._stop.wait(0.05)

    def _drop(self) -> None:
        """Drop what is due, as far as there is room for it."""
        due = int(self._count * min(1.0, self._spent() / self._dropping))
        while self._progress.dropped < due:
            self._pending = self._pending or next(self._waiting)
            if not self._drop_one(self._pending):
                return
            self._pending = None

    def _drop_one(self, document: TortureDocument) -> bool:
        """Drop `document`; False if the disk is full."""
        number = self._progress.dropped
        folder = os.path.join(self.config.directories.watch[0], f"part {number % 7}")
        unfinished = os.path.join(folder, f".{number}.tmp")
        # White space makes every content unique: the account identifies documents by content.
        raw = b" " * (number % 50) + document.raw + b"\n" * (1 + number // 50)
        try:
            os.makedirs(folder, exist_ok=True)
            with open(unfinished, "wb") as file:
                file.write(raw)
            os.rename(unfinished, os.path.join(folder, document.name))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False
        if digest_of(raw) in self._dropped:
            raise RuntimeError("two documents are equal")
        self._dropped[digest_of(raw)] = document
        self._progress.dropped += 1
        return True

    def _drain(self) -> None:
        self._say("the blows are over; documents in flight are finished")
        end = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < end and not self._stop:
            places = self.config.directories
            if len(originals(places)) >= len(self._dropped) and not any(claims(places)):
                break
            self._go_on(0.5)  # all documents are dropped
        self._say("the fleet stops")

    def _say(self, words: str) -> None:
        self._progress.seconds = self._spent()
        self._progress.ended = len(originals(self.config.directories))
        self._report(words, self._progress)


def torture(
    documents: Iterator[TortureDocument], count: int, seconds: float, seed: int, report: Report, keep: bool = False
) -> tuple[TortureAccount, TortureProgress, str | None]:
    """Run in a temporary folder. Returns the account, the progress, and the folder if it was kept.

    It is always kept if the account does not balance.
    """
    home = tempfile.mkdtemp(prefix="llm-torture-")
    spool = os.path.join(home, "spool")
    os.mkdir(spool)
    progress = TortureProgress()
    disk = None
    try:
        disk = mount(spool, _DISK_BYTES + count * _DISK_BYTES_EACH)
        report("a small disk of its own is mounted", progress)
    except DiskUnavailable as error:
        progress.no_disk = str(error)
        report(f"the disk is not filled: {error}", progress)
    log = logging.getLogger("llm.torture")
    handler = logging.FileHandler(os.path.join(home, "torture.log"))
    log.addHandler(handler)
    log.propagate = False
    with open(os.path.join(home, "stderr.log"), "ab") as stderr:
        account = TortureRun(home, disk, seed, log, report, progress, stderr.fileno()).run(documents, count, seconds)
    log.removeHandler(handler)
    handler.close()
    if account.balanced and not keep:
        shutil.rmtree(home, ignore_errors=True)
        return account, progress, None
    if disk is not None:  # the disk ends with this process
        shutil.copytree(spool, os.path.join(home, "spool copied"), symlinks=True, ignore=_no_sockets)
    return account, progress, home


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder, name).is_socket()]
