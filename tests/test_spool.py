"""The spool alone: claims, manifests, names, the commit and its repetition, locks and folders."""

import base64
import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from llm_scheduler.ingest.spool import Candidate, Claims, FolderError, Folders, SpoolLock, explain
from llm_scheduler.ingest.spool.claims import Claim, FileStamp, return_to_watch
from llm_scheduler.ingest.spool.commit import Commit, CommitResult
from llm_scheduler.ingest.spool.file_io import read_whole, rename_new
from llm_scheduler.ingest.spool.names import NAME_BYTES, REPORT_SUFFIX, with_id
from llm_scheduler.ingest.spool.watch_files import is_ignored
from llm_scheduler.jobs.config import Directories
from llm_scheduler.jobs.document import Route, Status, new_id
from llm_scheduler.jobs.faults import no_faults
from llm_scheduler.jobs.store.outcomes import Outcome, Position

ROOT = os.geteuid() == 0
NOBODY = 65534
ID = "01HZZZZZZZZZZZZZZZZZZZZZZ0"
NOW = 1_700_000_000.0


class Spool:
    """A spool in a folder, with documents put, claimed and committed by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.watch = folder / "raw"
        self.folders = Folders(
            watch=(str(self.watch), str(folder / "raw 2")),
            output=str(folder / "processed"),
            archive=str(folder / "archive"),
            error=str(folder / "errors"),
            temp=str(folder / "temp"),
        )
        self.folders.prepare()
        self.claims = Claims(self.folders.temp)

    def put(self, source: str, content: bytes = b'{"n": 1}', watch: int = 0) -> Candidate:
        """Drop a file and see it as the finder does."""
        path = os.path.join(self.folders.watch[watch], source)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_bytes(content)
        return Candidate(
            watch=self.folders.watch[watch],
            source=source,
            id=new_id(NOW),
            stamp=FileStamp.of(os.lstat(path)),
            received_at=NOW,
            sha256=hashlib.sha256(content).hexdigest(),
        )

    def claim(self, *found: Candidate) -> tuple[str, list[Claim]]:
        return self.claims.take(list(found), NOW)

    def commit(
        self, outcomes: list[Outcome], at: Callable[[str], None] = no_faults, sync: Callable[[str], None] | None = None
    ) -> list[CommitResult]:
        return Commit(self.folders, Claims(self.folders.temp), at, sync or (lambda _: None)).group(outcomes)

    def names(self, folder: str) -> list[str]:
        """All files below a folder of the spool, hidden ones too."""
        top = self.folder / folder
        return sorted(
            os.path.relpath(os.path.join(root, name), top) for root, _, names in os.walk(top) for name in names
        )

    def everything(self) -> dict[str, list[str]]:
        return {name: self.names(name) for name in sorted(os.listdir(self.folder))}


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def done(group: str, claim_id: str, result: bytes = b'{"r":1}') -> Outcome:
    return Outcome(
        kind="done",
        id=claim_id,
        group=group,
        attempts=1,
        completed_at=NOW + 1,
        route=Route(priority="medium", queue="medium", handler="default", reasons=["because"]),
        result=result,
    )


def rejected(group: str, claim_id: str) -> Outcome:
    return Outcome(
        kind="rejected",
        id=claim_id,
        group=group,
        attempts=1,
        completed_at=NOW + 1,
        route=Route(priority="medium", queue="medium", handler="default", reasons=["because"]),
        code="invalid_json",
        message="no",
        position=Position(1, 2, 3),
    )


class Killed(BaseException):
    """What a fault point raises here: nothing in the code may catch it."""


def killed_at(point: str, passage: int = 1) -> Callable[[str], None]:
    left = [passage]

    def pass_by(name: str) -> None:
        if name == point:
            left[0] -= 1
            if not left[0]:
                raise Killed(point)

    return pass_by


# Names


def test_a_rename_never_overwrites(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    for make in (lambda: target.write_bytes(b"old"), target.mkdir, lambda: target.symlink_to("nowhere")):
        make()
        with pytest.raises(FileExistsError):
            rename_new(str(source), str(target))
        assert source.read_bytes() == b"new"
        if target.is_symlink():
            target.unlink()
        elif target.is_dir():
            target.rmdir()
        else:
            assert target.read_bytes() == b"old"
            target.unlink()
    rename_new(str(source), str(target))
    assert not source.exists()
    assert target.read_bytes() == b"new"


def test_a_rename_never_overwrites_where_the_system_call_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_scheduler.ingest.spool.file_io._renameat2", None)
    test_a_rename_never_overwrites(tmp_path)


def test_a_second_name_of_one_inode_is_not_lost_by_a_rename(tmp_path: Path) -> None:
    """rename(2) of one hard link onto another does nothing and reports success; this one refuses."""
    (tmp_path / "a").write_bytes(b"x")
    os.link(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileExistsError):
        rename_new(str(tmp_path / "a"), str(tmp_path / "b"))
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    "name",
    [
        *("a.json", "a", "a.b.c.json", "-rf.json", "文件.json", "x" * 250 + ".json", "x" * 255, "é" * 125 + ".json"),
        *("文" * 83 + ".json", "文" * 85, "😀" * 62 + ".json", "a." + "x" * 253, "😀." + "x" * 250, "a." + "文" * 84),
        *(
            "\udcff" * 250 + ".json",
            "\udcff\udcfe",
            "a\n" * 125 + ".json",
            "xxx." + "y" * 220 + ".json",
            "#" + "y" * 254,
        ),
    ],
)
@pytest.mark.parametrize("room", [0, len(REPORT_SUFFIX)])
def test_a_name_with_an_id_is_legal_and_seen(tmp_path: Path, name: str, room: int) -> None:
    suffix = os.path.splitext(name)[1]
    folder, made = os.path.split(with_id(f"sub/{name}", ID, room))
    assert folder == "sub"
    assert ID in made
    assert len(os.fsencode(made)) + room <= NAME_BYTES
    assert not is_ignored(made), "put back under this name it would never be found again"
    (tmp_path / made).write_bytes(b"")
    assert os.fsencode(name).startswith(os.fsencode(made.split(f".{ID}")[0]))
    if "\udcff" not in name:
        made.encode()  # cut between characters, not within one
    if len(os.fsencode(suffix)) < 100:
        assert made.endswith(suffix)


# Claims


def test_a_claim_is_a_rename_and_a_line_of_the_manifest(spool: Spool) -> None:
    found = [
        spool.put("a.json", b"[1]"),
        spool.put("sub/文 件.json", b"[2]", watch=1),
        spool.put("bad\udcff.json", b"[3]"),
    ]
    inodes = [each.stamp.inode for each in found]
    group, claims = spool.claim(*found)
    assert [claim.id for claim in claims] == [each.id for each in found]
    assert spool.names("raw") == spool.names("raw 2") == []
    assert sorted(os.listdir(spool.folder / "temp" / group)) == sorted([*(each.id for each in found), "manifest"])
    assert [os.stat(spool.claims.path(group, each.id)).st_ino for each in found] == inodes
    held = Claims(spool.folders.temp).held(group)
    assert [held[each.id].relative_path for each in found] == [each.source for each in found]
    assert held[found[2].id].source == "bad\\xff.json"
    assert [held[each.id].watch for each in found] == [each.watch for each in found]
    assert spool.claims.read(group, found[1].id) == b"[2]"
    assert spool.claims.groups() == [group]
    assert not spool.claims.remove_group(group), "a group that holds something stays"
    assert spool.claims.read(group, found[0].id) == b"[1]"


def test_what_has_gone_or_changed_before_the_claim_is_left_out(spool: Spool) -> None:
    gone, grown, replaced, fine = (spool.put(f"{name}.json") for name in ("gone", "grown", "replaced", "fine"))
    os.unlink(gone.path)
    with open(grown.path, "ab") as file:
        file.write(b" ")
    other = spool.put("other", b'{"n": 1}')
    os.replace(other.path, replaced.path)
    group, claims = spool.claim(gone, grown, replaced, fine)
    assert [claim.source for claim in claims] == ["fine.json"]
    assert spool.names("raw") == ["grown.json", "replaced.json"]
    assert list(spool.claims.held(group)) == [fine.id]


def test_a_claim_of_nothing_leaves_no_group(spool: Spool) -> None:
    gone = spool.put("gone.json")
    os.unlink(gone.path)
    _, claims = spool.claim(gone)
    assert claims == []
    assert os.listdir(spool.folders.temp) == []


def test_a_folder_that_took_the_place_of_a_file_is_put_back_whole(spool: Spool) -> None:
    found = spool.put("a")
    os.unlink(found.path)
    spool.put("a/inner.json", b"[7]")
    assert spool.claim(found)[1] == []
    assert spool.names("raw") == ["a/inner.json"]
    assert os.listdir(spool.folders.temp) == []


def test_a_folder_that_became_a_file_is_no_trouble(spool: Spool) -> None:
    inner, other = spool.put("a/inner.json"), spool.put("other.json")
    os.unlink(inner.path)
    (spool.watch / "a").rmdir()
    (spool.watch / "a").write_bytes(b"[]")
    assert [claim.source for claim in spool.claim(inner, other)[1]] == ["other.json"]
    assert spool.names("raw") == ["a"]


def test_two_files_that_carry_one_id_never_overwrite_each_other(spool: Spool) -> None:
    """A copy of one of the API's files: the same id in its name."""
    first, second = spool.put(f"api/a.{ID}.json", b"[1]"), spool.put(f"api/b.{ID}.json", b"[2]")
    first, second = (replace(each, id=ID) for each in (first, second))
    group, claims = spool.claim(first, second)
    left = [Path(spool.watch, name).read_bytes() for name in spool.names("raw")]
    held = [spool.claims.read(group, each) for each in spool.claims.held(group)]
    assert sorted(left + held) == [b"[1]", b"[2]"], "both are somewhere"
    assert len(held) == len(claims) == 1
    manifest = spool.claims.manifest(group)
    assert hashlib.sha256(held[0]).hexdigest() == manifest[ID].sha256, "the manifest speaks of the file that is there"


