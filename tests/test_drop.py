"""Two thousand documents, dropped in all the ways that people and programs drop files: every one is accounted for."""

import hashlib
import json
import os
import random
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Fleet, is_report, wait_until

from llm_scheduler.ingest.spool.file_io import rename_new
from llm_scheduler.jobs.document import new_id

TOTAL = 2000
SETTLE = 1.0
PAUSE = 0.05  # of a slow writer: far below SETTLE, so that a busy machine doesn't stretch it beyond

ODD_NAMES = [
    *("with space.json", " both ends .json ", "quote'\".json", "$(touch x)`y`.json", "semi;colon&|<>*?.json"),
    *("文件 名.json", "日本語.json", "emoji 😀.json", "\u202ertl.json", "%s%d.json", "{}.json", "back\\slash.json"),
    *("-rf.json", "--help", "-", "new\nline.json", "tab\t.json", "UPPER.JSON", "no suffix", "manifest", "4913.json"),
    *("n" * 255, "n" * 250 + ".json", "n" * 200 + " 文件.json", "文" * 85, "文" * 83 + ".json", "😀" * 62 + ".json"),
    *("bad\udcff\udcfe.json", "\udc80", "\udcff" * 250 + ".json", "a." + "b" * 253, "x.json.error.json", "x.json"),
]


@dataclass(frozen=True)
class Expected:
    """A document that was dropped: where, what, and the code with which it is refused (None: it is done)."""

    source: str
    content: bytes
    code: str | None = None
    first: bytes | None = None  # what it was when it may have been read; it has been added to since


@dataclass
class Drop:
    """Drops files into several watch folders and remembers each."""

    fleet: Fleet
    watches: list[Path]
    outside: Path
    expected: list[Expected] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)  # source: target
    fifos: list[str] = field(default_factory=list)
    left: list[Path] = field(default_factory=list)  # what has to stay where it is
    number: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> int:
        return len(self.expected) + len(self.links) + len(self.fifos)

    def document(self, kind: str = "good") -> tuple[bytes, str | None]:
        """A content that nobody else has, and the code with which it is refused."""
        with self.lock:
            self.number += 1
            number = self.number
        level = ("high", "medium", "low", "whatever")[number % 4]
        text = (
            f'{{"n": {number}, "content": "文件 {number}", "metadata": {{"priority": "{level}"}}, "x": [1.0, 1e2]}}\n'
        )
        match kind:
            case "good":
                return text.encode(), None
            case "broken":
                return text.encode()[:-6], "truncated"
            case "number":
                return b"%d" % (10**30 + number), None
            case "latin":
                return f'{{"n": {number}, "x": "é"}}'.encode("latin-1"), None
            case "binary":
                return b"\x00" * number, "binary"
        raise ValueError(kind)

    def expect(self, source: str, content: bytes, code: str | None) -> None:
        with self.lock:
            self.expected.append(Expected(source, content, code))

    def put(self, source: str, kind: str = "good", watch: int = 0, how: str = "rename") -> None:
        """Drop a document. A name that is still waiting there is waited for, as no producer overwrites its own."""
        content, code = self.document(kind)
        path = os.path.join(self.watches[watch], source)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if how == "write":
            wait_until(lambda: not os.path.lexists(path), "the first of this name claimed")
            Path(path).write_bytes(content)
        else:
            own = self.outside if how == "move" else Path(path).parent
            unfinished = own / f".{threading.get_ident()}.tmp"
            unfinished.write_bytes(content)
            wait_until(lambda: renamed(str(unfinished), path), "the first of this name claimed")
        self.expect(source, content, code)

    def gone(self, path: str | Path) -> None:
        wait_until(lambda: not os.path.lexists(path), f"{path} claimed", every=0.002)


def renamed(source: str, target: str) -> bool:
    try:
        rename_new(source, target)
    except FileExistsError:
        return False
    return True


