"""Hints from the kernel: they come for every way a file can arrive, at once, and go on coming."""

import ctypes
import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import wait_until

from llm_scheduler.ingest.fs_events import Hints

# watchdog may be told of a new folder twice, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")

DEADLINE = 5.0
AT_ONCE = 0.3


class Listener:
    """Hints on two watch folders, and all that they have said so far."""

    def __init__(self, top: Path) -> None:
        self.raw, self.other, self.outside = top / "raw", top / "raw 2", top / "outside"
        for folder in (self.raw, self.other, self.outside):
            folder.mkdir()
        self.hints = Hints([str(self.raw), str(self.other)], logging.getLogger("test"))
        self.heard: set[tuple[str, str]] = set()
        self.hints.watch()

    def hears(self, source: str, folder: Path | None = None, deadline: float = DEADLINE) -> float:
        """Wait for a hint; returns the seconds it took."""
        began = time.monotonic()
        wanted = (str(folder or self.raw), source)
        wait_until(lambda: wanted in self.take(), f"a hint of {source!r}", deadline, every=0.002)
        return time.monotonic() - began

    def take(self) -> set[tuple[str, str]]:
        self.hints.wait(0.005)
        self.heard.update(self.hints.take())
        return self.heard

    def forget(self) -> None:
        self.heard.clear()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path)
    yield listener
    listener.hints.stop()


def create(at: Listener, name: str) -> None:
    (at.raw / name).write_bytes(b"{}")


def rename_in(at: Listener, name: str) -> None:
    (at.outside / "x").write_bytes(b"{}")
    (at.outside / "x").rename(at.raw / name)


def rename_within(at: Listener, name: str) -> None:
    (at.raw / ".x.tmp").write_bytes(b"{}")
    (at.raw / ".x.tmp").rename(at.raw / name)


def hard_link(at: Listener, name: str) -> None:
    (at.outside / "x").write_bytes(b"{}")
    os.link(at.outside / "x", at.raw / name)


def symbolic_link(at: Listener, name: str) -> None:
    os.symlink("nowhere", at.raw / name)


def fifo(at: Listener, name: str) -> None:
    os.mkfifo(at.raw / name)


@pytest.mark.parametrize("arrive", [create, rename_in, rename_within, hard_link, symbolic_link, fifo])
@pytest.mark.parametrize("name", ["a.json", "-rf", "a b'\"\n.json", "文件.json", "x" * 255, "bad\udcff\udcfe.json"])
def test_every_arrival_is_hinted_at(listener: Listener, arrive: Callable[[Listener, str], None], name: str) -> None:
    arrive(listener, name)
    assert listener.hears(name) < AT_ONCE


def test_each_watch_folder_is_told_apart(listener: Listener) -> None:
    (listener.other / "a.json").write_bytes(b"{}")
    listener.hears("a.json", listener.other)
    assert (str(listener.raw), "a.json") not in listener.heard


def test_the_end_of_writing_is_hinted_at(listener: Listener) -> None:
    with (listener.raw / "a.json").open("wb") as file:
        file.write(b"{")
        file.flush()
        listener.hears("a.json")
        listener.forget()
        file.write(b"}")
    listener.hears("a.json")
    listener.forget()
    with (listener.raw / "a.json").open("ab") as file:
        file.write(b" ")
    listener.hears("a.json")


def test_files_in_new_folders_are_hinted_at(listener: Listener) -> None:
    (listener.raw / "new" / "deep").mkdir(parents=True)
    (listener.raw / "new" / "deep" / "a.json").write_bytes(b"{}")
    listener.hears("new")
    wait_until(
        lambda: listener.take() & {(str(listener.raw), "new/deep"), (str(listener.raw), "new/deep/a.json")},
        "a hint of the file or its folder",
        DEADLINE,
    )
    listener.forget()
    (listener.raw / "new" / "deep" / "later.json").write_bytes(b"{}")
    listener.hears("new/deep/later.json")