def test_a_file_that_may_not_be_moved_holds_up_no_other() -> None:
    """A folder that another user has moved in whole: readable, but not this user's to take things out of."""
    with tempfile.TemporaryDirectory(prefix="llm-") as name:
        os.chmod(name, 0o755)
        spool = Spool(Path(name) / "spool")
        theirs, mine = spool.put("theirs/a.json"), spool.put("mine/b.json")
        for folder in ("temp", "raw", "raw/mine", "."):
            (spool.folder / folder).chmod(0o777)
        (spool.watch / "theirs").chmod(0o555)
        with unprivileged():
            _, claims = spool.claim(theirs, mine)
        assert [claim.source for claim in claims] == ["mine/b.json"]
        assert spool.names("raw") == ["theirs/a.json"]
        (spool.watch / "theirs").chmod(0o755)


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


def test_the_manifest_is_durable_before_anything_moves(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = spool.put("a.json")
    synced: list[str] = []

    def sync(descriptor: int) -> None:
        assert spool.names("raw") == ["a.json"]
        assert found.id in Path(f"/proc/self/fd/{descriptor}").read_text()
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr("llm_scheduler.ingest.spool.claims.os.fsync", sync)
    group, _ = spool.claim(found)
    assert str(spool.folder / "temp" / group / "manifest") in synced


def test_a_full_disk_moves_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = spool.put("a.json")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("llm_scheduler.ingest.spool.claims.os.write", full)
    with pytest.raises(OSError, match="No space"):
        spool.claim(found)
    assert spool.names("raw") == ["a.json"]
    assert os.listdir(spool.folders.temp) == []


@pytest.mark.parametrize("point", ["claim.folder_made", "claim.manifest_written", "claim.moved"])
def test_a_claim_cut_short_is_told_from_its_manifest(spool: Spool, point: str) -> None:
    found = [spool.put(f"{number}.json", b"[%d]" % number) for number in range(3)]
    with pytest.raises(Killed):
        Claims(spool.folders.temp, killed_at(point)).take(found, NOW)
    again = Claims(spool.folders.temp)
    held = {
        claim.source: again.read(group, each) for group in again.groups() for each, claim in again.held(group).items()
    }
    left = {name: (spool.watch / name).read_bytes() for name in spool.names("raw")}
    assert {**held, **left} == {f"{number}.json": b"[%d]" % number for number in range(3)}
    assert len(held) + len(left) == 3
    for group in again.groups():
        if not again.held(group):
            assert again.remove_group(group)
    assert len(again.groups()) == (1 if held else 0)


def test_a_torn_manifest_loses_no_claim(spool: Spool) -> None:
    found = [spool.put(f"{number}.json", b"[%d]" % number) for number in range(3)]
    group, _ = spool.claim(*found)
    path = spool.folder / "temp" / group / "manifest"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:40])
    held = spool.claims.held(group)
    assert sorted(held) == sorted(each.id for each in found)
    assert held[found[0].id].source == "0.json"
    assert held[found[1].id].source == f"recovered/{found[1].id}.json"
    committed = spool.commit([done(group, each.id) for each in found])
    assert [each.status for each in committed] == [Status.DONE] * 3
    assert len(spool.names("archive")) == len(spool.names("processed")) == 3
    path.unlink(missing_ok=True)
    assert spool.claims.held(group) == {}