def shown(source: str) -> str:
    """A source as results and reports have it."""
    return os.fsencode(source).decode("utf-8", "backslashreplace")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def everything(folder: Path) -> Iterator[str]:
    """All that is no folder below a folder, hidden names too, links not followed."""
    for root, folders, names in os.walk(os.fsencode(folder)):
        for name in names:
            yield os.fsdecode(os.path.join(root, name))
        for name in folders:
            if os.path.islink(path := os.path.join(root, name)):
                yield os.fsdecode(path)


@pytest.fixture
def drop(fleet: Fleet) -> Drop:
    watches = [fleet.raw, fleet.folder / "raw 2", fleet.folder / "監視"]
    outside = fleet.folder / "outside"
    for folder in (*watches, outside):
        folder.mkdir(exist_ok=True)
    fleet.configure(
        directories={"watch_directory": [str(folder) for folder in watches]},
        processing={"settle_seconds": SETTLE},
    )
    return Drop(fleet, watches, outside)


# The ways of dropping


def odd_names(drop: Drop) -> None:
    """The same odd names in every watch folder, at its top and in a sub-folder."""
    hows = ("rename", "write", "move")
    for number, name in enumerate(ODD_NAMES):
        for watch in range(len(drop.watches)):
            kind = "broken" if (number + watch) % 5 == 0 else "good"
            drop.put(name, kind, watch, hows[(number + watch) % 3])
        drop.put(f"sub folder/-dash/文件夾/{name}", watch=number % 3)


def same_name_twice(drop: Drop) -> None:
    for number in range(20):
        for _ in range(3):
            drop.put(f"twice/same {number}.json", "broken" if number % 7 == 0 else "good", how="move")


def kinds(drop: Drop) -> None:
    for number in range(60):
        for kind in ("broken", "number", "latin", "binary"):
            drop.put(f"kinds/{kind} {number}.json", kind, watch=number % 3, how="write")
    for number in range(20):
        path = drop.watches[1] / f"empty {number}.json"
        path.write_bytes(b"")
        drop.expect(path.name, b"", "empty")