def test_a_folder_moved_in_whole_is_hinted_at_and_watched(listener: Listener) -> None:
    (listener.outside / "batch" / "deep").mkdir(parents=True)
    (listener.outside / "batch" / "deep" / "a.json").write_bytes(b"{}")
    (listener.outside / "batch").rename(listener.raw / "batch")
    assert listener.hears("batch") < AT_ONCE
    listener.forget()
    (listener.raw / "batch" / "deep" / "later.json").write_bytes(b"{}")
    assert listener.hears("batch/deep/later.json") < AT_ONCE


def test_our_own_claims_hold_back_no_hint(listener: Listener) -> None:
    """Renames out of the folder, which watchdog would hold back for half a second, with all that comes after them."""
    names = [f"{number}.json" for number in range(500)]
    for name in names:
        (listener.raw / name).write_bytes(b"{}")
    listener.hears(names[-1])
    took = []
    for _ in range(3):
        for name in names:
            (listener.raw / name).rename(listener.outside / name)
        began = time.monotonic()
        (listener.raw / "next.json").write_bytes(b"{}")
        listener.hears("next.json")
        took.append(time.monotonic() - began)
        for name in names:
            (listener.outside / name).rename(listener.raw / name)
        listener.hears(names[-1])
        (listener.raw / "next.json").unlink()
        listener.take()
        listener.forget()
    assert min(took) < AT_ONCE, "what is held back is so each time; a busy machine is late now and then"


def test_removals_are_no_hints(listener: Listener) -> None:
    create(listener, "a.json")
    create(listener, "b.json")
    listener.hears("b.json")  # so all about a.json has been told
    listener.forget()
    (listener.raw / "a.json").rename(listener.outside / "a.json")
    create(listener, "last.json")
    listener.hears("last.json")
    assert (str(listener.raw), "a.json") not in listener.heard


def test_each_hint_is_told_once_and_in_order(listener: Listener) -> None:
    for name in ("a", "b", "c"):
        create(listener, name)
        create(listener, name)
    listener.hears("c")
    for name in ("d", "e", "f"):
        create(listener, name)
    told: list[str] = []

    def told_all() -> bool:
        listener.hints.wait(0.2)  # long enough for the doubles to come together
        told.extend(source for _, source in listener.hints.take())
        return told[-1:] == ["f"]

    wait_until(told_all, "the last hint", DEADLINE)
    assert list(dict.fromkeys(name for name in told if name in "def")) == ["d", "e", "f"]


def test_waiting_ends_with_the_first_hint(listener: Listener) -> None:
    create(listener, "a.json")
    began = time.monotonic()
    listener.hints.wait(5)
    assert time.monotonic() - began < AT_ONCE
    assert (str(listener.raw), "a.json") in listener.hints.take()


@pytest.mark.parametrize("times", [1, 3])
def test_a_watch_folder_that_is_removed_and_made_again_is_watched_again(listener: Listener, times: int) -> None:
    """It may even get the same inode number, so that is not enough to know it by."""
    for _ in range(times):
        shutil.rmtree(listener.raw)
        listener.raw.mkdir()
        create(listener, "sign.json")

        def seen() -> bool:
            listener.hints.watch()  # what ingest does before each look
            create(listener, "sign.json")
            return (str(listener.raw), "sign.json") in listener.take()

        wait_until(seen, "a hint from the new folder", DEADLINE)
        listener.forget()
    (listener.other / "a.json").write_bytes(b"{}")
    assert listener.hears("a.json", listener.other) < AT_ONCE, "the other folder is watched all the same"


def test_a_watch_folder_that_is_moved_away_and_made_again_is_watched_again(listener: Listener) -> None:
    listener.raw.rename(listener.outside / "old")
    listener.raw.mkdir()
    listener.hints.watch()
    create(listener, "a.json")
    assert listener.hears("a.json") < AT_ONCE


