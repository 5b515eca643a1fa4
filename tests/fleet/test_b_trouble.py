"""Failures of processes and hosts under load: no document is lost or done twice, and everything recovers by itself."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from fleet import Fleet, wait_until

INGEST_UNITS = ["llm-ingest", "llm-collector", "llm-scheduler", "llm-api@8080", "llm-api@8081"]
WORKER_UNITS = ["llm-worker@high", "llm-worker@medium", "llm-worker@low"]


def main_pid(fleet: Fleet, host: str, unit: str) -> str:
    return fleet[host].run(f"systemctl show {unit} -p MainPID --value").strip()


def is_back(fleet: Fleet, host: str, unit: str, before: str) -> bool:
    """Whether the unit is ready again, with a new main process."""
    is_active = fleet[host].try_run(f"systemctl is-active {unit}").stdout.strip() == "active"
    return is_active and main_pid(fleet, host, unit) not in (before, "0")


@pytest.mark.parametrize(
    ("host", "unit"),
    [("ingest1", unit) for unit in INGEST_UNITS] + [("worker1", unit) for unit in WORKER_UNITS],
)
def test_a_unit_is_killed_under_load(fleet: Fleet, host: str, unit: str) -> None:
    numbers = fleet.drop(300)
    before = main_pid(fleet, host, unit)
    fleet[host].run(f"kill -KILL {before}")
    back = wait_until(lambda: is_back(fleet, host, unit, before), f"{unit} running again")
    print(f"{unit}: back after {back:.1f} s, all documents after {fleet.finish(numbers):.1f} s more")


@pytest.mark.parametrize(("host", "unit"), [("ingest1", "llm-ingest"), ("worker1", "llm-worker@medium")])
def test_a_process_that_hangs_is_replaced(fleet: Fleet, host: str, unit: str) -> None:
    fleet[host].run(f"mkdir -p /run/systemd/system/{unit}.service.d")
    fleet[host].run(f"printf '[Service]\\nWatchdogSec=4\\n' > /run/systemd/system/{unit}.service.d/90-test.conf")
    try:
        fleet[host].run(f"systemctl daemon-reload && systemctl restart {unit}")
        before = main_pid(fleet, host, unit)
        numbers = fleet.drop(50)
        fleet.finish(numbers)
        time.sleep(6)  # longer than the watchdog: a process that works is not killed
        assert main_pid(fleet, host, unit) == before
        fleet[host].run(f"kill -STOP {before}")
        numbers = fleet.drop(50)
        back = wait_until(lambda: is_back(fleet, host, unit, before), "a new process")
        print(f"{unit} hung: replaced after {back:.1f} s (WatchdogSec=4)")
        fleet.finish(numbers)
    finally:
        fleet[host].run(f"rm -r /run/systemd/system/{unit}.service.d && systemctl daemon-reload")
        fleet[host].run(f"systemctl restart {unit}")


def downtimes(fleet: Fleet, host: str, units: list[str]) -> list[tuple[int, int]]:
    """The last (stopped, ready) times of each unit, in microseconds since the host's start; the earliest first."""
    spans = []
    for unit in units:
        show = "systemctl show {} -p {} --value"
        stopped, ready = (
            int(fleet[host].run(show.format(unit, f"{each}EnterTimestampMonotonic"))) for each in ("Inactive", "Active")
        )
        spans.append((stopped, ready))
    return sorted(spans)


def test_a_restart_of_llm_target_is_rolling(fleet: Fleet) -> None:
    """Workers of one queue restart one after the other, and so do instances of the API."""
    workers = [f"llm-worker@high{number}" for number in ("", ".2", ".3")]
    fleet["worker1"].run(f"systemctl start {' '.join(workers)}")
    began = {host: fleet[host].run("cut -d . -f 1 /proc/uptime") for host in ("worker1", "ingest1")}
    with ThreadPoolExecutor() as pool, fleet.http() as http:
        restarts = [pool.submit(fleet[host].run, "systemctl restart llm.target") for host in began]
        answers = []
        while not all(restart.done() for restart in restarts):
            answers.append(http.get("/jobs", params={"limit": 1}).status_code)
        for restart in restarts:
            restart.result()
    assert set(answers) == {200}, "the balancer answers all the time"
    for host, units in (("worker1", workers), ("ingest1", ["llm-api@8080", "llm-api@8081"])):
        spans = downtimes(fleet, host, units)
        assert spans[0][0] >= int(began[host]) * 1_000_000, "all units were restarted"
        for (_, ready), (stopped, _) in pairwise(spans):
            assert stopped >= ready, f"on {host} a unit was stopped before the one before it was ready: {spans}"
        print(f"{host}: down one after the other, for {[f'{(end - start) / 1e6:.1f} s' for start, end in spans]}")
    began_stopping = time.monotonic()
    fleet["worker1"].run(f"systemctl stop {' '.join(workers[1:])}")
    assert time.monotonic() - began_stopping < 20, "a plain stop does not wait"


def test_a_unit_that_fails_again_and_again_is_started_with_longer_pauses(fleet: Fleet) -> None:
    host = fleet["worker2"]
    folder = "/run/systemd/system/llm-worker@low.service.d"
    host.run(f"mkdir -p {folder}; printf '[Service]\nExecStart=\nExecStart=/bin/false\n' >{folder}/90-test.conf")
    pauses = "journalctl -u llm-worker@low --no-pager -o cat -n 200 | grep -o 'started again in [0-9]* s' | tail -n 2"
    try:
        host.try_run("systemctl daemon-reload && systemctl restart llm-worker@low")
        wait_until(
            lambda: host.try_run(pauses).stdout.split("\n")[:2] == ["started again in 2 s", "started again in 4 s"],
            "longer pauses",
            explain=lambda: host.try_run("journalctl -u llm-worker@low --no-pager -n 30").stdout,
        )
    finally:
        host.run(f"rm {folder}/90-test.conf && systemctl daemon-reload")
        began = time.monotonic()
        host.run("systemctl restart llm-worker@low")
    assert time.monotonic() - began < 10, "a manual restart does not wait"