def slow_writers(drop: Drop) -> None:
    """Files that come in pieces, with one open descriptor or a new one for each, all in all longer than SETTLE."""
    drop.gone(drop.watches[0] / "early/0/doc 0.json")  # so ingest is there to be impatient
    chance = random.Random(7)

    def write(number: int, cuts: list[int]) -> None:
        content, _ = drop.document()
        content = content.rstrip()  # the last byte is the brace without which nothing is complete
        source = f"slow/{number}.json"
        path = drop.watches[number % 3] / source
        path.parent.mkdir(exist_ok=True)
        pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        drop.expect(source, content, None)
        if number % 2:
            with path.open("wb", buffering=0) as file:
                for piece in pieces:
                    file.write(piece)
                    time.sleep(PAUSE)
        else:
            for piece in pieces:
                with path.open("ab") as file:
                    file.write(piece)
                time.sleep(PAUSE)

    plans = [sorted(chance.sample(range(1, 60), 24)) for _ in range(40)]
    threads = [threading.Thread(target=write, args=plan) for plan in enumerate(plans)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def editors(drop: Drop) -> None:
    for number in range(10):
        watch = drop.watches[number % 3]
        # vim: swap file, a probe whether the folder can be written, a backup, the file, then all but the file goes
        name = f"vim {number}.json"
        (watch / f".{name}.swp").write_bytes(b"b0VIM")
        (watch / "4913").write_bytes(b"")
        (watch / "4913").unlink()
        (watch / f"{name}~").write_bytes(b'{"old": 1}')
        drop.put(name, watch=number % 3, how="write")
        if number:
            (watch / f"{name}~").unlink()
            (watch / f".{name}.swp").unlink()
        else:  # this one keeps its backup, and was killed
            drop.left += [watch / f"{name}~", watch / f".{name}.swp"]
        # emacs: an auto-save file, and a lock that is a link to nowhere
        name = f"emacs {number}.json"
        (watch / f".#{name}").symlink_to("somebody@somewhere.1234:5678")
        (watch / f"#{name}#").write_bytes(b'{"auto": "save"}')
        drop.put(name, watch=number % 3, how="write")
        (watch / f".#{name}").unlink()
        (watch / f"#{name}#").unlink()
        # gedit
        content, _ = drop.document()
        (watch / f".goutputstream-{number}XYZ").write_bytes(content)
        (watch / f".goutputstream-{number}XYZ").rename(watch / f"gedit {number}.json")
        drop.expect(f"gedit {number}.json", content, None)
        # LibreOffice
        name = f"office {number}.json"
        (watch / f".~lock.{name}#").write_bytes(b",somebody,somewhere,;")
        drop.put(name, watch=number % 3, how="write")
        (watch / f".~lock.{name}#").unlink()
    # a download, and the litter of operating systems
    for name in ("half.json.part", "half.json.crdownload", "Thumbs.db", ".DS_Store"):
        (drop.watches[0] / name).write_bytes(b'{"n": 0}')
        drop.left.append(drop.watches[0] / name)


def hard_links(drop: Drop) -> None:
    """Two names of one inode are two documents."""
    for number in range(30):
        content, _ = drop.document()
        first = drop.outside / f"linked {number}.json"
        first.write_bytes(content)
        for watch, name in ((0, f"link {number}.json"), (number % 3, f"links/other {number}.json")):
            path = drop.watches[watch] / name
            path.parent.mkdir(exist_ok=True)
            os.link(first, path)
            drop.expect(name, content, None)
        first.unlink()


def links_and_fifos(drop: Drop) -> None:
    target = drop.outside / "target.json"
    target.write_bytes(b'{"secret": true}')
    folder = drop.outside / "a folder"
    folder.mkdir()
    (folder / "inner.json").write_bytes(b'{"inner": 1}')
    for number in range(8):
        for kind, goal in (("file", str(target)), ("dangling", "no/where"), ("loop", f"loop {number}.json")):
            source = f"{kind} {number}.json"
            os.symlink(goal, drop.watches[number % 3] / source)
            drop.links[source] = goal
        os.mkfifo(drop.watches[number % 3] / f"fifo {number}.json")
        drop.fifos.append(f"fifo {number}.json")
    to_folder = drop.watches[0] / "link to a folder"
    to_folder.symlink_to(folder)
    drop.left.append(to_folder)


def folders_moved_in(drop: Drop) -> None:
    for number in range(3):
        top = drop.outside / f"batch {number}"
        for inner in range(60):
            source = f"batch {number}/{inner % 4}/{'deep/er/' if inner % 3 else ''}doc {inner}.json"
            path = drop.outside / source
            path.parent.mkdir(parents=True, exist_ok=True)
            content, code = drop.document("broken" if inner % 9 == 0 else "good")
            path.write_bytes(content)
            drop.expect(source, content, code)
        top.rename(drop.watches[number] / top.name)


def deleted_again(drop: Drop) -> None:
    """Deleted at once: whoever is first, its producer or the claim, has it, and nobody else."""
    for number in range(60):
        content, _ = drop.document()
        path = drop.watches[number % 3] / f"deleted {number}.json"
        path.write_bytes(content)
        time.sleep(number % 6 / 1000)  # a moment to be overtaken in, not a wait for anything
        try:
            path.unlink()
        except FileNotFoundError:
            drop.expect(path.name, content, None)


def a_file_and_a_folder_of_one_name(drop: Drop) -> None:
    for number in range(5):
        drop.put(f"both {number}")
        drop.put(f"htob {number}/b.json")
    for number in range(5):
        drop.gone(drop.watches[0] / f"both {number}")
        drop.put(f"both {number}/b.json", how="move")
        drop.gone(drop.watches[0] / f"htob {number}/b.json")
        (drop.watches[0] / f"htob {number}").rmdir()
        drop.put(f"htob {number}", how="move")


def added_to_after_the_claim(drop: Drop) -> None:
    """Complete, and claimed; but its writer goes on. All that it wrote stays together."""
    for number in range(10):
        content, _ = drop.document()
        path = drop.watches[2] / f"added {number}.json"
        with path.open("ab", buffering=0) as file:
            file.write(content)
            drop.gone(path)
            file.write(b"  \n")
        with drop.lock:
            drop.expected.append(Expected(path.name, content + b"  \n", None, first=content))


WAYS: list[Callable[[Drop], None]] = [
    *(odd_names, same_name_twice, kinds, slow_writers, editors, hard_links, links_and_fifos, folders_moved_in),
    *(deleted_again, a_file_and_a_folder_of_one_name, added_to_after_the_claim),
]


# The account


def account_for_all(drop: Drop) -> None:
    """Every document in exactly one final place, byte for byte, with exactly one outcome that says what it should."""
    fleet = drop.fleet
    originals: Counter[bytes] = Counter()
    links: Counter[str] = Counter()
    fifos = 0
    for folder in (fleet.archive, fleet.errors):
        for path in everything(folder):
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                links[os.readlink(path)] += 1
            elif stat.S_ISFIFO(status.st_mode):
                fifos += 1
            elif not (folder == fleet.errors and is_own_report(path)):
                originals[Path(path).read_bytes()] += 1
    assert originals - Counter(each.content for each in drop.expected) == Counter(), "unknown originals"
    assert Counter(each.content for each in drop.expected) - originals == Counter(), "lost originals"
    assert links == Counter(drop.links.values())
    assert fifos == len(drop.fifos)

    outcomes = Counter(outcomes_of(fleet))
    expected = Counter(
        (shown(each.source), each.code, sha256(each.content)) for each in drop.expected if each.first is None
    )
    expected += Counter((shown(source), "not_a_file", None) for source in (*drop.links, *drop.fifos))
    for each in drop.expected:
        if each.first is not None:  # it may have been read before or after it was added to
            either = [(shown(each.source), None, sha256(content)) for content in (each.first, each.content)]
            expected[either[0] if either[0] in outcomes else either[1]] += 1
    assert outcomes - expected == Counter(), "unexpected outcomes"
    assert expected - outcomes == Counter(), "missing outcomes"

    often = Counter(each.source for each in drop.expected)
    for each in drop.expected:
        fits = len(os.fsencode(os.path.basename(each.source))) <= (
            255 if each.code is None else 255 - len(".error.json")
        )
        if often[each.source] == 1 and fits and "tob " not in each.source and "both " not in each.source:
            home = (fleet.archive if each.code is None else fleet.errors) / each.source
            assert home.read_bytes() == each.content, "under its own name, byte for byte"

    by_sha = {sha256(content): content for each in drop.expected for content in (each.content, each.first or b"")}
    for path in everything(fleet.processed):
        text = Path(path).read_bytes()
        content = by_sha[json.loads(text)["sha256"]]
        if json.loads(text)["quality"] == "repaired":
            content = content.decode("cp1252").encode()  # it was no UTF-8
        assert b'"document":' + content.strip() + b',"result":' in text, "the document's own text, untouched"
    waiting = [path for watch in drop.watches for path in everything(watch)]
    assert sorted(waiting) == sorted(map(str, drop.left)), "nothing else is left in the watch folders"
    assert not [path for path in everything(fleet.temp) if not os.path.basename(path).startswith(".")]
    for folder in (fleet.processed, fleet.archive, fleet.errors):
        assert not [path for path in everything(folder) if os.path.basename(path).startswith(".")], "hidden leftovers"


def is_own_report(path: str) -> bool:
    """Whether a file in the error folder is a report. A document may be called like one."""
    return is_report(Path(path)) and Path(path).read_bytes().startswith(b'{"id":"')


def outcomes_of(fleet: Fleet) -> Iterator[tuple[str, str | None, str | None]]:
    ids = set()
    for folder in (fleet.processed, fleet.errors):
        for path in everything(folder):
            if folder == fleet.processed or is_own_report(path):
                found = json.loads(Path(path).read_bytes())
                assert found["id"] not in ids, "a document has two outcomes"
                ids.add(found["id"])
                yield found["source"], found.get("code"), found["sha256"]


def finished(drop: Drop) -> int:
    count = sum(1 for _ in everything(drop.fleet.archive))
    return count + sum(1 for path in everything(drop.fleet.errors) if not is_report(Path(path)))


def wait_for_all(drop: Drop, deadline: float = 60) -> None:
    odd = sum(is_report(Path(each.source)) and each.code is not None for each in drop.expected)
    try:
        wait_until(lambda: finished(drop) >= drop.total - odd, "all documents finished", deadline, every=0.1)
        wait_until(lambda: not drop.fleet.temp_groups(), "no claim group left behind", deadline)
    except BaseException:
        print(f"finished {finished(drop)} of {drop.total}; {drop.fleet.in_flight()[:5]}")
        print([path for watch in drop.watches for path in everything(watch)][:20])
        for name in drop.fleet.running:
            print(f"--- {name}: {drop.fleet.log(name)[-3000:]}")
        raise


@pytest.mark.slow
def test_a_mixed_drop_of_two_thousand(drop: Drop) -> None:
    for number in range(200):  # these are there before anyone watches
        drop.put(f"early/{number % 7}/doc {number}.json", "broken" if number % 10 == 0 else "good", watch=number % 3)
    drop.fleet.start()
    failures: list[BaseException] = []

    def go(way: Callable[[Drop], None]) -> None:
        try:
            way(drop)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=go, args=(way,)) for way in WAYS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    print(f"{drop.total} documents by special ways")
    number = 0
    while drop.total < TOTAL:
        number += 1
        drop.put(
            f"plain/{number % 13}/doc {number}.json", watch=number % 3, how=("rename", "write", "move")[number % 3]
        )
    assert drop.total == TOTAL
    wait_for_all(drop)
    account_for_all(drop)
    assert (drop.outside / "target.json").read_bytes() == b'{"secret": true}', "a link's target is not touched"
    assert (drop.outside / "a folder" / "inner.json").exists()
    assert set(drop.fleet.stop().values()) == {0}
    logs = "".join(drop.fleet.log(name) for name in drop.fleet.MODULES)
    assert "Traceback" not in logs, logs[-3000:]