def test_a_missing_watch_folder_is_watched_once_it_is_there(tmp_path: Path) -> None:
    hints = Hints([str(tmp_path / "raw")], logging.getLogger("test"))
    hints.watch()
    (tmp_path / "raw").mkdir()
    hints.watch()
    (tmp_path / "raw" / "a.json").write_bytes(b"{}")
    hints.wait(DEADLINE)
    assert (str(tmp_path / "raw"), "a.json") in hints.take()
    hints.stop()


def test_folders_that_come_and_go_quickly_end_no_hints(listener: Listener) -> None:
    for number in range(200):
        (listener.raw / f"d{number}" / "in").mkdir(parents=True)
        shutil.rmtree(listener.raw / f"d{number}")
    create(listener, "a.json")
    listener.hears("a.json")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_watching_starts_anew_when_the_thread_behind_it_has_died(listener: Listener) -> None:
    """A folder moved out, another of its name made and removed, then the first one removed: watchdog 7.1's reader
    trips over that. Whether it does or not, the next look sees to it that hints go on."""
    (listener.raw / "sub").mkdir()
    listener.hears("sub")
    (listener.raw / "sub").rename(listener.outside / "sub")
    listener.forget()
    (listener.raw / "sub").mkdir()
    listener.hears("sub")
    (listener.raw / "sub").rmdir()
    (listener.outside / "sub").rmdir()

    def seen() -> bool:
        listener.hints.watch()
        create(listener, "sign.json")
        return (str(listener.raw), "sign.json") in listener.take()

    for _ in range(3):
        wait_until(seen, "a hint", DEADLINE)
        listener.forget()


def test_without_inotify_a_warning_is_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = time.monotonic

    def no_watches_left() -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("llm_scheduler.ingest.fs_events._observer", no_watches_left)
    hints = Hints([str(tmp_path)], logging.getLogger("test"))
    for _ in range(10):  # ingest asks before each look
        hints.watch()
        hints.wait(0.01)
        assert hints.take() == []
    assert caplog.text.count("max_user_watches") == 1
    monkeypatch.undo()
    hints.watch()
    (tmp_path / "a.json").write_bytes(b"{}")
    hints.wait(0.1)
    assert hints.take() == [], "the kernel is not asked again at once"
    monkeypatch.setattr("llm_scheduler.ingest.fs_events.time.monotonic", lambda: real() + 31)
    hints.watch()
    (tmp_path / "b.json").write_bytes(b"{}")
    hints.wait(DEADLINE)
    assert (str(tmp_path), "b.json") in hints.take()
    hints.stop()


def test_a_failure_to_watch_leaves_no_thread_behind(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_watches_left(*_: object) -> int:
        ctypes.set_errno(errno.ENOSPC)
        return -1

    listener.hints.stop()
    before = threading.active_count()
    monkeypatch.setattr("watchdog.observers.inotify_c.inotify_add_watch", no_watches_left)
    monkeypatch.setattr("llm_scheduler.ingest.fs_events._RETRY_SECONDS", 0.0)
    for _ in range(5):
        listener.hints.watch()
    assert "inotify watch limit reached" in caplog.text
    assert threading.active_count() == before
    monkeypatch.undo()
    listener.hints.watch()
    create(listener, "a.json")
    listener.hears("a.json")


def test_a_watch_folder_that_is_a_link(listener: Listener) -> None:
    link = listener.outside / "link"
    link.symlink_to(listener.raw)
    hints = Hints([str(link)], logging.getLogger("test"))
    hints.watch()
    create(listener, "a.json")
    hints.wait(AT_ONCE)
    assert (str(link), "a.json") in hints.take(), "told as it is configured"
    hints.stop()


def test_too_many_hints_ask_for_a_scan(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_scheduler.ingest.fs_events._MAX_HINTS", 10)
    for number in range(50):
        create(listener, f"{number}.json")
    wait_until(lambda: listener.hints.overflowed, "the flag", DEADLINE)
    assert len(listener.hints.take()) <= 12
