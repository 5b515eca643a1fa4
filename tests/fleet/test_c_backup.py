"""The host with the folders is lost with all that is on it, and Redis forgets: a backup brings every document back."""

import json
from pathlib import Path

from fleet import SPOOL, Fleet, wait_until


def primary_of(fleet: Fleet) -> str:
    address = fleet["ingest1"].tell("llm-sentinel-cli sentinel get-master-addr-by-name llm").split()[0]
    return next(each.name for each in fleet.hosts.named.values() if each.address == address)


def test_all_is_lost_and_restored(fleet: Fleet, tmp_path: Path) -> None:
    done = fleet.drop(200)
    fleet.finish(done)
    key = json.loads(fleet["ingest1"].tell("llmctl key create reader --role readonly --json"))["key"]
    for host in ("worker1", "worker2"):
        fleet[host].tell("systemctl stop 'llm-worker@*'")
    on_their_way = fleet.drop(200)
    played = fleet.play("backup", llm_backups_dir=str(tmp_path)).ok()
    (made,) = tmp_path.iterdir()
    print(f"backed up in {played.seconds:.0f} s: {made.stat().st_size / 1024:.0f} KB")
    assert made.stat().st_mode & 0o077 == 0
    for host in ("worker1", "worker2"):
        fleet[host].tell("systemctl start llm.target")
    fleet.finish(on_their_way)

    redis = primary_of(fleet)
    fleet["ingest1"].tell("systemctl stop llm.target llm-backup.timer")
    fleet["ingest1"].tell(
        f"rm -rf {SPOOL} /etc/llm /opt/llm /var/backups/llm; rm -f /etc/systemd/system/llm-ingest.service"
    )
    fleet[redis].tell("llm-redis-cli flushall")
    fleet.play("deploy").ok()
    assert not fleet.account().get("archive"), "all is gone"
    played = fleet.play("restore", llm_restore=str(made)).ok()
    print(f"restored in {played.seconds:.0f} s, all documents after {fleet.finish(done + on_their_way):.1f} s more")
    print(fleet["ingest1"].tell("llmctl reconcile --verify"))
    told = json.loads(fleet["ingest1"].tell("llmctl reconcile --verify --json"))
    assert told["balanced"]
    assert told["account"]["unrecorded"] == 0, "Redis was told of those that were done"
    with fleet.http() as http:
        http.headers["X-API-Key"] = key
        assert http.get("/jobs").status_code == 200, "a key that was made before is one again"
    assert "archive" in fleet["ingest1"].tell(f"ls {SPOOL}/aside-*"), "what the deployment sent through is set aside"


def test_what_came_after_the_backup_is_named(fleet: Fleet, tmp_path: Path) -> None:
    """Documents that were in work and in no backup are lost with their host; nobody says that all is well."""
    fleet.play("backup", llm_backups_dir=str(tmp_path)).ok()
    (made,) = tmp_path.iterdir()
    for host in ("worker1", "worker2"):
        fleet[host].tell("systemctl stop 'llm-worker@*'")
    later = fleet.drop(3)
    claimed = f"grep -rl '\"n\":' {SPOOL}/temp | wc -l"
    wait_until(lambda: fleet["ingest1"].tell(claimed).strip() == "3", "they are claimed")
    played = fleet.play("restore", llm_restore=str(made))
    assert played.status != 0
    assert "not every document is accounted for" in " ".join(played.output.split())
    assert played.output.count("no_claim") >= 3
    # They are set aside, as the playbook says: dropped again, they are done.
    numbers = " ".join(later)
    fleet["ingest1"].tell(
        f"set -- {numbers}; for file in $(grep -rl '\"n\":' $(ls -dt {SPOOL}/aside-* | head -n 1)/temp); do "
        f'mv "$file" {SPOOL}/raw/doc-$1.json; shift; done'
    )
    for host in ("worker1", "worker2"):
        fleet[host].tell("systemctl start llm.target")
    fleet.finish(later)


def test_there_is_no_such_backup(fleet: Fleet, tmp_path: Path) -> None:
    assert "There is no file" in fleet.play("restore", llm_restore=str(tmp_path / "none")).output
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"broken")
    played = fleet.play("restore", llm_restore=str(broken))
    assert played.status != 0
    assert "is no backup" in played.output
    fleet.finish(fleet.drop(10))