def test_a_restart_of_llm_target_loses_nothing(fleet: Fleet) -> None:
    numbers = fleet.drop(1500)
    before = {unit: main_pid(fleet, "ingest1", unit) for unit in INGEST_UNITS}
    fleet["worker1"].run("systemctl restart llm.target")
    fleet["ingest1"].run("systemctl restart llm.target")
    fleet["worker2"].run("systemctl restart llm.target")
    for unit, pid in before.items():
        wait_until(lambda unit=unit, pid=pid: main_pid(fleet, "ingest1", unit) not in (pid, "0"), f"a new {unit}")  # type: ignore[misc]
    print(f"all restarted: documents done after {fleet.finish(numbers):.1f} s")


def test_a_worker_is_added_and_removed(fleet: Fleet) -> None:
    fleet["worker1"].run("systemctl start llm-worker@high.2")
    with fleet.http() as http:
        there = lambda: sum(  # noqa: E731
            each["queue"] == "high" and each["host"] == "worker1" for each in http.get("/workers").json()["workers"]
        )
        wait_until(lambda: there() == 2, "a second worker of high")
        weights = fleet["worker1"].run("systemctl show llm-worker@high llm-worker@high.2 llm-worker@low -p CPUWeight")
        first, second, low = weights.split()
        assert first == second != low, "it has the weight of the first"
        fleet["worker1"].run("systemctl stop llm-worker@high.2")
        wait_until(lambda: there() == 1, "the end of the second worker")


def test_a_unit_with_a_wrong_configuration_is_not_started_again(fleet: Fleet) -> None:
    host = fleet["worker2"]
    host.run("cp -p /etc/llm/scheduler_config.json /root/kept.json")
    try:
        host.run('sed -i \'s/"queue"/"queu"/\' /etc/llm/scheduler_config.json')
        assert host.try_run("systemctl restart llm-worker@low").returncode != 0
        shown = host.run("systemctl show llm-worker@low -p ExecMainStatus -p ActiveState -p NRestarts")
        assert "ExecMainStatus=78" in shown
        assert "ActiveState=failed" in shown
        assert "queu" in host.run("journalctl -u llm-worker@low -n 20 --no-pager -o cat")
    finally:
        host.run("cp -p /root/kept.json /etc/llm/scheduler_config.json; rm /root/kept.json")
        host.run("systemctl restart llm-worker@low")


def test_a_worker_host_loses_its_network(fleet: Fleet) -> None:
    numbers = fleet.drop(500)
    fleet["worker1"].disconnect()
    try:
        print(f"worker1 disconnected: documents done after {fleet.finish(numbers):.1f} s")
    finally:
        fleet["worker1"].reconnect()
    with fleet.http() as http:
        took = wait_until(
            lambda: "worker1" in {each["host"] for each in http.get("/workers").json()["workers"]}, "worker1 back"
        )
    print(f"worker1 reconnected: it works after {took:.1f} s")


def test_the_redis_primary_loses_power(fleet: Fleet) -> None:
    primary = fleet["ingest1"].run("llm-sentinel-cli sentinel get-master-addr-by-name llm").split()[0]
    host = next(each for each in fleet.hosts.named.values() if each.address == primary)
    numbers = fleet.drop(500)
    host.power_off()
    try:
        took = wait_until(
            lambda: fleet["ingest1"].run("llm-sentinel-cli sentinel get-master-addr-by-name llm").split()[0] != primary,
            "another primary",
        )
        print(f"{host.name} lost power: another primary after {took:.1f} s")
        print(f"all documents after {fleet.finish(numbers, 120):.1f} s more")
    finally:
        host.boot()
        host.wait()
    wait_until(
        lambda: (
            "role:slave" in host.try_run("llm-redis-cli info replication").stdout
            and "master_link_status:up" in host.try_run("llm-redis-cli info replication").stdout
        ),
        "the former primary as a replica",
    )
    fleet.finish(fleet.drop(100))


def test_the_ingest_host_loses_power(fleet: Fleet) -> None:
    numbers = fleet.drop(500)
    fleet["ingest1"].power_off()
    began = time.monotonic()
    fleet["ingest1"].boot()
    fleet["ingest1"].wait()
    fleet.finish(numbers)
    print(f"ingest1 lost power: all documents {time.monotonic() - began:.1f} s after it was powered on again")


def test_a_host_is_rebooted(fleet: Fleet) -> None:
    numbers = fleet.drop(300)
    began = time.monotonic()
    fleet["worker2"].reboot()
    fleet.finish(numbers)
    with fleet.http() as http:
        wait_until(
            lambda: sum(each["host"] == "worker2" for each in http.get("/workers").json()["workers"]) == 3,
            "the workers of worker2",
        )
    print(f"worker2 rebooted: it works again after {time.monotonic() - began:.1f} s")


def test_a_second_run_still_changes_nothing(fleet: Fleet) -> None:
    """Also after a failover: the playbook does not change the primary that Sentinel chose."""
    assert fleet.play("deploy").changes() == []