# One at a time, where the mix leaves it to chance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "more", "code"),
    [
        (b'{"a": 1}', b"  \n", None),
        (b'{"a": 1}', b', "b"', "invalid_json"),
        (b'{"a": 1', b"}", None),
        (b"{", b"{", "invalid_json"),
    ],
)
def test_a_file_added_to_between_claim_and_commit(drop: Drop, first: bytes, more: bytes, code: str | None) -> None:
    """It is put back and read again as what it is now; the outcome of what it was is dropped."""
    fleet = drop.fleet
    fleet.start("ingest")
    path = drop.watches[1] / "sub" / "a.json"
    path.parent.mkdir()
    with path.open("ab", buffering=0) as file:
        file.write(first)
        drop.gone(path)
        wait_until(lambda: fleet.ledger_total("queued") == 1, "it submitted")
        file.write(more)
    drop.expect("sub/a.json", first + more, code)
    fleet.start(*(name for name in fleet.MODULES if name != "ingest"))
    wait_for_all(drop)
    account_for_all(drop)
    assert "put back" in fleet.log("collector")


@pytest.mark.parametrize(("days", "times"), [(0, 1), (31, 0)])
def test_copies_of_a_file_that_carries_an_id(drop: Drop, days: int, times: int) -> None:
    """Somebody copies what the API has dropped: the copies carry its id as well, and are documents all the same.

    An id from before what the ledger remembers is nobody's: whose it was can't be known any more.
    """
    document_id = new_id(time.time() - days * 86400)
    (drop.fleet.folder / "echo.py").write_text("def handle(document, context):\n    return {'was': document}\n")
    drop.fleet.configure(handlers={"default": "echo:handle"})
    for number in range(5):
        drop.put(f"api/copy {number}.{document_id}.json", watch=number % 3)
    drop.fleet.start(env={"PYTHONPATH": str(drop.fleet.folder)})
    wait_for_all(drop)
    account_for_all(drop)
    results = drop.fleet.results()
    ids = [result["id"] for result in results]
    assert len(set(ids)) == 5
    assert ids.count(document_id) == times
    assert all(result["result"] == {"was": result["document"]} for result in results), "each was handled as itself"