def test_a_fifo_and_a_link_without_a_manifest_are_neither_opened_nor_followed(spool: Spool) -> None:
    group = new_id(NOW)
    folder = spool.folder / "temp" / group
    folder.mkdir()
    fifo, link = new_id(NOW), new_id(NOW)
    os.mkfifo(folder / fifo)
    (spool.folder / "secret").write_bytes(b"[42]")
    os.symlink(spool.folder / "secret", folder / link)
    held = spool.claims.held(group)
    assert {claim.code for claim in held.values()} == {"not_a_file"}
    with pytest.raises(OSError):
        spool.claims.read(group, link)
    assert spool.claims.read(group, fifo) == b""


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc", f"{ID}/../x", ID.lower(), ID + "0", ID[:-1] + "\n", f"{ID}\n"]
)
def test_only_ids_make_a_path_of_a_claim(spool: Spool, name: str) -> None:
    for group, document in ((name, ID), (ID, name)):
        with pytest.raises(ValueError, match="not a claim"):
            spool.claims.path(group, document)


def test_put_back_goes_beside_a_newcomer(spool: Spool) -> None:
    found = spool.put("sub/a.json", b"[1]")
    group, _ = spool.claim(found)
    spool.put("sub/a.json", b"[2]")
    path = return_to_watch(spool.claims.path(group, found.id), found.watch, found.source, found.id)
    assert Path(path).name == f"a.{found.id}.json"
    assert Path(path).read_bytes() == b"[1]"
    assert (spool.watch / "sub" / "a.json").read_bytes() == b"[2]"
    second = spool.put("second", b"[3]")
    path = return_to_watch(second.path, found.watch, found.source, found.id)
    assert Path(path).parent == spool.watch
    third = spool.put("third", b"[4]")
    with pytest.raises(FileExistsError):
        return_to_watch(third.path, found.watch, found.source, found.id)
    assert Path(third.path).read_bytes() == b"[4]"


