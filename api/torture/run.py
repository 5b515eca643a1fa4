"""One run of a torture: the fleet, the dropping of documents, the blows, and the account at the end."""

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
from llm_scheduler.api.local.up import STOPPING_ORDER, Supervisor, daemons, start_server
from llm_scheduler.api.torture.balance import Account, Specimen, balance, claims, digest_of, originals
from llm_scheduler.api.torture.blows import Blows
from llm_scheduler.api.torture.small_disk import Disk, NoDisk, mounted
from llm_scheduler.jobs.config import Config, Directories, Logging, Processing
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.process.startup import PARENT_VARIABLE, URL_VARIABLE, Stop

_DRAIN_SECONDS = 120.0
_SHARE_DROPPING = 0.75  # of the time of the blows
_DISK_BYTES = 96 * 1024 * 1024
_DISK_BYTES_EACH = 24 * 1024  # of document, result, and what the server writes of them


@dataclass
class Course:
    """How far a run is, and what was done to it."""

    seconds: float = 0.0
    dropped: int = 0
    ended: int = 0
    blows: Counter[str] = field(default_factory=Counter)
    no_disk: str = ""  # why the disk is not filled
    is_cut_short: bool = False  # somebody has stopped it


# Is told what has just happened.
Tell = Callable[[str, Course], None]


class Rehearsal:
    """A fleet with a spool in the folder `home`/spool. `output`: where the processes' stderr goes."""

    def __init__(
        self, home: str, disk: Disk | None, seed: int, log: logging.Logger, tell: Tell, course: Course, output: int
    ) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - a seed to repeat a run by
        self._log = log
        self._tell = tell
        self._course = course
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
        self._disk = disk
        self._stop = Stop()
        self._dropped: dict[str, Specimen] = {}
        self._in_hand: Specimen | None = None  # there was no room for it yet
        self._redis = connect(embedded_server.socket_url(self.config))
        self._supervisor = Supervisor(self._environment(), log, output)
        self._blows = Blows(self._supervisor, self._redis, disk, self._chance, self._go_on)

    def run(self, specimens: Iterator[Specimen], count: int, seconds: float) -> Account:
        """Drop `count` specimens over three quarters of `seconds`, with blows all the while; drain; balance."""
        self._stop.on_signals()
        self._waiting, self._count, self._dropping = specimens, count, seconds * _SHARE_DROPPING
        self._began = time.monotonic()
        try:
            self._begin()
            self._beat(seconds)
            self._drain()
        finally:
            self._supervisor.stop_in_order(STOPPING_ORDER)
            self._redis.close()
        self._course.seconds = self._spent()
        self._course.is_cut_short = bool(self._stop)
        return balance(self.config.directories, self._dropped)

    def _spent(self) -> float:
        return time.monotonic() - self._began

    # The fleet

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            PARENT_VARIABLE: str(os.getpid()),
            URL_VARIABLE: embedded_server.socket_url(self.config),
        }

    def _begin(self) -> None:
        path = Path(self._home, "scheduler_config.json")
        path.write_bytes(msgspec.json.encode(self.config))
        os.makedirs(self.config.directories.watch[0], exist_ok=True)
        if not start_server(self._supervisor, self.config, self._redis, self._stop, self._log):
            raise RuntimeError("the server did not start")
        for child in daemons(self.config, path):
            if child.name != "api":
                self._supervisor.start(child)

    def _patiently(self, seconds: float) -> None:
        """Let time pass with the supervisor doing its work."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stop:
            self._supervisor.watch()
            self._stop.wait(0.05)

    # Documents and blows

    def _beat(self, seconds: float) -> None:
        next_blow = 0.5
        while (spent := self._spent()) < seconds and not self._stop:
            if spent >= next_blow:
                blow = self._blows.strike()
                self._course.blows[blow] += 1
                self._say(blow)
                next_blow = self._spent() + self._chance.uniform(0.2, 1.5)
            self._go_on(0.05)
        while self._course.dropped < self._count and not self._stop:
            self._go_on(0.05)

    def _go_on(self, seconds: float) -> None:
        """Let time pass, and documents arrive in it."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stop:
            self._drop()
            self._patiently(min(left, 0.05))

    def _drop(self) -> None:
        """Drop what is due by now, as far as there is room for it."""
        due = int(self._count * min(1.0, self._spent() / self._dropping))
        while self._course.dropped < due:
            specimen = self._in_hand or next(self._waiting)
            self._in_hand = specimen
            if not self._drop_one(specimen):
                return
            self._in_hand = None

    def _drop_one(self, specimen: Specimen) -> bool:
        """Drop `specimen`; False when the disk is full."""
        number = self._course.dropped
        folder = os.path.join(self.config.directories.watch[0], f"part {number % 7}")
        unfinished = os.path.join(folder, f".{number}.tmp")
        # White space around it makes every content another one: the account goes by content.
        raw = b" " * (number % 50) + specimen.raw + b"\n" * (1 + number // 50)
        try:
            os.makedirs(folder, exist_ok=True)
            with open(unfinished, "wb") as file:
                file.write(raw)
            os.rename(unfinished, os.path.join(folder, specimen.name))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False
        if digest_of(raw) in self._dropped:
            raise RuntimeError("two specimens are the same")
        self._dropped[digest_of(raw)] = specimen
        self._course.dropped += 1
        return True

    def _drain(self) -> None:
        self._say("the blows are over; what is in flight comes to its end")
        end = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < end and not self._stop:
            places = self.config.directories
            if len(originals(places)) >= len(self._dropped) and not any(claims(places)):
                break
            self._patiently(0.5)
        self._say("the fleet stops")

    def _say(self, words: str) -> None:
        self._course.seconds = self._spent()
        self._course.ended = len(originals(self.config.directories))
        self._tell(words, self._course)


def torture(
    specimens: Iterator[Specimen], count: int, seconds: float, seed: int, tell: Tell, keep: bool = False
) -> tuple[Account, Course, str | None]:
    """Run it in a temporary folder. Returns the account, what was done, and the folder if it was kept (always, when
    the account doesn't balance)."""
    home = tempfile.mkdtemp(prefix="llm-torture-")
    spool = os.path.join(home, "spool")
    os.mkdir(spool)
    course = Course()
    disk = None
    try:
        disk = mounted(spool, _DISK_BYTES + count * _DISK_BYTES_EACH)
    except NoDisk as error:
        course.no_disk = str(error)
    tell(
        f"the disk is not filled: {course.no_disk}" if course.no_disk else "a small disk of its own is mounted", course
    )
    log = logging.getLogger("llm.torture")
    log.addHandler(logging.FileHandler(os.path.join(home, "torture.log")))
    log.propagate = False
    with open(os.path.join(home, "stderr.log"), "ab") as stderr:
        account = Rehearsal(home, disk, seed, log, tell, course, stderr.fileno()).run(specimens, count, seconds)
    for handler in list(log.handlers):
        handler.close()
        log.removeHandler(handler)
    if account.balanced and not keep:
        shutil.rmtree(home, ignore_errors=True)
        return account, course, None
    if disk is not None:  # it goes with this process
        shutil.copytree(spool, os.path.join(home, "spool copied"), symlinks=True, ignore=_no_sockets)
    return account, course, home


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder, name).is_socket()]
