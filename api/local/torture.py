"""`llmctl torture`: run the fleet on a spool of its own, break it in every way there is, and balance the account.

The account is taken from the disk alone, by content: every document that was dropped has to be in the archive or in the
error folder, once, with one result or report; nothing else may be anywhere.
"""

import hashlib
import json
import logging
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from redis.exceptions import RedisError

from api.local import embedded
from api.local.up import STOPPING_ORDER, Supervisor, daemons, start_server
from jobs.config import Config, Directories, Logging, Processing
from jobs.connection import connect
from jobs.process import PARENT_VARIABLE, URL_VARIABLE, Stop

LONGEST_OUTAGE = 5.0
LONGEST_FREEZE = 8.0
_DRAIN_SECONDS = 120.0
_REPORT = ".error.json"


class Specimen(msgspec.Struct, frozen=True):
    """A file to drop."""

    name: str
    raw: bytes


@dataclass
class Account:
    """What was dropped and where it ended. `balanced` is the verdict."""

    seed: int
    dropped: int = 0
    done: int = 0
    rejected: int = 0
    in_flight: int = 0
    missing: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    disagreeing: list[str] = field(default_factory=list)
    blows: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def balanced(self) -> bool:
        """In = done + rejected, each once, and nothing else."""
        wrong = self.missing or self.duplicates or self.strangers or self.disagreeing or self.in_flight
        return not wrong and self.dropped == self.done + self.rejected