def test_put_back_where_a_folder_of_its_path_has_become_a_file(spool: Spool) -> None:
    found = spool.put("sub/deep/a.json", b"[1]")
    group, _ = spool.claim(found)
    shutil.rmtree(spool.watch / "sub")
    (spool.watch / "sub").write_bytes(b"[2]")
    path = return_to_watch(spool.claims.path(group, found.id), found.watch, found.source, found.id)
    assert Path(path) == spool.watch / f"a.{found.id}.json"


# The commit


def test_a_commit_puts_results_and_reports_in_place(spool: Spool) -> None:
    good, bad = spool.put("x/good.json", b' {"n": 1.0, "big": 123456789012345678901}\n'), spool.put("x/bad.json", b"{")
    group, _ = spool.claim(good, bad)
    synced: list[str] = []
    committed = spool.commit([done(group, good.id), rejected(group, bad.id)], sync=synced.append)
    assert [each.status for each in committed] == [Status.DONE, Status.REJECTED]
    assert spool.everything() == {
        "archive": ["x/good.json"],
        "errors": ["x/bad.json", "x/bad.json.error.json"],
        "processed": ["x/good.json"],
        "raw": [],
        "raw 2": [],
        "temp": [],
    }
    assert os.listdir(spool.folders.temp) == [], "the group's folder is gone"
    assert len(synced) == 1, "one sync for the group"
    text = (spool.folder / "processed/x/good.json").read_bytes()
    assert text.startswith(b'{"id":"' + good.id.encode())
    assert b'"document":{"n": 1.0, "big": 123456789012345678901},"result":{"r":1}}' in text
    report = json.loads((spool.folder / "errors/x/bad.json.error.json").read_bytes())
    assert (report["line"], report["column"], report["offset"], report["code"]) == (1, 2, 3, "invalid_json")
    assert report["sha256"] == hashlib.sha256(b"{").hexdigest()


COMMIT_POINTS = ["commit.written", "commit.synced", "commit.report_in_place", "commit.original_moved", "commit.done"]


@pytest.mark.parametrize("passage", [1, 2, 4])
@pytest.mark.parametrize("point", COMMIT_POINTS)
def test_a_commit_cut_short_anywhere_is_finished_by_the_next(spool: Spool, point: str, passage: int) -> None:
    often = point in ("commit.report_in_place", "commit.original_moved")
    contents = {f"d/{number}.json": b"[%d]" % number for number in range(4)}
    found = [spool.put(source, content) for source, content in contents.items()]
    group, _ = spool.claim(*found)
    outcomes = [(done if number % 2 else rejected)(group, each.id) for number, each in enumerate(found)]
    with pytest.raises(Killed):
        spool.commit(outcomes, killed_at(point, passage if often else 1))
    spool.commit(outcomes)
    spool.commit(outcomes)  # and once more, for good measure
    for left in spool.claims.groups():  # a group that was emptied before the end is reconcile's to remove
        assert spool.claims.remove_group(left)
    assert spool.everything() == {
        "archive": ["d/1.json", "d/3.json"],
        "errors": ["d/0.json", "d/0.json.error.json", "d/2.json", "d/2.json.error.json"],
        "processed": ["d/1.json", "d/3.json"],
        "raw": [],
        "raw 2": [],
        "temp": [],
    }
    for source, content in contents.items():
        places = [spool.folder / place / source for place in ("archive", "errors")]
        assert [path.read_bytes() for path in places if path.exists()] == [content]


def test_another_outcome_after_a_cut_short_commit_changes_nothing(spool: Spool) -> None:
    """A worker that ran twice may say two things; the first that was in place counts."""
    found = spool.put("a.json", b"[1]")
    group, _ = spool.claim(found)
    with pytest.raises(Killed):
        spool.commit([done(group, found.id, b'"first"')], killed_at("commit.report_in_place"))
    spool.commit([done(group, found.id, b'"second"')])
    assert json.loads((spool.folder / "processed/a.json").read_bytes())["result"] == "first"
    assert spool.names("processed") == spool.names("archive") == ["a.json"]


