"""The ingest host loses all its files, and Redis all its keys: a backup restores every document."""

import json
from pathlib import Path

from fleet import SPOOL, Fleet, wait_until


def primary_of(fleet: Fleet) -> str:
    address = fleet["ingest1"].run("llm-sentinel-cli sentinel get-master-addr-by-name llm").split()[0]
    return next(each.name for each in fleet.hosts.named.values() if each.address == address)


def test_everything_is_lost_and_restored(fleet: Fleet, tmp_path: Path) -> None:
    done = fleet.drop(200)
    fleet.finish(done)
    key = json.loads(fleet["ingest1"].run("llmctl key create reader --role readonly --json"))["key"]
    for host in ("worker1", "worker2"):
        fleet[host].run("systemctl stop 'llm-worker@*'")
    in_flight = fleet.drop(200)
    played = fleet.play("backup", llm_backups_dir=str(tmp_path)).ok()
    (made,) = tmp_path.iterdir()
    print(f"backed up in {played.seconds:.0f} s: {made.stat().st_size / 1024:.0f} KB")
    assert made.stat().st_mode & 0o077 == 0
    for host in ("worker1", "worker2"):
        fleet[host].run("systemctl start llm.target")
    fleet.finish(in_flight)

    redis = primary_of(fleet)
    fleet["ingest1"].run("systemctl stop llm.target llm-backup.timer")
    fleet["ingest1"].run(
        f"rm -rf {SPOOL} /etc/llm /opt/llm /var/backups/llm; rm -f /etc/systemd/system/llm-ingest.service"
    )
    fleet[redis].run("llm-redis-cli flushall")
    fleet.play("deploy").ok()
    assert not fleet.numbers_by_folder().get("archive"), "the spool is empty"
    played = fleet.play("restore", llm_restore=str(made)).ok()
    print(f"restored in {played.seconds:.0f} s, all documents after {fleet.finish(done + in_flight):.1f} s more")
    print(fleet["ingest1"].run("llmctl reconcile --verify"))
    report = json.loads(fleet["ingest1"].run("llmctl reconcile --verify --json"))
    assert report["balanced"]
    assert report["account"]["unrecorded"] == 0, "the done documents are in Redis again"
    with fleet.http() as http:
        http.headers["X-API-Key"] = key
        assert http.get("/jobs").status_code == 200, "an API key from before the backup is valid again"
    assert "archive" in fleet["ingest1"].run(f"ls {SPOOL}/aside-*"), "the documents of the smoke test are set aside"


def test_documents_that_came_after_the_backup_are_named(fleet: Fleet, tmp_path: Path) -> None:
    """Documents that were in work and are in no backup are lost with their host. The restore fails and names them."""
    fleet.play("backup", llm_backups_dir=str(tmp_path)).ok()
    (made,) = tmp_path.iterdir()
    for host in ("worker1", "worker2"):
        fleet[host].run("systemctl stop 'llm-worker@*'")
    later = fleet.drop(3)
    claimed = f"grep -rl '\"n\":' {SPOOL}/temp | wc -l"
    wait_until(lambda: fleet["ingest1"].run(claimed).strip() == "3", "the claims")
    played = fleet.play("restore", llm_restore=str(made))
    assert played.status != 0
    assert "not every document is accounted for" in " ".join(played.output.split())
    assert played.output.count("no_claim") >= 3
    # The playbook set their files aside. Dropped again, they are processed.
    numbers = " ".join(later)
    fleet["ingest1"].run(
        f"set -- {numbers}; for file in $(grep -rl '\"n\":' $(ls -dt {SPOOL}/aside-* | head -n 1)/temp); do "
        f'mv "$file" {SPOOL}/raw/doc-$1.json; shift; done'
    )
    for host in ("worker1", "worker2"):
        fleet[host].run("systemctl start llm.target")
    fleet.finish(later)


def test_a_missing_or_broken_backup_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    assert "There is no file" in fleet.play("restore", llm_restore=str(tmp_path / "none")).output
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"broken")
    played = fleet.play("restore", llm_restore=str(broken))
    assert played.status != 0
    assert "is no backup" in played.output
    fleet.finish(fleet.drop(10))
