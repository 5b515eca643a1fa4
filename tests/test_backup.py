"""A backup of a spool in which everything moves is as whole as one of a spool that stands still."""

import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Fleet, files, is_report, mostly_slow, wait_until
from redis import Redis
from typer.testing import CliRunner

from llm_scheduler.api.cli import app
from llm_scheduler.ingest.spool import Folders, SpoolLock, backup_file
from llm_scheduler.ingest.spool.backup import make
from llm_scheduler.ingest.spool.locks import FreezeLock, FreezeTimeout
from llm_scheduler.ingest.spool.restore import restore
from llm_scheduler.jobs.sealing import new_key
from llm_scheduler.jobs.store import commands

BROKEN = b'{"a": nonsense nonsense'


def llmctl(fleet: Fleet, *arguments: str, status: int = 0) -> str:
    """What a command prints, in this process: starting one takes longer than most of them do."""
    fleet.config()
    done = CliRunner().invoke(app, ["--config", str(fleet.config_path), *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    return done.stdout if status == 0 else done.stderr


def folders_of(fleet: Fleet) -> Folders:
    return Folders.of(fleet.config().directories)


def contents(fleet: Fleet) -> dict[str, bytes]:
    """Every file of the spool but the hidden ones."""
    return {str(path.relative_to(fleet.folder)): path.read_bytes() for path in files(fleet.folder) if path.is_file()}


def destroy(fleet: Fleet) -> None:
    for folder in (fleet.raw, fleet.temp, fleet.archive, fleet.errors, fleet.processed):
        shutil.rmtree(folder, ignore_errors=True)


def numbered(first: int, count: int) -> dict[str, bytes]:
    return {f"{number:04d}.json": b'{"number": %d}' % number for number in range(first, first + count)}


def test_what_is_backed_up_is_restored(fleet: Fleet, tmp_path: Path, redis: Redis) -> None:
    dropped = numbered(0, 6) | {"lines/dir/é.json": b'"deep"', "lines.lines/bad.json": BROKEN}
    for name, content in dropped.items():
        fleet.drop(name, content)
    lines = b'{"line": 1}\n{"line": 2}\n{"line": 3}\n'
    fleet.drop("three.jsonl", lines)
    fleet.start()
    fleet.wait_finished(len(dropped) + 4)
    fleet.stop()
    fleet.drop("waits.json", b'"waits"')
    before = contents(fleet)
    made = make(folders_of(fleet), str(tmp_path / "backups"))
    assert (made.count.waiting, made.count.in_flight, made.count.in_error, made.count.results) == (1, 0, 1, 10)
    assert made.count.archived == 11, "ten and the file that was taken apart"
    assert contents(fleet) == before, "nothing has changed by it"
    assert not (fleet.temp / ".backup").exists()
    assert os.stat(made.path).st_mode & 0o077 == 0
    destroy(fleet)
    restored = restore(made.path, folders_of(fleet))
    assert restored.count == made.count
    del before["config.json"]
    after = contents(fleet)
    del after["config.json"]
    assert {name: content for name, content in before.items() if not name.endswith(".log")} == {
        name: content for name, content in after.items() if not name.endswith(".log")
    }
    redis.flushall()
    fleet.start()
    fleet.wait_finished(len(dropped) + 5)
    wait_until(lambda: fleet.ledger_total("done") == 1, "what waited is done")
    assert "11  finished, unknown to Redis" in llmctl(fleet, "reconcile")
    assert "11  finished, now recorded in Redis" in llmctl(fleet, "reconcile", "--record")
    assert fleet.ledger_total("done", "rejected") == 12
    told = json.loads(llmctl(fleet, "show", fleet.reports()[0]["id"], "--json"))
    assert told["status"] == "rejected"


@pytest.mark.slow
def test_a_backup_is_one_instant_of_a_spool_that_moves(fleet: Fleet, tmp_path: Path, redis: Redis) -> None:
    """While documents stream through, and rejected ones are tried again, backups are made; each is whole."""
    fleet.configure(processing={"mode": "hybrid", "batch_size": 10, "batch_timeout": 1})
    fleet.start()
    dropped: dict[str, bytes] = {}
    stop = threading.Event()

    def produce() -> None:
        number = 0
        while not stop.is_set() and number < 2000:
            for name, content in numbered(number, 25).items():
                dropped[name] = content
                fleet.drop(name, content)
            number += 25
            if number % 100 == 0:
                fleet.drop(f"bad-{number}.json", b'{"bad": nonsense %d' % number)
            if number % 200 == 0:
                fleet.drop(f"lines-{number}.jsonl", b"".join(b'{"line": %d}\n' % (number + n) for n in range(5)))
            stop.wait(0.02)

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: fleet.finished() > 100, "documents stream")
    made = []
    promised = []
    for number in range(2):
        promised.append(set(dropped))  # these had been dropped before the instant
        made.append(make(folders_of(fleet), str(tmp_path / f"backups-{number}")))
    stop.set()
    producer.join()
    assert sum(each.count.in_flight + each.count.waiting for each in made) > 0, "something was on its way"
    fleet.stop()
    for each, names in zip(made, promised, strict=True):
        redis.flushall()
        destroy(fleet)
        restore(each.path, folders_of(fleet))
        fleet.start()
        wait_until(lambda: not fleet.in_flight() and not files(fleet.raw), "all that was restored is finished")
        originals = sorted(files(fleet.archive))
        times = Counter(path.name for path in originals)
        assert not {name: times[name] for name in names if times[name] != 1}, "each is there once"
        twice = [str(path.relative_to(fleet.archive)) for path in originals if path.name.count(".") > 1]
        assert twice == [], "nothing is there twice"
        fleet.stop()
        assert json.loads(llmctl(fleet, "reconcile", "--verify", "--json"))["balanced"]


def test_what_can_not_be_read_is_left_out_and_named(fleet: Fleet, tmp_path: Path) -> None:
    """One file of somebody else's does not cost the night's backup."""
    folders = folders_of(fleet)
    folders.prepare()
    shut = {
        "raw": fleet.drop("shut.json", b"1"),
        "archive": fleet.archive / "shut.json",
        "errors": fleet.errors / "folder",
        "processed": fleet.processed / "listed",
    }
    fleet.drop("open.json", b"2")
    for path in (shut["archive"], fleet.archive / "open.json", shut["errors"] / "bad.json", shut["processed"] / "c"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"3")
    llmctl(fleet, "backup", str(tmp_path / "all"))  # and nobody may read what it imports, where Python is root's alone
    with nobody_of(fleet.folder):
        for path in shut.values():
            path.chmod(0)
        shut["processed"].chmod(0o400)  # what is in it can be listed, and not read
        made = make(folders, str(fleet.folder / "backups"))
        assert made.left_out == sorted(str(path) for path in shut.values())
        assert (made.count.waiting, made.count.archived, made.count.in_error, made.count.results) == (1, 1, 0, 0)
        assert backup_file.verify(made.path).count == made.count
        shut["errors"].chmod(0o700)
        told = llmctl(fleet, "backup", str(fleet.folder / "backups"), status=1)
    assert "without the files" in told
    assert "(3; see above)" in told
    assert llmctl(fleet, "backup", str(tmp_path / "more"))


@contextmanager
def nobody_of(folder: Path) -> Iterator[None]:
    """Within, this process has no more rights to the files below `folder` than its owner, who is not root."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    parents = {parent: parent.stat().st_mode for parent in folder.parents if parent.stat().st_uid == 0}
    for parent, mode in parents.items():
        parent.chmod(mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for parent, mode in parents.items():
            parent.chmod(mode)


@pytest.mark.parametrize("sealed", [False, True])
def test_what_comes_after_the_instant_is_not_in_a_backup(
    fleet: Fleet, tmp_path: Path, redis: Redis, sealed: bool
) -> None:
    """A file that waits at the instant, and is taken apart while the backup is written, comes back once."""
    if sealed:
        fleet.configure(security={"encryption_enabled": True, "encryption_key": [new_key()], "encrypt_originals": True})
    fleet.start()
    fleet.drop("before.json", b"1")
    fleet.wait_finished(1)
    fleet.stop()
    fleet.drop("three.jsonl", b'{"line": 1}\n{"line": 2}\n{"line": 3}\n')
    fleet.drop("bad.json", BROKEN)
    told: list[backup_file.BackupCount] = []

    def while_it_is_written(count: backup_file.BackupCount) -> None:
        told.append(count)
        if len(told) == 1:
            fleet.start()
            fleet.drop("after.json", b"2")
            fleet.wait_finished(6)
            for folder in (fleet.archive, fleet.processed):
                for path in files(folder):
                    path.chmod(0o600)

    made = make(folders_of(fleet), str(tmp_path / "backups"), progress=while_it_is_written)
    fleet.stop()
    assert (made.count.waiting, made.count.archived, made.count.in_error, made.count.results) == (2, 1, 0, 1)
    redis.flushall()
    destroy(fleet)
    restore(made.path, folders_of(fleet))
    fleet.start()
    fleet.wait_finished(5)
    assert sorted(str(path.relative_to(fleet.archive)) for path in files(fleet.archive)) == [
        "before.json",
        "three.jsonl",
        *(f"three.jsonl.lines/00000{number}.json" for number in (1, 2, 3)),
    ]
    assert [path.name for path in files(fleet.errors) if not is_report(path)] == ["bad.json"]


@pytest.mark.slow
def test_ingest_moves_nothing_behind_a_shut_gate(fleet: Fleet) -> None:
    fleet.start("ingest", "collector", "medium")
    fleet.drop("first.json", b"1")
    fleet.wait_finished(1)
    gate = FreezeLock(str(fleet.temp), "moves")
    with gate.hold(10):
        path = fleet.drop("second.json", b"2")
        with pytest.raises(pytest.fail.Exception):
            wait_until(lambda: not path.exists(), "the claim", deadline=1.5)
    fleet.wait_finished(2)


def test_a_retry_waits_for_a_backup(fleet: Fleet, redis: Redis) -> None:
    fleet.drop("bad.json", BROKEN)
    fleet.start("ingest", "collector", "medium")
    fleet.wait_finished(1)
    wait_until(lambda: fleet.ledger_total("rejected") == 1, "the ledger knows")
    first = fleet.reports()[0]
    gate = FreezeLock(str(fleet.temp), "retries")
    with gate.hold(10):
        commands.send(redis, "retry", [first["id"]], "a test", time.time())
        fleet.drop("good.json", b"1")
        fleet.wait_finished(2)
        assert fleet.reports() == [first], "it lies where it lay"
    wait_until(lambda: [r for r in fleet.reports() if r["failed_at"] != first["failed_at"]], "it was tried again")


def test_the_gate_is_passed_and_shut_in_turn(tmp_path: Path) -> None:
    """A gate that is passed all the time is shut all the same."""
    stop = threading.Event()

    def pass_all_the_time() -> None:
        gate = FreezeLock(str(tmp_path), "moves")
        while not stop.is_set():
            if gate.enter():
                gate.leave()
        gate.close()

    passing = [threading.Thread(target=pass_all_the_time) for _ in range(2)]
    for each in passing:
        each.start()
    try:
        gate, other = FreezeLock(str(tmp_path), "moves"), FreezeLock(str(tmp_path), "moves")
        with gate.hold(10):
            assert not other.enter()
            with pytest.raises(FreezeTimeout), other.hold(0.05):
                pass
    finally:
        stop.set()
        for each in passing:
            each.join()


def test_files_that_are_no_files(fleet: Fleet, tmp_path: Path) -> None:
    """Links, pipes and sockets are rejected, and lie in the error folder as what they are."""
    os.symlink("/etc/passwd", fleet.raw / "link.json")
    os.mkfifo(fleet.raw / "pipe.json")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(fleet.raw)
        try:
            listening.bind("socket.json")
        finally:
            os.chdir(here)
    fleet.start("ingest", "collector", "high", "medium")
    wait_until(lambda: len(fleet.reports()) == 3, "three are rejected")
    fleet.stop()
    made = make(folders_of(fleet), str(tmp_path / "backups"))
    assert made.count.in_error == 3
    destroy(fleet)
    restore(made.path, folders_of(fleet))
    assert os.readlink(fleet.errors / "link.json") == "/etc/passwd"
    assert (fleet.errors / "pipe.json").is_fifo()
    assert (fleet.errors / "socket.json").exists()
    assert "Everything is accounted for" in llmctl(fleet, "reconcile")


@pytest.mark.parametrize("place", ["raw", "temp/below"])
def test_a_backup_never_goes_into_the_spool(fleet: Fleet, place: str) -> None:
    said = llmctl(fleet, "backup", str(fleet.folder / place), status=1)
    assert "lies in" in said
    assert "outside of the spool" in said


def test_only_the_newest_are_kept(fleet: Fleet, tmp_path: Path) -> None:
    folders_of(fleet).prepare()
    target = tmp_path / "backups"
    target.mkdir()
    host = os.uname().nodename
    for day in range(1, 5):
        (target / f"llm-{host}-2026010{day}T033000Z.tar.gz").touch()
    (target / "llm-another-20260101T033000Z.tar.gz").touch()
    (target / "notes.txt").touch()
    told = json.loads(llmctl(fleet, "backup", str(target), "--keep", "2", "--json"))
    left = sorted(path.name for path in target.iterdir())
    assert len(told["removed"]) == 3
    assert f"llm-{host}-20260104T033000Z.tar.gz" in left
    assert "llm-another-20260101T033000Z.tar.gz" in left
    assert len(left) == 4


class TestRestoring:
    @pytest.fixture
    def made(self, fleet: Fleet, tmp_path: Path) -> str:
        folders_of(fleet).prepare()
        for name, content in numbered(0, 300).items():
            fleet.drop(name, content)
        return make(folders_of(fleet), str(tmp_path / "backups")).path

    def test_into_a_spool_that_is_not_empty(self, fleet: Fleet, made: str) -> None:
        before = contents(fleet)
        said = llmctl(fleet, "restore", made, status=1)
        assert "raw" in said
        assert "is not empty" in said
        assert contents(fleet) == before

    def test_beside_what_came_since(self, fleet: Fleet, tmp_path: Path) -> None:
        fleet.drop("a.json", b'"before"')
        folders_of(fleet).prepare()
        made = make(folders_of(fleet), str(tmp_path / "backups")).path
        destroy(fleet)
        fleet.drop("a.json", b'"since"')
        fleet.drop("folder/b.json", b'"since"')
        llmctl(fleet, "restore", "--keep-waiting", made)
        kept = {path.name: path.read_bytes() for path in files(fleet.raw)}
        assert sorted(kept.values()) == [b'"before"', b'"since"', b'"since"']
        assert kept["a.json"] == b'"since"'
        (fleet.archive / "c.json").write_bytes(b"1")
        assert "archive_directory) is not empty" in llmctl(fleet, "restore", "--keep-waiting", made, status=1)

    def test_while_somebody_works_on_it(self, fleet: Fleet, made: str) -> None:
        destroy(fleet)
        folders_of(fleet).prepare()
        lock = SpoolLock(str(fleet.temp), "collector")
        assert lock.take()
        assert f"llm-collector (process {os.getpid()}) works on" in llmctl(fleet, "restore", made, status=1)
        lock.release()
        assert not files(fleet.raw)

    @pytest.mark.parametrize("left", mostly_slow([0.5, 0, 10, 0.98, -1]))
    def test_what_is_cut_off_restores_nothing(self, fleet: Fleet, made: str, left: float) -> None:
        destroy(fleet)
        whole = Path(made).read_bytes()
        Path(made).write_bytes(whole[: int(left * len(whole)) if isinstance(left, float) else left])
        assert "damaged or cut off" in llmctl(fleet, "restore", made, status=1)
        assert not files(fleet.raw)

    def test_what_is_damaged_restores_nothing(self, fleet: Fleet, made: str) -> None:
        destroy(fleet)
        content = bytearray(Path(made).read_bytes())
        content[len(content) // 2] ^= 0xFF
        Path(made).write_bytes(content)
        assert "Take another one" in llmctl(fleet, "restore", made, status=1)
        assert not files(fleet.raw)

    def test_without_its_end(self, fleet: Fleet, made: str) -> None:
        rewrite(made, lambda members: members[:-1])
        assert "is not whole" in llmctl(fleet, "restore", "--check", made, status=1)

    def test_with_a_file_too_few(self, fleet: Fleet, made: str) -> None:
        rewrite(made, lambda members: [*members[:5], *members[6:]])
        assert ", but contains " in llmctl(fleet, "restore", "--check", made, status=1)

    @pytest.mark.parametrize(
        "name", mostly_slow(["watch/0/../../../x", "/etc/x", "watch/7/x", "elsewhere/x", "temp", "watch/0//x"])
    )
    def test_a_name_that_leads_elsewhere(self, fleet: Fleet, made: str, name: str, tmp_path: Path) -> None:
        destroy(fleet)

        def renamed(members: list[tuple[tarfile.TarInfo, bytes]]) -> list[tuple[tarfile.TarInfo, bytes]]:
            members[1][0].name = name
            return members

        rewrite(made, renamed, recount=True)
        assert "in no folder of a spool" in llmctl(fleet, "restore", made, status=1)
        assert not files(fleet.raw)

    def test_nothing_is_written_through_a_link(self, fleet: Fleet, made: str, tmp_path: Path) -> None:
        destroy(fleet)
        outside = tmp_path / "outside"
        outside.mkdir()

        def linked(members: list[tuple[tarfile.TarInfo, bytes]]) -> list[tuple[tarfile.TarInfo, bytes]]:
            link = tarfile.TarInfo("watch/0/trap")
            link.type, link.linkname = tarfile.SYMTYPE, str(outside)
            inner = tarfile.TarInfo("watch/0/trap/x.json")
            inner.size = 1
            return [members[0], (link, b""), (inner, b"1"), *members[1:]]

        rewrite(made, linked, recount=True)
        llmctl(fleet, "restore", made, status=1)
        assert not list(outside.iterdir())

    def test_of_another_format(self, fleet: Fleet, made: str) -> None:
        def newer(members: list[tuple[tarfile.TarInfo, bytes]]) -> list[tuple[tarfile.TarInfo, bytes]]:
            said = json.loads(members[0][1]) | {"format": 2, "version": "9.9"}
            content = json.dumps(said).encode()
            members[0][0].size = len(content)
            return [(members[0][0], content), *members[1:]]

        rewrite(made, newer)
        said = llmctl(fleet, "restore", made, status=1)
        assert "the format 2" in said
        assert "Restore it with the version that made it: 9.9" in said

    def test_more_watch_folders_than_there_are(self, fleet: Fleet, tmp_path: Path) -> None:
        second = str(fleet.folder / "raw2")
        fleet.configure(directories={"watch_directory": [str(fleet.raw), second]})
        folders_of(fleet).prepare()
        made = make(folders_of(fleet), str(tmp_path / "backups")).path
        fleet.configure(directories={"watch_directory": str(fleet.raw)})
        destroy(fleet)
        assert "Add the others to directories.watch_directory" in llmctl(fleet, "restore", made, status=1)

    def test_something_else(self, fleet: Fleet, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"nothing")
        destroy(fleet)
        assert "is no backup" in llmctl(fleet, "restore", str(tmp_path / "x"), status=1)
        assert "missing" in llmctl(fleet, "restore", str(tmp_path / "nowhere"), status=1)


@pytest.mark.parametrize("before", [None, '{"keys": []}\n', '{"keys": [{"another": 1}]}'])
def test_what_lies_elsewhere_goes_with_it(fleet: Fleet, tmp_path: Path, before: str | None) -> None:
    """The API's keys, and what the router was taught; what has something in it is not overwritten."""
    keys, labels = tmp_path / "etc/api-keys.json", tmp_path / "labels.jsonl"
    fleet.configure(security={"api_keys_file": str(keys)}, intelligent_routing={"labels": str(labels)})
    keys.parent.mkdir()
    keys.write_text('{"keys": [{"some": "hash"}]}')
    labels.write_text('{"label": 1}\n')
    folders_of(fleet).prepare()
    llmctl(fleet, "backup", str(tmp_path / "backups"))
    labels.unlink()
    keys.unlink()
    if before is not None:
        keys.write_text(before)
        keys.chmod(0o640)
    (made,) = (tmp_path / "backups").iterdir()
    llmctl(fleet, "restore", str(made))
    assert labels.read_text() == '{"label": 1}\n'
    kept = before is not None and "another" in before
    assert keys.read_text() == (before if kept else '{"keys": [{"some": "hash"}]}')
    assert os.stat(keys).st_mode & 0o777 == (0o600 if before is None else 0o640)
    assert [path.name for path in keys.parent.iterdir()] == ["api-keys.json"]


def rewrite(path: str, change: Any, *, recount: bool = False) -> None:
    """Make a backup anew with other members."""
    with gzip.open(path) as packed, tarfile.open(fileobj=packed) as tar:
        members = [(member, (tar.extractfile(member) or io.BytesIO()).read()) for member in tar]
    members = change(members)
    if recount:
        count = backup_file.BackupCount()
        for member, content in members[1:-1]:
            count.add(member.name, len(content))
        content = json.dumps({name: getattr(count, name) for name in count.__struct_fields__}).encode()
        members[-1][0].size = len(content)
        members[-1] = (members[-1][0], content)
    with gzip.open(path, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))


