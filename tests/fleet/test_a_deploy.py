"""One command deploys to a bare fleet, and the fleet then works."""

import re
import subprocess

from fleet import Fleet, wait_until

UNITS = ("llm-ingest", "llm-collector", "llm-scheduler", "llm-api@8080", "llm-api@8081")


def test_check_mode_shows_changes_on_bare_hosts_and_changes_nothing(bare: Fleet) -> None:
    played = bare.play("deploy", "--check", "--diff").ok()
    assert all(changed > 0 for changed in played.changed.values())
    assert bare["ingest1"].try_run("test -e /etc/llm || test -e /opt/llm").returncode != 0
    assert bare.secret("api_key_admin") not in played.output


def test_a_bare_fleet_is_deployed_by_one_command(fleet: Fleet) -> None:
    played = fleet.deployed
    print(f"deployed in {played.seconds:.0f} s")
    assert played.seconds < 600
    for name in fleet.secrets():
        assert fleet.secret(name) not in played.output, name


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    assert fleet.play("deploy").changes() == []
    assert fleet.play("deploy", "--check", "--diff").changes() == []


def test_workers_on_other_hosts_process_documents_and_the_balancer_answers(fleet: Fleet) -> None:
    numbers = fleet.drop(2000)
    print(f"2,000 documents in {fleet.finish(numbers):.1f} s")
    with fleet.http() as http:
        page = http.get("/jobs", params={"limit": 5, "name": numbers[-1].split("-")[0]}).json()
        assert [job["status"] for job in page["jobs"]] == ["done"] * 5
        workers = http.get("/workers").json()["workers"]
        assert {worker["host"] for worker in workers} == {"worker1", "worker2"}
        assert all(worker["jobs_done"] > 0 for worker in workers if worker["queue"] == "medium")
        detail = http.get(f"/jobs/{page['jobs'][0]['id']}").json()
        assert [step["status"] for step in detail["timeline"]][-1] == "done"
        del http.headers["X-API-Key"]
        assert http.get("/jobs").status_code == 401
    assert fleet["worker1"].run("find /var/lib/llm -type f") == "", "no folder is shared"


def test_events_pass_through_the_balancer_at_once(fleet: Fleet) -> None:
    with fleet.http() as http, http.stream("GET", "/events", params={"seconds": 30}) as answer:
        lines = answer.iter_lines()
        assert answer.status_code == 200
        next(line for line in lines if line.startswith(": following"))
        fleet.finish(fleet.drop(1))
        event = next(line for line in lines if line.startswith("data:"))
        assert "status" in event


def test_units_are_valid_and_hardened(fleet: Fleet) -> None:
    for host, units in (("ingest1", UNITS), ("worker1", ("llm-worker@high", "llm-worker@low"))):
        verified = fleet[host].try_run(
            "systemd-analyze verify /etc/systemd/system/llm*.{service,timer,target,slice} 2>&1"
        )
        assert (verified.returncode, verified.stdout) == (0, ""), verified.stdout
        for unit in (*units, "llm-autoscale", "llm-backup"):
            fleet[host].run(f"systemd-analyze security --no-pager --threshold=15 {unit}.service")
        for unit in units:
            shown = fleet[host].run(f"systemctl show {unit} -p ActiveState -p StatusText -p Type --value").split("\n")
            assert "active" in shown
            assert any(re.search(r"[a-z]{3}", line) for line in shown), "systemctl status shows what the process does"


def test_a_unit_can_write_only_where_it_must(fleet: Fleet) -> None:
    probe = (
        "for place in / /etc /etc/llm /usr /opt/llm /root /home /srv /var /var/tmp /var/log /run /dev /dev/shm /boot "
        "/var/lib /var/lib/llm /var/lib/llm/raw /var/lib/llm/temp /var/lib/llm/processed /var/lib/llm/archive "
        "/var/lib/llm/errors; do nsenter -t {pid} -m setpriv --reuid llm --regid llm --clear-groups sh -c "
        '\'touch "$0/.probe" 2>/dev/null && rm "$0/.probe" && echo "$0"\' $place; done; true'
    )
    spool = {f"/var/lib/llm{part}" for part in ("", "/raw", "/temp", "/processed", "/archive", "/errors")}
    private = {"/var/tmp"}  # PrivateTmp: systemd deletes it with the unit
    writable = {
        "llm-ingest": spool,
        "llm-collector": spool,
        "llm-scheduler": set(),
        "llm-api@8080": {"/var/lib/llm/raw"},
    }
    for unit, expected in writable.items():
        pid = fleet["ingest1"].run(f"systemctl show {unit} -p MainPID --value").strip()
        assert set(fleet["ingest1"].run(probe.format(pid=pid)).split()) - private == expected, unit
    pid = fleet["worker1"].run("systemctl show llm-worker@high -p MainPID --value").strip()
    assert set(fleet["worker1"].run(probe.format(pid=pid)).split()) - private == set()


def test_no_secret_is_visible_on_a_host(fleet: Fleet) -> None:
    secrets = [fleet.secret(name) for name in fleet.secrets()]
    search = (
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; journalctl --no-pager -o export; "
        "find / -xdev -type f -perm -o=r -size -2M -not -path '/proc/*' -not -path '/repository/*' -not -path '/usr/*' "
        "-exec cat {} + 2>/dev/null"
    )
    for host in fleet.hosts.named.values():
        seen = subprocess.run([*host.ssh_command(), search], capture_output=True, check=False).stdout
        assert len(seen) > 10_000
        for number, secret in enumerate(secrets):
            assert secret.encode() not in seen, f"{host.name}: secret {fleet.secrets()[number]}"


def test_redis_answers_only_hosts_of_the_fleet_and_asks_for_a_password(fleet: Fleet) -> None:
    redis = fleet["redis1"].address
    ping = (
        f"import socket; s = socket.create_connection(('{redis}', 6379), 3); s.send(b'PING\\r\\n'); print(s.recv(99))"
    )
    answered = fleet["worker1"].try_run(f'python3 -c "{ping}"')
    # With llm_redis_tls it closes connections without TLS.
    assert "NOAUTH" in answered.stdout or "ConnectionResetError" in answered.stderr
    outside = subprocess.run(["python3", "-c", ping], capture_output=True, text=True, check=False)
    assert outside.returncode != 0, "this machine is not a host of the fleet"
    assert "timed out" in outside.stderr or "refused" in outside.stderr or "No route" in outside.stderr


def test_the_journal_has_priorities_and_fields(fleet: Fleet) -> None:
    with fleet.http() as http:
        job = http.post("/jobs", content=b"not JSON", headers={"Content-Type": "application/json"}).json()["id"]
        wait_until(lambda: http.get(f"/jobs/{job}").json()["status"] == "rejected", "the rejected document")
    entries = fleet["ingest1"].run(f"journalctl DOCUMENT_ID={job} --no-pager -o json")
    assert f'"DOCUMENT_ID":"{job}"' in entries
    assert '"PRIORITY":"' in entries
    assert fleet["ingest1"].run("journalctl -u llm-ingest -p err --no-pager -q") == ""
