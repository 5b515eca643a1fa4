"""Which files are documents and when they are complete: the rules, one at a time, with time told by the test."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_scheduler.ingest import finder
from llm_scheduler.ingest.finder import CompleteFile, Finder
from llm_scheduler.ingest.spool.watch_files import files, is_ignored, is_ignored_path
from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.config import Processing
from llm_scheduler.jobs.document import Ids, is_id, new_id

ROOT = os.geteuid() == 0
NOBODY = 65534


class HandClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return 1_700_000_000.0 + self.time

    def monotonic(self) -> float:
        return self.time


class Desk:
    """A watch folder, a clock and a finder."""

    def __init__(self, folder: Path, **processing: object) -> None:
        self.folder = folder
        self.clock = HandClock()
        self.taken: set[str] = set()
        self.finder = Finder(
            Processing(**{"settle_seconds": 2.0, "max_document_bytes": 1000, **processing}),  # type: ignore[arg-type]
            self.clock,
            self.taken.__contains__,
        )

    def put(self, source: str, content: bytes = b"{}") -> Path:
        path = self.folder / source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def look(self, source: str) -> CompleteFile | None:
        return self.finder.read(str(self.folder), source)

    def later(self, seconds: float) -> None:
        self.clock.time += seconds

    def settled(self, source: str) -> CompleteFile:
        """Look, let it settle, and look again."""
        assert self.look(source) is None
        self.later(2.0)
        ready = self.look(source)
        assert ready is not None
        return ready


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may walk to, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="llm-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """No rights beyond those of the modes: root becomes nobody for a while."""
    if not ROOT:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# Names


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden", ".a.json.swp", ".#a.json", ".goutputstream-ABC", ".~lock.a.json#", ".DS_Store", "#a.json#"),
        *("a.json~", "a.tmp", "a.TMP", "a.part", "a.json.Partial", "a.crdownload", "a.filepart", "a.swp", "a.SWX"),
        *("Thumbs.db", "DESKTOP.INI", "__MACOSX", "lost+found", "$RECYCLE.BIN", "~"),
    ],
)
def test_ignored_names(name: str) -> None:
    assert is_ignored(name)
    assert is_ignored_path(name)
    assert is_ignored_path(f"{name}/a.json")
    assert is_ignored_path(f"sub/{name}")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a.json",
            "a",
            "a.tmp.json",
            "a~b.json",
            "#a.json",
            "a#",
            "4913",
            "-rf",
            "--",
            " a ",
            "'\"`$(x)",
            "a\nb.json",
        ),
        *("文件.json", "\udcff\udcfe.json", "thumbs.db.json", "part", "tmp", "manifest", "a.error.json", "x" * 255),
    ],
)
def test_names_that_are_documents(name: str) -> None:
    assert not is_ignored(name)
    assert not is_ignored_path(f"sub/{name}")


# The scan


def test_scan_finds_all_that_may_be_documents_and_follows_no_link(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.json").write_bytes(b"{}")
    for source in (
        "a.json",
        "sub/b.json",
        "sub/deep/er/c.json",
        ".git/d.json",
        "sub/__MACOSX/e.json",
        "sub/x~",
        "f.tmp",
    ):
        desk.put(source)
    (desk.folder / "to folder").symlink_to(outside)
    (desk.folder / "to file").symlink_to(outside / "secret.json")
    os.mkfifo(desk.folder / "fifo")
    (desk.folder / "empty").mkdir()
    assert sorted(files(str(desk.folder))) == [
        *("a.json", "fifo", "sub/b.json", "sub/deep/er/c.json", "to file", "to folder"),
    ]
    assert sorted(files(str(desk.folder), "sub")) == ["sub/b.json", "sub/deep/er/c.json"]


def test_scan_is_lazy_and_survives_what_vanishes(desk: Desk) -> None:
    for number in range(3):
        desk.put(f"d{number}/a.json")
    desk.put("top.json")
    scan = files(str(desk.folder))
    assert next(scan) == "top.json"
    for number in range(3):
        (desk.folder / f"d{number}" / "a.json").unlink()
        (desk.folder / f"d{number}").rmdir()
    desk.put("d1", b"a file now")
    assert list(scan) == []
    assert list(files(str(desk.folder / "never was"))) == []


def test_scan_passes_a_folder_it_may_not_read_and_says_so_of_the_watch_folder_itself(open_folder: Path) -> None:
    desk = Desk(open_folder)
    desk.put("a.json")
    desk.put("closed/b.json")
    (open_folder / "closed").chmod(0o300)
    with unprivileged():
        assert list(files(str(open_folder))) == ["a.json"]
    open_folder.chmod(0o000)
    with unprivileged(), pytest.raises(PermissionError):
        list(files(str(open_folder)))
    open_folder.chmod(0o755)
    (open_folder / "closed").chmod(0o755)


def test_a_folder_that_may_be_listed_but_not_entered_stops_nobody(open_folder: Path) -> None:
    desk = Desk(open_folder)
    desk.put("listed/a.json")
    (open_folder / "listed").chmod(0o444)
    with unprivileged():
        for source in files(str(open_folder)):
            assert desk.look(source) is None
    assert desk.finder.incomplete == 0
    (open_folder / "listed").chmod(0o755)


def test_a_path_too_long_for_the_system_stops_nobody(desk: Desk) -> None:
    """Any producer can make one: step by step, each folder from within the one before."""
    desk.put("a.json")
    part = "d" * 250
    here = os.open(desk.folder, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(18):
        os.mkdir(part, dir_fd=here)
        inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(os.open("b.json", os.O_WRONLY | os.O_CREAT, dir_fd=inner))
        os.close(here)
        here = inner
    os.close(here)
    found = list(files(str(desk.folder)))
    assert "a.json" in found
    for source in found:
        desk.look(source)
    assert desk.finder.incomplete <= len(found)
    shutil.rmtree(desk.folder / part)


# Completeness


@pytest.mark.parametrize("text", [b"{}", b"[]", b'{"a": [1, 2]}\n', b' "text" ', b"\xef\xbb\xbf[1]", b'""'])
def test_an_object_an_array_or_a_string_is_complete_at_once(desk: Desk, text: bytes) -> None:
    desk.put("a.json", text)
    ready = desk.look("a.json")
    assert ready is not None
    assert ready.raw == text
    assert ready.candidate.code is None
    assert ready.candidate.sha256 is not None
    assert ready.candidate.source == "a.json"
    assert ready.candidate.stamp.size == len(text)
    assert desk.finder.incomplete == 0


@pytest.mark.parametrize(
    "text", [b"1", b"-1.5e3", b"12", b"true", b"null", b'{"a": 1', b"{", b"", b" \n", b"{} {", b"\xff"]
)
def test_all_else_waits_until_it_has_settled(desk: Desk, text: bytes) -> None:
    desk.put("a.json", text)
    assert desk.look("a.json") is None
    assert desk.finder.incomplete == 1
    assert desk.finder.due() == []
    assert desk.finder.next_due() == pytest.approx(2.0)
    desk.later(1.99)
    assert desk.look("a.json") is None
    assert desk.finder.next_due() == pytest.approx(0.01)
    desk.later(0.01)
    assert desk.finder.next_due() == 0
    assert desk.finder.due() == [(str(desk.folder), "a.json")]
    ready = desk.look("a.json")
    assert ready is not None
    assert ready.raw == text
    assert desk.finder.incomplete == 0
    assert desk.finder.next_due() is None


def test_a_growing_file_starts_to_settle_anew_each_time(desk: Desk) -> None:
    path = desk.put("a.json", b'{"a": ')
    for _ in range(5):
        assert desk.look("a.json") is None
        desk.later(1.9)
        with path.open("ab") as file:
            file.write(b"1")
    assert desk.look("a.json") is None
    desk.later(1.9)
    assert desk.look("a.json") is None
    with path.open("ab") as file:
        file.write(b"}")
    ready = desk.look("a.json")
    assert ready is not None
    assert ready.raw == b'{"a": 11111}'
    assert desk.finder.incomplete == 0


def test_a_change_without_growth_counts_as_well(desk: Desk) -> None:
    path = desk.put("a.json", b'{"a": 1')
    assert desk.look("a.json") is None
    desk.later(1.9)
    path.write_bytes(b'{"b": 2')
    os.utime(path, ns=(1, 10**18))
    desk.later(0.1)
    assert desk.look("a.json") is None
    desk.later(2)
    ready = desk.look("a.json")
    assert ready is not None
    assert ready.raw == b'{"b": 2'


def test_another_file_of_the_same_name_starts_to_settle_anew(desk: Desk) -> None:
    path = desk.put("a.json", b"broken")
    status = path.stat()
    assert desk.look("a.json") is None
    desk.later(2)
    other = desk.put("b.json", b"kaputt")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)
    assert path.stat().st_size == status.st_size
    assert desk.look("a.json") is None, "same size and time, but another inode"
    desk.later(2)
    ready = desk.look("a.json")
    assert ready is not None
    assert ready.raw == b"kaputt"


def test_settle_seconds_0_takes_everything_as_it_is(tmp_path: Path) -> None:
    desk = Desk(tmp_path, settle_seconds=0)
    desk.put("a.json", b'{"a')
    desk.put("empty.json", b"")
    ready, empty = desk.look("a.json"), desk.look("empty.json")
    assert ready is not None
    assert ready.raw == b'{"a'
    assert empty is not None
    assert empty.raw == b""


def test_what_vanishes_while_it_waits_is_forgotten(desk: Desk) -> None:
    desk.put("sub/a.json", b"{")
    assert desk.look("sub/a.json") is None
    (desk.folder / "sub" / "a.json").unlink()
    desk.later(2)
    assert desk.look("sub/a.json") is None
    assert desk.finder.incomplete == 0
    desk.put("sub/a.json", b"{")
    assert desk.look("sub/a.json") is None
    (desk.folder / "sub" / "a.json").unlink()
    (desk.folder / "sub").rmdir()
    desk.put("sub", b"{}")
    assert desk.look("sub/a.json") is None
    assert desk.finder.incomplete == 0


def test_what_becomes_a_folder_while_it_waits_is_forgotten(desk: Desk) -> None:
    """Otherwise it stays due for ever, and ingest looks at it without a pause."""
    desk.put("a", b"{")
    assert desk.look("a") is None
    (desk.folder / "a").unlink()
    (desk.folder / "a").mkdir()
    desk.later(2)
    assert desk.look("a") is None
    assert desk.finder.due() == []
    assert desk.finder.next_due() is None


def test_a_file_that_is_unlinked_between_stat_and_open_is_no_error(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    for error in (FileNotFoundError(errno.ENOENT, "gone"), NotADirectoryError(errno.ENOTDIR, "a file now")):
        path = desk.put("sub/a.json", b"{}")

        def vanish(name: str, flags: int, mode: int = 0o777, *, error: OSError = error, path: Path = path) -> int:
            path.unlink()
            path.parent.rmdir()
            if isinstance(error, NotADirectoryError):
                path.parent.write_bytes(b"")
            return real(name, flags, mode)

        with monkeypatch.context() as patch:
            patch.setattr(finder.os, "open", vanish)
            assert desk.look("sub/a.json") is None
        assert desk.finder.incomplete == 0


def test_a_file_written_to_while_it_is_read_is_not_complete(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = desk.put("a.json", b"[1]")
    real = os.fstat

    def grow(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        with path.open("ab") as file:
            file.write(b" ")
        return status

    with monkeypatch.context() as patch:
        patch.setattr(finder.os, "fstat", grow)
        assert desk.look("a.json") is None
    ready = desk.look("a.json")
    assert ready is not None
    assert ready.raw == b"[1] "


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_what_takes_the_place_of_a_file_at_the_last_moment_is_not_read(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = desk.put("a.json", b"[1]")
    desk.put(".secret", b"[42]")
    real = os.open

    def swap(name: str, flags: int) -> int:
        path.unlink()
        if kind == "link":
            path.symlink_to(".secret")
        else:
            os.mkfifo(path)
            assert flags & os.O_NONBLOCK, "it would block"
        return real(name, flags)

    with monkeypatch.context() as patch:
        patch.setattr(finder.os, "open", swap)
        assert desk.look("a.json") is None
    assert desk.settled("a.json").candidate.code == Code.NOT_A_FILE


# What is refused unread


def test_too_large_is_known_by_size_and_never_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.put("fits.json", b'"' + b"x" * 998 + b'"')
    ready = desk.look("fits.json")
    assert ready is not None
    assert ready.candidate.code is None
    desk.put("big.json", b'"' + b"x" * 999 + b'"')
    monkeypatch.setattr(finder.os, "open", lambda *_: pytest.fail("it was opened"))
    ready = desk.settled("big.json")
    assert ready.candidate.code == Code.TOO_LARGE
    assert ready.candidate.sha256 is None
    assert "1001" in (ready.candidate.message or "")
    assert "max_document_bytes" in (ready.candidate.message or "")
    assert ready.raw == b""


def test_a_file_that_outgrows_the_limit_is_left_until_it_settles(desk: Desk) -> None:
    path = desk.put("a.json", b"[")
    assert desk.look("a.json") is None
    desk.later(2)
    path.write_bytes(b"[" * 2000)
    assert desk.look("a.json") is None
    desk.later(2)
    ready = desk.look("a.json")
    assert ready is not None
    assert ready.candidate.code == Code.TOO_LARGE


def test_links_fifos_and_sockets_are_refused_unopened(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    desk.put("target.txt", b"{}")
    os.symlink("target.txt", desk.folder / "link.json")
    os.symlink("nowhere", desk.folder / "dangling.json")
    os.symlink("loop.json", desk.folder / "loop.json")
    os.mkfifo(desk.folder / "fifo.json")
    listener = socket.socket(socket.AF_UNIX)
    short = os.open(desk.folder, os.O_RDONLY | os.O_DIRECTORY)
    listener.bind(f"/proc/self/fd/{short}/socket.json")
    os.close(short)
    monkeypatch.setattr(finder.os, "open", lambda *_: pytest.fail("it was opened"))
    for name, word in {
        "link.json": "target.txt",
        "dangling.json": "nowhere",
        "loop.json": "symbolic link",
        "fifo.json": "FIFO",
        "socket.json": "socket",
    }.items():
        ready = desk.settled(name)
        assert ready.candidate.code == Code.NOT_A_FILE
        assert word in (ready.candidate.message or "")
        assert ready.value is None
    listener.close()


def test_a_link_to_a_folder_is_left_alone_for_ever(desk: Desk) -> None:
    (desk.folder / "real").mkdir()
    (desk.folder / "link").symlink_to("real")
    for _ in range(3):
        assert desk.look("link") is None
        assert desk.look("real") is None
        desk.later(5)
    assert desk.finder.incomplete == 0


def test_what_may_not_be_read_is_refused_once_it_has_settled(open_folder: Path) -> None:
    desk = Desk(open_folder)
    desk.put("a.json", b'{"a": 1}').chmod(0o000)
    with unprivileged():
        ready = desk.settled("a.json")
    assert ready.candidate.code == Code.UNREADABLE
    assert "ermission" in (ready.candidate.message or "")
    assert stat.S_IMODE((open_folder / "a.json").stat().st_mode) == 0
    desk.put("b.json", b"{}").chmod(0o000)
    with unprivileged():
        assert desk.look("b.json") is None
    (open_folder / "b.json").chmod(0o644)
    with unprivileged():
        ready = desk.look("b.json")
    assert ready is not None
    assert ready.candidate.code is None, "the right came in time"


def test_running_out_of_descriptors_is_not_the_fault_of_a_document(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.put("a.json", b"{")
    assert desk.look("a.json") is None
    desk.later(2)

    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(finder.os, "open", none_left)
    with pytest.raises(OSError, match="Too many"):
        desk.look("a.json")


def test_a_failing_disk_block_is_the_fault_of_one_file_only(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.put("a.json", b"{}")

    def bad_block(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(finder.os, "open", bad_block)
    ready = desk.settled("a.json")
    assert ready.candidate.code == Code.UNREADABLE
    assert ready.candidate.message == "Input/output error"


# Ids


def test_a_document_of_the_api_keeps_its_id_unless_that_is_taken(desk: Desk) -> None:
    given = new_id(0)
    for source in (f"api/{given}.json", f"api/order.{given}.json"):
        desk.put(source)
        ready = desk.look(source)
        assert ready is not None
        assert ready.candidate.id == given
    desk.taken.add(given)
    desk.put(f"other/{given}.json")
    for source in (f"api/{given}.json", f"other/{given}.json"):
        ready = desk.look(source)
        assert ready is not None
        assert ready.candidate.id != given


def test_ids_sort_in_the_order_in_which_they_were_made() -> None:
    ids = Ids()
    made = [ids.make(1_700_000_000.0) for _ in range(300)] + [ids.make(1_700_000_000.001), ids.make(1_700_000_001.0)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(map(is_id, made))