def test_a_full_disk_leaves_no_half_backup(fleet: Fleet, tmp_path: Path) -> None:
    folders_of(fleet).prepare()
    for name in numbered(0, 20):
        fleet.drop(name, os.urandom(20000).hex().encode())
    fleet.config()
    target = tmp_path / "backups"
    target.mkdir()
    # A limit on the size of files stands for the disk: SIGXFSZ ignored, a write beyond it is an error.
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000));"
        "from llm_scheduler.api.cli import main; main()"
    )
    arguments = ["--config", str(fleet.config_path), "backup", str(target)]
    done = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert not list(target.iterdir())
    assert not (fleet.temp / ".backup").exists()
    assert len(files(fleet.raw)) == 20


@pytest.mark.slow
def test_what_has_come_to_its_end_since_is_done_again(fleet: Fleet, tmp_path: Path, redis: Redis) -> None:
    """Redis stayed, and remembers an end that is not on the disk any more."""
    fleet.start("ingest", "collector")
    for name, content in numbered(0, 3).items():
        fleet.drop(name, content)
    fleet.drop("bad.json", BROKEN)
    wait_until(lambda: len(fleet.in_flight()) == 4, "all are claimed")
    wait_until(lambda: fleet.ledger_total("queued") == 4, "all are enqueued")
    made = make(folders_of(fleet), str(tmp_path / "backups"))
    assert made.count.in_flight == 4
    fleet.start("medium")
    fleet.wait_finished(4)
    wait_until(lambda: fleet.ledger_total("done", "rejected") == 4, "the ledger knows")
    fleet.stop()
    destroy(fleet)
    restore(made.path, folders_of(fleet))
    fleet.start("ingest", "collector", "medium")
    fleet.wait_finished(4)
    wait_until(lambda: not fleet.in_flight(), "nothing is left")
    wait_until(lambda: fleet.ledger_total("done", "rejected") == 4, "the ledger knows")
    assert (fleet.ledger_total("done"), fleet.ledger_total("rejected")) == (3, 1)
    assert "Everything is accounted for" in llmctl(fleet, "reconcile", "--verify")
