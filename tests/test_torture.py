"""`llmctl torture`: its account notices whatever is wrong, its disk is its own, and a short run of it balances."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LLMCTL

from llm_scheduler.api.torture.balance import TortureDocument, balance, digest_of
from llm_scheduler.jobs.config import Directories

SOUND, BROKEN = b'{"n": 1}', b"{"


class Places:
    """A spool in which a sound document is done, and a broken one rejected."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("watch_directory", "output_directory", "archive_directory", "error_directory", "temp_directory")
        self.directories = Directories(**{name: str(folder / name.partition("_")[0]) for name in names})
        self.dropped = {
            digest_of(SOUND): TortureDocument("sound", SOUND),
            digest_of(BROKEN): TortureDocument("b", BROKEN, "rejected"),
        }
        for name in names:
            (folder / name.partition("_")[0]).mkdir()
        self.put("archive/sound.json", SOUND)
        self.result("output/1.json", SOUND)
        self.put("error/b.json", BROKEN)
        self.result("error/b.json.error.json", BROKEN, code="invalid_json")

    def put(self, place: str, raw: bytes) -> None:
        path = self.folder / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)

    def result(self, place: str, raw: bytes, **more: str) -> None:
        self.put(place, json.dumps({"sha256": digest_of(raw), **more}).encode())


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def test_an_account_that_balances(places: Places) -> None:
    account = balance(places.directories, places.dropped)
    assert account.balanced
    assert (account.dropped, account.done, account.rejected, dict(account.codes)) == (2, 1, 1, {"invalid_json": 1})


def unlucky(places: Places) -> None:
    """Three workers were killed with the sound one in hand."""
    os.unlink(places.folder / "output/1.json")
    os.rename(places.folder / "archive/sound.json", places.folder / "error/sound.json")
    places.result("error/sound.json.error.json", SOUND, code="worker_lost")


def test_bad_luck_is_no_fault(places: Places) -> None:
    unlucky(places)
    account = balance(places.directories, places.dropped)
    assert (account.balanced, account.rejected, account.unlucky) == (True, 2, 1)


def rejected_though_sound(places: Places) -> None:
    unlucky(places)
    places.result("error/sound.json.error.json", SOUND, code="handler_failed")


def done_though_broken(places: Places) -> None:
    os.unlink(places.folder / "error/b.json.error.json")
    places.result("output/2.json", BROKEN)


@pytest.mark.parametrize(
    ("column", "spoil"),
    [
        ("missing", lambda places: os.unlink(places.folder / "archive/sound.json")),
        ("duplicates", lambda places: places.put("error/again.json", SOUND)),
        ("strangers", lambda places: places.put("archive/x.json", b"nobody's")),
        ("strangers", lambda places: places.put("output/x.json", b"no JSON")),
        ("strangers", lambda places: places.result("output/x.json", b"nobody's")),
        ("disagreeing", lambda places: os.unlink(places.folder / "output/1.json")),
        ("disagreeing", lambda places: places.result("output/2.json", SOUND)),
        ("disagreeing", lambda places: places.result("error/s.error.json", SOUND, code="worker_lost")),
        ("in_flight", lambda places: places.put("temp/group/c.json", b"claimed")),
        ("in_flight", lambda places: places.put("watch/c.json", b"waits")),
        ("astray", rejected_though_sound),
        ("astray", done_though_broken),
    ],
)
def test_an_account_that_does_not_balance(places: Places, column: str, spoil: Callable[[Places], None]) -> None:
    spoil(places)
    account = balance(places.directories, places.dropped)
    assert not account.balanced
    assert getattr(account, column), account


FILL = """
import ctypes, os, sys
from llm_scheduler.api.torture.small_disk import DiskUnavailable, mount
if len(sys.argv) > 2:
    user = int(sys.argv[2])
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, or its /proc would be root's
try:
    disk = mount(sys.argv[1], 1 << 20)
except DiskUnavailable as error:
    sys.exit(f"no disk: {error}")
path = os.path.join(sys.argv[1], "a")
disk.fill(8192)
try:
    with open(path, "wb") as file:
        file.write(bytes(100_000))
    sys.exit("it is not full")
except OSError as error:
    assert error.errno == 28, error
disk.free()
with open(path, "wb") as file:
    file.write(bytes(100_000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a private file system takes Linux")
def test_the_disk_is_full_and_free_again_and_nobody_else_sees_it(tmp_path: Path) -> None:
    tried = subprocess.run([sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=False)
    if tried.stderr.startswith("no disk"):
        pytest.skip(tried.stderr)
    assert tried.returncode == 0, tried.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="it takes root to become somebody else")
def test_the_disk_of_somebody_who_is_not_root() -> None:
    """In a user namespace, or not at all, with the reason."""
    place = Path(tempfile.mkdtemp(prefix="llm-disk-"))
    os.chown(place, 65534, 65534)
    tried = subprocess.run(
        [sys.executable, "-c", FILL, str(place), "65534"], capture_output=True, text=True, check=False
    )
    assert not list(place.iterdir())
    place.rmdir()
    if tried.returncode:
        assert "no disk: a private file system can't be mounted" in tried.stderr
        pytest.skip(tried.stderr)


@pytest.mark.slow
def test_a_short_run_balances(tmp_path: Path) -> None:
    command = [LLMCTL, "torture", "--documents", "120", "--seconds", "6", "--seed", "3", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=150)
    assert run.returncode == 0, run.stderr[-3000:]
    account = json.loads(run.stdout)
    assert (account["balanced"], account["in"], account["missing"], account["duplicates"]) == (True, 120, 0, 0)
    assert account["done"] + account["rejected"] == 120
    assert account["blows"]
    assert account["kept"] is None