def test_a_late_duplicate_is_dropped(spool: Spool) -> None:
    found = spool.put("a.json")
    group, _ = spool.claim(found)
    twice = spool.commit([done(group, found.id), rejected(group, found.id)])
    assert [each.claim is None for each in twice] in ([True, False], [False, True])
    late = spool.commit([done(group, found.id), rejected(group, found.id)])
    assert [each.claim for each in late] == [None, None]
    assert spool.names("processed") == ["a.json"]
    assert spool.names("errors") == []


def test_one_group_may_hold_a_name_twice(spool: Spool) -> None:
    """The same name in two watch folders, claimed together and committed together."""
    found = [spool.put("same.json", b"[1]"), spool.put("same.json", b"[2]", watch=1)]
    broken = [spool.put("bad.json", b"{1"), spool.put("bad.json", b"{2", watch=1)]
    group, _ = spool.claim(*found, *broken)
    committed = spool.commit([done(group, each.id) for each in found] + [rejected(group, each.id) for each in broken])
    assert [each.claim is None for each in committed] == [False] * 4
    expected = ["same.json", f"same.{found[1].id}.json"]
    assert spool.names("processed") == spool.names("archive") == sorted(expected)
    assert (spool.folder / "archive" / expected[1]).read_bytes() == b"[2]"
    assert len(spool.names("errors")) == 4
    assert spool.claims.groups() == []


def test_a_second_arrival_gets_its_id_in_its_name_in_both_folders(spool: Spool) -> None:
    for place in ("processed", "archive"):
        found = [spool.put(f"{place}.json", b"[%d]" % number) for number in range(1)]
        (spool.folder / place / f"{place}.json").write_bytes(b"mine already")
        group, _ = spool.claim(*found)
        spool.commit([done(group, found[0].id)])
        name = f"{place}.{found[0].id}.json"
        assert (spool.folder / "archive" / name).read_bytes() == b"[0]"
        assert (spool.folder / "processed" / name).exists()
        assert (spool.folder / place / f"{place}.json").read_bytes() == b"mine already"


def test_a_report_never_takes_the_place_of_an_original(spool: Spool) -> None:
    """A broken document may itself be called like another one's report."""
    odd = spool.put(f"a.json{REPORT_SUFFIX}", b"{odd")
    group, _ = spool.claim(odd)
    spool.commit([rejected(group, odd.id)])
    plain = spool.put("a.json", b"{plain")
    group, _ = spool.claim(plain)
    spool.commit([rejected(group, plain.id)])
    assert (spool.folder / "errors" / f"a.json{REPORT_SUFFIX}").read_bytes() == b"{odd"
    originals = [path.read_bytes() for path in (spool.folder / "errors").iterdir()]
    assert b"{plain" in originals
    assert len(originals) == 4


@pytest.mark.parametrize("kind", [done, rejected])
def test_a_file_and_a_folder_of_one_name(spool: Spool, kind: Callable[[str, str], Outcome]) -> None:
    contents = {"a": b"[1]", "a/b.json": b"[2]", "c/d.json": b"[3]", "c": b"[4]"}
    for source, content in contents.items():
        found = spool.put(source, content)
        group, _ = spool.claim(found)
        with contextlib.suppress(OSError):
            (spool.watch / os.path.dirname(source)).rmdir()
        assert spool.commit([kind(group, found.id)])[0].claim is not None
    place = "archive" if kind is done else "errors"
    held = [
        (spool.folder / place / name).read_bytes() for name in spool.names(place) if not name.endswith(REPORT_SUFFIX)
    ]
    assert sorted(held) == sorted(contents.values())
    assert len(spool.names("processed" if kind is done else "errors")) == (4 if kind is done else 8)


@pytest.mark.parametrize("kind", [done, rejected])
@pytest.mark.parametrize(
    "name",
    [
        *("x" * 250 + ".json", "x" * 255, "文" * 83 + ".json", "文" * 85, "😀" * 63 + "abc", "a." + "x" * 253),
        *("x" * 245 + ".json", "x" * 244 + ".json", "\udcff" * 250 + ".json", "文" * 81 + "\udcff" + ".json"),
    ],
)
def test_names_of_full_length(spool: Spool, name: str, kind: Callable[[str, str], Outcome]) -> None:
    """Twice, so that an id has to find room as well; with the report's ending for what is rejected."""
    for number in range(2):
        found = spool.put(name, b"[%d]" % number)
        group, _ = spool.claim(found)
        assert spool.commit([kind(group, found.id)])[0].claim is not None
    originals, reports = ("archive", "processed") if kind is done else ("errors", "errors")
    held = [each for each in spool.names(originals) if not each.endswith(REPORT_SUFFIX)]
    assert sorted((spool.folder / originals / each).read_bytes() for each in held) == [b"[0]", b"[1]"]
    shown = [each for each in spool.names(reports) if kind is done or each.endswith(REPORT_SUFFIX)]
    assert len(shown) == 2
    assert sorted(each.removesuffix(REPORT_SUFFIX) for each in shown) == held, "a report is beside its original"
    assert not any(is_ignored(os.path.basename(each)) for each in held + shown), "hidden from whoever looks"
    if kind is done:
        assert name in held
        if "\udcff" not in name:
            assert json.loads((spool.folder / "processed" / name).read_bytes())["source"] == name
    assert os.listdir(spool.folders.temp) == []