class Torture:
    """One run. `tell` is given a line for people now and then; `output` is where the processes' stderr goes."""

    def __init__(self, home: str, seed: int, log: logging.Logger, tell: Callable[[str], None], output: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - a seed to repeat a run by
        self._log = log
        self._tell = tell
        self.config = Config(
            directories=Directories(
                watch_directory=os.path.join(home, "raw"),
                output_directory=os.path.join(home, "processed"),
                archive_directory=os.path.join(home, "archive"),
                error_directory=os.path.join(home, "errors"),
                temp_directory=os.path.join(home, "temp"),
            ),
            processing=Processing(batch_timeout=2, batch_size=20, settle_seconds=0.5, scan_interval=1, retry_delay=0.2),
            logging=Logging(file=os.path.join(home, "scheduler.log")),
        )
        self._home = home
        self._stop = Stop()
        self.account = Account(seed)
        self._hashes: dict[str, str] = {}
        self._redis = connect(embedded.socket_url(self.config))
        self._supervisor = Supervisor(self._environment(), log, output)

    def run(self, specimens: Iterator[Specimen], count: int, seconds: float) -> Account:
        """Drop `count` specimens over three quarters of `seconds`, with blows all the while; drain; balance."""
        self._stop.on_signals()
        began = time.monotonic()
        try:
            self._begin()
            self._beat(specimens, count, began, seconds)
            self._drain()
        finally:
            self._supervisor.stop_in_order(STOPPING_ORDER)
            self._redis.close()
        self._balance()
        self.account.seconds = time.monotonic() - began
        return self.account

    # The fleet

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            PARENT_VARIABLE: str(os.getpid()),
            URL_VARIABLE: embedded.socket_url(self.config),
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

    # Blows

    def _beat(self, specimens: Iterator[Specimen], count: int, began: float, seconds: float) -> None:
        dropping = seconds * 0.75
        next_blow = 0.5
        while (spent := time.monotonic() - began) < seconds and not self._stop:
            due = count if spent >= dropping else int(count * spent / dropping)
            while self.account.dropped < due:
                self._drop(next(specimens))
            if spent >= next_blow:
                self._blow()
                next_blow = time.monotonic() - began + self._chance.uniform(0.2, 1.5)
            self._patiently(0.05)
        while self.account.dropped < count:
            self._drop(next(specimens))

    def _drop(self, specimen: Specimen) -> None:
        folder = os.path.join(self.config.directories.watch[0], f"part {self.account.dropped % 7}")
        os.makedirs(folder, exist_ok=True)
        unfinished = os.path.join(folder, f".{self.account.dropped}.tmp")
        # A line of its own in front makes every content another one: the account goes by content.
        raw = b" " * (self.account.dropped % 50) + specimen.raw + b"\n" * (1 + self.account.dropped // 50)
        with open(unfinished, "wb") as file:
            file.write(raw)
        os.rename(unfinished, os.path.join(folder, specimen.name))
        digest = hashlib.sha256(raw).hexdigest()
        if digest in self._hashes:
            raise RuntimeError("two specimens are the same")
        self._hashes[digest] = specimen.name
        self.account.dropped += 1

    def _blow(self) -> None:
        blows: list[tuple[int, Callable[[], str]]] = [
            (8, lambda: self._kill(signal.SIGKILL)),
            (3, lambda: self._kill(signal.SIGTERM)),
            (2, self._freeze),
            (2, self._wipe),
            (2, self._outage),
        ]
        weights = [weight for weight, _ in blows]
        name = self._chance.choices([blow for _, blow in blows], weights)[0]()
        self.account.blows[name] += 1
        self._tell(name)

    def _victim(self, *, server: bool = True) -> tuple[str, int]:
        living = [
            (child.name, child.process.pid)
            for child in self._supervisor.children
            if child.process is not None and (server or child.name != "server")
        ]
        return self._chance.choice(living) if living else ("nobody", 0)

    def _kill(self, how: signal.Signals) -> str:
        name, pid = self._victim()
        if pid:
            _signal(pid, how)
        return f"{how.name} to {name}"

    def _freeze(self) -> str:
        name, pid = self._victim(server=False)
        if not pid:
            return "freeze nobody"
        _signal(pid, signal.SIGSTOP)
        self._patiently(self._chance.uniform(0.5, LONGEST_FREEZE))
        _signal(pid, signal.SIGCONT)
        return f"freeze {name}"

    def _wipe(self) -> str:
        try:
            self._redis.flushall()
        except RedisError:
            return "FLUSHALL, but the server was away"
        return "FLUSHALL"

    def _outage(self) -> str:
        """The server is away for a while: frozen, which is the nastiest way, for nobody is told."""
        for child in self._supervisor.children:
            if child.name == "server" and child.process is not None:
                _signal(child.process.pid, signal.SIGSTOP)
                self._patiently(self._chance.uniform(0.5, LONGEST_OUTAGE))
                _signal(child.process.pid, signal.SIGKILL)
        return "outage of the server"

    # The account

    def _drain(self) -> None:
        end = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < end and not self._stop:
            if len(self._originals()) >= len(self._hashes) and not any(self._claims()):
                return
            self._patiently(0.5)

    def _originals(self) -> list[str]:
        """The originals in their final places."""
        places = self.config.directories
        return [
            path
            for folder in (places.archive_directory, places.error_directory)
            for path in _files(folder)
            if not path.endswith(_REPORT)
        ]

    def _claims(self) -> Iterator[str]:
        for path in _files(self.config.directories.temp_directory):
            if os.path.basename(os.path.dirname(path)) != "temp" and os.path.basename(path) != "manifest":
                yield path

    def _balance(self) -> None:
        account = self.account
        account.in_flight = len(list(self._claims())) + len(list(_files(self.config.directories.watch[0])))
        found: Counter[str] = Counter()
        for path in self._originals():
            digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            found[digest] += 1
            if digest not in self._hashes:
                account.strangers.append(path)
        account.missing = [name for digest, name in self._hashes.items() if not found[digest]]
        account.duplicates = [
            self._hashes[digest] for digest, times in found.items() if times > 1 and digest in self._hashes
        ]
        told: Counter[str] = Counter()
        for path in _files(self.config.directories.output_directory):
            told[self._digest_in(path)] += 1
            account.done += 1
        for path in _files(self.config.directories.error_directory):
            if path.endswith(_REPORT):
                told[self._digest_in(path)] += 1
                account.rejected += 1
        account.disagreeing = [name for digest, name in self._hashes.items() if told[digest] != 1]

    def _digest_in(self, path: str) -> str:
        try:
            return str(json.loads(Path(path).read_bytes())["sha256"])
        except (ValueError, KeyError, TypeError):
            self.account.strangers.append(path)
            return ""


def torture(
    specimens: Iterator[Specimen],
    count: int,
    seconds: float,
    seed: int,
    tell: Callable[[str], None],
    keep: bool = False,
) -> tuple[Account, str | None]:
    """Run it in a temporary folder. Returns the account, and the folder where it was kept (always, when unbalanced)."""
    home = tempfile.mkdtemp(prefix="llm-torture-")
    log = logging.getLogger("llm.torture")
    log.addHandler(logging.FileHandler(os.path.join(home, "torture.log")))
    log.propagate = False
    with open(os.path.join(home, "stderr.log"), "ab") as stderr:
        run = Torture(home, seed, log, tell, stderr.fileno())
        account = run.run(specimens, count, seconds)
    for handler in list(log.handlers):
        handler.close()
        log.removeHandler(handler)
    if account.balanced and not keep:
        shutil.rmtree(home, ignore_errors=True)
        return account, None
    return account, home


def _files(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        yield from (os.path.join(root, name) for name in names if not name.startswith("."))


def _signal(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        pass
