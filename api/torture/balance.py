"""The account of a torture run, by file content and from the disk alone.

Every dropped document must be once in the archive or in the error folder, with one result or report of the expected
kind; there must be nothing else. This is independent of `ingest.reconcile` by design: it also judges that code's work.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.config import Directories

_REPORT = ".error.json"
# A valid document may end so too: three workers were killed with it, or it was frozen beyond its time limit.
_BAD_LUCK = (Code.WORKER_LOST, Code.TIMEOUT)


class TortureDocument(msgspec.Struct, frozen=True):
    """A file to drop. `ends`: its expected end."""

    name: str
    raw: bytes
    ends: Literal["done", "rejected"] = "done"


@dataclass
class TortureAccount:
    """What was dropped, and how it ended.

    `unlucky`: valid, but rejected after too many kills. `disagreeing`: without exactly one result or report. `astray`:
    with another end than expected. `strangers`: files that were never dropped.
    """

    dropped: int = 0
    done: int = 0
    rejected: int = 0
    in_flight: int = 0
    unlucky: int = 0
    missing: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    disagreeing: list[str] = field(default_factory=list)
    astray: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    @property
    def balanced(self) -> bool:
        """The verdict: dropped = done + rejected, each once and as expected, and nothing else."""
        wrong = self.missing or self.duplicates or self.strangers or self.disagreeing or self.astray or self.in_flight
        return not wrong and self.dropped == self.done + self.rejected


def digest_of(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def balance(places: Directories, dropped: Mapping[str, TortureDocument]) -> TortureAccount:
    """The account of `dropped`, which maps the digest of each file to its document."""
    account = TortureAccount(dropped=len(dropped), in_flight=len(list(claims(places))))
    account.in_flight += sum(1 for folder in places.watch for _ in _files(folder))
    found: Counter[str] = Counter()
    for path in originals(places):
        digest = digest_of(Path(path).read_bytes())
        found[digest] += 1
        if digest not in dropped:
            account.strangers.append(path)
    outcomes: Counter[str] = Counter()
    for path, outcome in _outcomes(places):
        document = dropped.get(str(outcome.get("sha256")))
        outcomes[str(outcome.get("sha256"))] += 1
        code = outcome.get("code") if path.endswith(_REPORT) else None
        if document is None:
            account.strangers.append(path)
        elif code is None:
            account.done += 1
            if document.ends != "done":
                account.astray.append(document.name)
        else:
            account.rejected += 1
            account.codes[str(code)] += 1
            if document.ends == "done" and code in _BAD_LUCK:
                account.unlucky += 1
            elif document.ends == "done":
                account.astray.append(document.name)
    account.missing = [document.name for digest, document in dropped.items() if not found[digest]]
    account.duplicates = [document.name for digest, document in dropped.items() if found[digest] > 1]
    account.disagreeing = [document.name for digest, document in dropped.items() if outcomes[digest] != 1]
    return account


def originals(places: Directories) -> list[str]:
    """The originals in their final folders."""
    return [
        path
        for folder in (places.archive_directory, places.error_directory)
        for path in _files(folder)
        if not path.endswith(_REPORT)
    ]


def claims(places: Directories) -> Iterator[str]:
    """The originals that are claimed and not finished."""
    top = os.path.abspath(places.temp_directory)
    for path in _files(top):
        if os.path.dirname(path) != top and os.path.basename(path) != "manifest":
            yield path


def _outcomes(places: Directories) -> Iterator[tuple[str, dict[str, Any]]]:
    """The paths and contents of results and reports; `{}` for what is not a JSON object."""
    reports = (path for path in _files(places.error_directory) if path.endswith(_REPORT))
    for path in (*_files(places.output_directory), *reports):
        try:
            outcome = json.loads(Path(path).read_bytes())
        except ValueError:
            outcome = None
        yield path, outcome if isinstance(outcome, dict) else {}


def _files(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        yield from (os.path.join(root, name) for name in names if not name.startswith("."))
