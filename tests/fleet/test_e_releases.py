"""Upgrades under load, an upgrade to a broken release, rollback, failover and removal."""

import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fleet import ROOT, Fleet

WHEELHOUSE = ROOT / "dist" / "wheelhouse"


def make_release(folder: Path, version: str, broken_module: str = "") -> Path:
    """Make a wheelhouse of this tree as another version. The module `broken_module` raises when it is imported."""
    source = folder / f"source-{version}"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "dist", "data", "logs", "tests", "benchmarks"))
    project = source / "pyproject.toml"
    project.write_text(re.sub(r'^version = ".*"', f'version = "{version}"', project.read_text(), flags=re.MULTILINE))
    package = source / "jobs" / "__init__.py"
    package.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', package.read_text()))
    if broken_module:
        module = source / broken_module
        module.write_text('raise RuntimeError("this release is broken")\n' + module.read_text())
    wheelhouse = folder / f"wheelhouse-{version}"
    shutil.copytree(WHEELHOUSE, wheelhouse, ignore=shutil.ignore_patterns("llm_json_scheduler-*"))
    python = ROOT / ".venv" / "bin" / "python"
    command = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", wheelhouse, source]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(wheelhouse.glob("llm_json_scheduler-*"))) as wheel:
        assert wheel.testzip() is None
    return wheelhouse


def version_of(fleet: Fleet, host: str) -> str:
    return fleet[host].run("basename $(readlink /opt/llm/current)").strip()


@contextmanager
def load(fleet: Fleet) -> Iterator[list[str]]:
    """Drop documents all the time. The list contains their numbers after the end of the context."""
    numbers: list[str] = []
    end = threading.Event()

    def drop() -> None:
        while not end.wait(0.5):
            numbers.extend(fleet.drop(20))

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        yield numbers
    finally:
        end.set()
        thread.join()


def test_an_upgrade_under_load(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("good")
    wheelhouse = make_release(folder, "9.1.0")
    with load(fleet) as numbers:
        played = fleet.play("upgrade", llm_wheelhouse=str(wheelhouse)).ok()
    done = fleet.finish(numbers)
    print(f"upgraded in {played.seconds:.0f} s, {len(numbers)} documents meanwhile; done after {done:.1f} s")
    assert {version_of(fleet, host) for host in ("ingest1", "worker1", "worker2")} == {"9.1.0"}
    with fleet.http() as http:
        assert {each["version"] for each in http.get("/workers").json()["workers"]} == {"9.1.0"}
    assert fleet.play("deploy", llm_wheelhouse=str(wheelhouse)).changes() == []


@pytest.mark.parametrize("broken_module", ["jobs/worker/worker.py", "ingest/daemon.py"])
def test_a_broken_release_is_rolled_back(
    fleet: Fleet, tmp_path_factory: pytest.TempPathFactory, broken_module: str
) -> None:
    version = "9.2.0" if "worker" in broken_module else "9.3.0"
    before = version_of(fleet, "worker1")
    wheelhouse = make_release(tmp_path_factory.mktemp("broken"), version, broken_module)
    with load(fleet) as numbers:
        played = fleet.play("upgrade", llm_wheelhouse=str(wheelhouse))
    assert played.status != 0
    assert "was not brought into service, and all hosts are back in" in " ".join(played.output.split())
    assert {version_of(fleet, host) for host in ("ingest1", "worker1", "worker2")} == {before}
    done = fleet.finish(numbers)
    print(f"{broken_module} broken: back in {before} after {played.seconds:.0f} s; done after {done:.1f} s")


def test_a_rollback_under_load(fleet: Fleet) -> None:
    before = version_of(fleet, "worker1")
    assert before == "9.1.0"
    with load(fleet) as numbers:
        fleet.play("rollback", llm_to="0.1.0").ok()
    fleet.finish(numbers)
    assert {version_of(fleet, host) for host in ("ingest1", "worker1", "worker2")} == {"0.1.0"}
    assert fleet.play("rollback", llm_to="7.7.7").status != 0


def test_a_failover_under_load(fleet: Fleet) -> None:
    before = fleet["ingest1"].run("llm-sentinel-cli sentinel get-master-addr-by-name llm")
    with load(fleet) as numbers:
        played = fleet.play("failover").ok()
    assert fleet["ingest1"].run("llm-sentinel-cli sentinel get-master-addr-by-name llm") != before
    print(f"failed over in {played.seconds:.0f} s; {len(numbers)} documents done after {fleet.finish(numbers):.1f} s")


def test_uninstall_keeps_the_documents(fleet: Fleet) -> None:
    done = set(fleet.numbers_by_folder()["archive"])
    assert done
    fleet.play("uninstall").ok()
    assert set(fleet.numbers_by_folder()["archive"]) == done
    assert fleet["ingest1"].try_run("test -e /opt/llm -o -e /etc/llm").returncode != 0
    assert fleet["worker1"].run("systemctl list-units --all --plain --no-legend 'llm-*'") == ""
    assert fleet.play("uninstall").changes() == []
    fleet.play("deploy").ok()
    fleet.finish(fleet.drop(50))