def test_a_path_that_is_too_long_only_in_another_folder(spool: Spool) -> None:
    """`processed/` is longer than `raw/`, so a path may fit the one and not the other."""
    room = 4095 - len(str(spool.watch)) - 1
    parts = [str(number).ljust(200, "d") for number in range(room // 201 - 1)]
    left = room - len("/".join(parts)) - 1
    parts.append("e" * (left // 2))
    name = "n" * (room - len("/".join(parts)) - 1)
    for kind in (done, rejected):
        found = spool.put("/".join([*parts, name]), b"[1]")
        assert len(found.path) == 4095
        group, _ = spool.claim(found)
        assert spool.commit([kind(group, found.id)])[0].claim is not None
    assert len(spool.names("archive")) == len(spool.names("processed")) == 1
    assert len(spool.names("errors")) == 2


@pytest.mark.parametrize("kind", [done, rejected])
def test_a_file_changed_after_its_claim_is_put_back(spool: Spool, kind: Callable[[str, str], Outcome]) -> None:
    found, other = spool.put("sub/a.json", b"[1]"), spool.put("b.json")
    writer = open(found.path, "ab")  # noqa: SIM115  closed below, after the claim
    group, _ = spool.claim(found, other)
    writer.write(b" ")
    writer.close()
    (spool.watch / "sub").rmdir()
    committed = spool.commit([kind(group, found.id), done(group, other.id)])
    assert [each.status for each in committed] == [Status.CANCELLED, Status.DONE]
    assert "put back" in committed[0].message
    assert (spool.watch / "sub" / "a.json").read_bytes() == b"[1] "
    assert spool.names("processed") == ["b.json"]
    assert spool.names("errors") == []
    assert spool.claims.groups() == [], "the group's folder is gone"


def test_a_name_that_is_taken_between_plan_and_place_is_not_overwritten(spool: Spool) -> None:
    for kind, place in ((done, "processed"), (done, "archive"), (rejected, "errors")):
        found = spool.put(f"{place}.json", b"[1]")
        group, _ = spool.claim(found)
        intruder = spool.folder / place / f"{place}.json{REPORT_SUFFIX if kind is rejected else ''}"

        def intrude(point: str, intruder: Path = intruder) -> None:
            if point == "commit.synced":
                intruder.write_bytes(b"somebody else's")

        with pytest.raises(FolderError):
            spool.commit([kind(group, found.id)], intrude)
        spool.commit([kind(group, found.id)])
        assert intruder.read_bytes() == b"somebody else's"
        assert spool.claims.groups() == []
        originals = spool.folder / ("archive" if kind is done else "errors")
        assert [path for path in originals.rglob(f"{place}*.json") if path.read_bytes() == b"[1]"]


def test_a_file_only_touched_after_its_claim_is_committed(spool: Spool) -> None:
    found = spool.put("a.json", b"[1]")
    group, _ = spool.claim(found)
    os.utime(spool.claims.path(group, found.id))
    assert spool.commit([done(group, found.id)])[0].status == Status.DONE


def test_a_file_that_changes_while_it_is_committed_makes_no_false_result(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes in the result are those the worker saw, or the file is put back."""
    found = spool.put("a.json", b"[1]")
    group, _ = spool.claim(found)
    path = Path(spool.claims.path(group, found.id))

    def grow(descriptor: int, size: int, most: int | None) -> bytes:
        path.write_bytes(b"[1],[")
        return read_whole(descriptor, size)

    monkeypatch.setattr("llm_scheduler.ingest.spool.file_io.read_whole", grow)
    assert spool.commit([done(group, found.id)])[0].status == Status.CANCELLED
    assert spool.names("processed") == spool.names("archive") == []
    assert (spool.watch / "a.json").read_bytes() == b"[1],["


def test_trouble_in_the_middle_leaves_all_to_be_done_again(spool: Spool) -> None:
    found = [spool.put(f"{number}.json", b"[%d]" % number) for number in range(3)]
    group, _ = spool.claim(*found)
    outcomes = [done(group, each.id) for each in found]

    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", spool.folders.output)

    with pytest.raises(FolderError, match="disk is full"):
        spool.commit(outcomes, sync=full)
    assert spool.names("processed") == [], "nothing half done is left to fill the disk"
    spool.commit(outcomes)
    assert spool.names("processed") == spool.names("archive") == ["0.json", "1.json", "2.json"]


# Hostile words: a manifest or an outcome that names places of its own

HOSTILE = [
    *("../../outside", "/outside", "../outside", "a/../../../outside", "./../outside", "..", ".", "/", "", "//outside"),
    *("a//b/./c", "../raw/outside", "x/..", "a\x00b", "\x00"),
]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("source", HOSTILE)
def test_a_hostile_source_stays_in_the_folders(spool: Spool, source: str, raw: bool) -> None:
    (spool.folder.parent / "outside").write_bytes(b"untouched")
    before = sorted(os.listdir(spool.folder.parent))
    for kind in (done, rejected, None):
        found = spool.put("a.json", b"[1]")
        group, _ = spool.claim(found)
        manifest = spool.folder / "temp" / group / "manifest"
        line = json.loads(manifest.read_bytes())
        line["watch"] = str(spool.folder.parent)
        line["raw_source" if raw else "source"] = base64.b64encode(source.encode()).decode() if raw else source
        manifest.write_text(json.dumps(line) + "\n")
        if kind is None:  # changed, so it is put back
            Path(spool.claims.path(group, found.id)).write_bytes(b"[1, 2]")
            assert spool.commit([done(group, found.id)])[0].status == Status.CANCELLED
        else:
            assert spool.commit([kind(group, found.id)])[0].claim is not None
    assert sorted(os.listdir(spool.folder.parent)) == before
    assert (spool.folder.parent / "outside").read_bytes() == b"untouched"
    assert sorted(os.listdir(spool.folder)) == ["archive", "errors", "processed", "raw", "raw 2", "temp"]
    assert len(spool.names("archive")) == len(spool.names("processed")) == len(spool.names("raw")) == 1
    assert len(spool.names("errors")) == 2


def test_a_raw_source_that_is_not_base64_holds_nobody_up(spool: Spool) -> None:
    found = spool.put("a.json", b"[1]")
    group, _ = spool.claim(found)
    manifest = spool.folder / "temp" / group / "manifest"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "raw_source": "!"}) + "\n")
    assert spool.commit([done(group, found.id)])[0].claim is not None
    assert spool.names("archive") == ["a.json"]


@pytest.mark.parametrize("name", ["../../outside", "..", "", "/", "manifest", ID, "a" * 300, "\x00"])
def test_a_hostile_outcome_is_of_no_consequence(spool: Spool, name: str) -> None:
    found = spool.put("a.json")
    group, _ = spool.claim(found)
    before = spool.everything()
    for claim, document in ((name, found.id), (group, name), (name, name)):
        for kind in (done, rejected):
            assert spool.commit([kind(claim, document)])[0].claim is None
    assert spool.everything() == before
    spool.commit([done(group, found.id)])
    assert spool.names("archive") == ["a.json"]


def test_a_link_in_the_place_of_a_result_is_not_written_through(spool: Spool) -> None:
    (spool.folder.parent / "victim").write_bytes(b"untouched")
    os.symlink(spool.folder.parent / "victim", spool.folder / "processed" / "a.json")
    found = spool.put("a.json")
    group, _ = spool.claim(found)
    os.symlink(spool.folder.parent / "victim", spool.folder / "processed" / f".{found.id}.tmp")
    with pytest.raises(FolderError):
        spool.commit([done(group, found.id)])
    (spool.folder / "processed" / f".{found.id}.tmp").unlink(missing_ok=True)
    spool.commit([done(group, found.id)])
    assert (spool.folder.parent / "victim").read_bytes() == b"untouched"
    assert spool.names("archive") == [f"a.{found.id}.json"]


# Locks


def test_one_holder_a_lock(tmp_path: Path) -> None:
    first, second = SpoolLock(str(tmp_path), "ingest"), SpoolLock(str(tmp_path), "ingest")
    other = SpoolLock(str(tmp_path), "collector")
    assert first.take()
    assert first.take(), "taking it again is nothing"
    assert not second.take()
    assert second.holder() == str(os.getpid())
    assert other.take(), "each role has its own"
    first.release()
    first.release()
    assert second.take()
    assert not first.take()
    second.release()
    other.release()


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom llm_scheduler.ingest.spool import SpoolLock\n"
        "lock = SpoolLock(sys.argv[1], 'ingest')\nprint(lock.take(), flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        lock = SpoolLock(str(tmp_path), "ingest")
        assert not lock.take()
        assert lock.holder() == str(holder.pid)
        holder.kill()
        holder.wait()
        assert lock.take()
        assert lock.holder() == str(os.getpid())
        lock.release()


# Folders


def folders(top: Path, **other: Path) -> Folders:
    names = {"output": "processed", "archive": "archive", "error": "errors", "temp": "temp"}
    places = {key: str(other.get(key, top / name)) for key, name in names.items()}
    return Folders(watch=(str(other.get("watch", top / "raw")),), **places)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    wanted = folders(tmp_path / "new" / "spool")
    assert wanted.prepare() == [path for _, path in wanted.named()]
    assert wanted.prepare() == []
    shutil.rmtree(wanted.archive)
    assert wanted.prepare() == [wanted.archive]


def test_the_configuration_gives_absolute_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = Folders.of(Directories(watch_directory=["a", "./b/../c"], output_directory="o"))
    assert made.watch == (str(tmp_path / "a"), str(tmp_path / "c"))
    assert made.output == str(tmp_path / "o")


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "errors").write_bytes(b"")
    with pytest.raises(FolderError, match=r"errors \(directories\.error_directory\) is not a folder"):
        folders(tmp_path).prepare()
    (tmp_path / "errors").unlink()
    (tmp_path / "errors").symlink_to("nowhere")
    with pytest.raises(FolderError, match="error_directory"):
        folders(tmp_path).prepare()
    (tmp_path / "errors").unlink()
    folders(tmp_path).prepare()


@pytest.mark.skipif(ROOT, reason="root may write to a folder of any mode; the mounted one below stands for it")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    folders(tmp_path).prepare()
    (tmp_path / "archive").chmod(0o555)
    with pytest.raises(FolderError, match=r"archive_directory\) can't be written"):
        folders(tmp_path).prepare()
    (tmp_path / "archive").chmod(0o755)
    folders(tmp_path).prepare()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.root
@pytest.mark.skipif(not ROOT, reason="needs root to mount a file system")
def test_folders_on_different_file_systems(tmp_path: Path, mounted: Path) -> None:
    for key, name in {
        "output": "output",
        "archive": "archive",
        "error": "error",
        "temp": "temp",
        "watch": "watch",
    }.items():
        with pytest.raises(FolderError, match=rf"directories\.{name}_directory.* on different file\s+systems"):
            folders(tmp_path / key, **{key: mounted / key}).prepare()


@pytest.mark.root
@pytest.mark.skipif(not ROOT, reason="needs root to mount a file system")
def test_a_folder_on_a_read_only_file_system(tmp_path: Path, mounted: Path) -> None:
    wanted = folders(mounted)
    wanted.prepare()
    shutil.rmtree(wanted.archive)
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    with pytest.raises(FolderError, match=r"read-only|read-write"):
        wanted.prepare()
    subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
    assert wanted.prepare() == [wanted.archive]


@pytest.mark.parametrize(
    "number",
    [
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EXDEV, errno.ENOENT, errno.ENOTDIR),
        *(errno.EEXIST, errno.EMFILE, errno.EIO),
    ],
)
def test_every_trouble_names_the_place(number: int) -> None:
    error = OSError(number, os.strerror(number), "/some/where")
    assert "/some/where" in explain(error)
    assert "/else (directories.x)" in explain(error, "/else", "directories.x")
    assert "/some/where" in explain(OSError(number, os.strerror(number), b"/some/where"))
    assert explain(OSError(number, os.strerror(number))).endswith((".", ")")) or number == errno.EIO


# Groups that overlap: one is made durable while the next is written


def test_a_document_told_of_twice_in_two_overlapping_groups_is_committed_once(spool: Spool) -> None:
    found = spool.put("a.json", b"[1]")
    group, _ = spool.claim(found)
    commit = Commit(spool.folders, Claims(spool.folders.temp))
    first = commit.write([done(group, found.id, b"1")])
    second = commit.write([done(group, found.id, b"2")])
    assert not second.to_sync
    assert [each.claim is not None for each in commit.place(first)] == [True]
    assert [each.claim for each in commit.place(second)] == [None]
    assert json.loads((spool.folder / "processed/a.json").read_bytes())["result"] == 1


def test_two_documents_of_one_name_in_overlapping_groups_get_two_places(spool: Spool) -> None:
    first, second = spool.put("a.json", b"[1]"), spool.put("a.json", b"[2]", watch=1)
    group, _ = spool.claim(first, second)
    commit = Commit(spool.folders, Claims(spool.folders.temp))
    written = [commit.write([done(group, each.id)]) for each in (first, second)]
    for each in written:
        commit.sync(each)
        commit.place(each)
    assert spool.names("processed") == sorted(["a.json", f"a.{second.id}.json"])
    assert spool.names("archive") == spool.names("processed")
    assert spool.names("temp") == []


def test_a_group_that_is_undone_can_be_committed_again(spool: Spool) -> None:
    found = spool.put("a.json", b"[1]")
    group, _ = spool.claim(found)
    commit = Commit(spool.folders, Claims(spool.folders.temp))
    commit.undo(commit.write([done(group, found.id)]))
    assert spool.names("processed") == []
    assert commit.group([done(group, found.id)])[0].claim is not None
    assert spool.names("processed") == spool.names("archive") == ["a.json"]