@pytest.mark.slow
def test_a_name_that_turns_from_broken_file_to_folder_leaves_ingest_at_rest(drop: Drop) -> None:
    fleet = drop.fleet
    fleet.start()
    path = drop.watches[0] / "a"
    path.write_bytes(b"{")
    drop.put("sign.json")
    wait_for_all(drop)
    path.unlink()
    path.mkdir()
    drop.put("a/b.json", how="move")
    wait_for_all(drop)
    account_for_all(drop)
    ingest = fleet.running["ingest"].pid
    before = cpu_seconds(ingest)
    time.sleep(SETTLE + 1)  # what is measured is what it does while there is nothing to do
    assert cpu_seconds(ingest) - before < 0.5


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Root without the capabilities that let it pass over modes (capabilities(7)): CAP_DAC_OVERRIDE,
# CAP_DAC_READ_SEARCH and CAP_FOWNER. For any other user nothing changes.
UNPRIVILEGED = """
import ctypes, runpy, sys
libc = ctypes.CDLL(None, use_errno=True)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
sets = (ctypes.c_uint32 * 6)()
assert libc.capget(header, sets) == 0
for index in range(3):
    sets[index] &= ~0b1110
assert libc.capset(header, sets) == 0
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def start_unprivileged(fleet: Fleet, *names: str) -> None:
    fleet.config()
    for name in names:
        with (fleet.folder / f"{name}.log").open("ab") as log:
            fleet.running[name] = subprocess.Popen(
                [sys.executable, "-P", "-c", UNPRIVILEGED, *Fleet.MODULES[name], "--config", str(fleet.config_path)],
                cwd=fleet.folder,
                stderr=log,
            )


def test_files_and_folders_that_may_not_be_read(fleet: Fleet) -> None:
    """They are refused or left, with a word about it, and hold up no neighbour."""
    theirs, closed, listed = (fleet.raw / name for name in ("theirs", "closed", "listed"))
    for folder, mode in ((theirs, 0o555), (closed, 0o000), (listed, 0o444)):
        folder.mkdir()
        (folder / "a.json").write_bytes(b'{"theirs": 1}')
        folder.chmod(mode)
    secret = fleet.drop(".secret", b'{"secret": 1}')
    secret.chmod(0o000)
    secret.rename(fleet.raw / "secret.json")
    try:
        start_unprivileged(fleet, "ingest", "collector")
        fleet.start("high", "medium", "low")
        for number in range(20):
            fleet.drop(f"mine {number}.json", b'{"n": %d}' % number)
        fleet.wait_finished(21, deadline=20)
        assert [(each["source"], each["code"]) for each in fleet.reports()] == [("secret.json", "unreadable")]
        assert (fleet.errors / "secret.json").exists()
        assert len(fleet.results()) == 20
        wait_until(lambda: "theirs" in fleet.log("ingest"), "a word about the folder that may not be emptied")
        fleet.drop("late.json", b'{"late": 1}')
        fleet.wait_finished(22, deadline=15)
        assert (theirs / "a.json").exists()
        theirs.chmod(0o755)
        fleet.wait_finished(23, deadline=15)
        assert not (theirs / "a.json").exists()
    finally:
        for folder in (theirs, closed, listed):
            folder.chmod(0o755)
