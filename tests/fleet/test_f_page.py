"""Every command of docs/operations.md, as written there, on a fleet with the shipped inventories."""

import json
import os
import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fleet import ROOT, SPOOL, Fleet, wait_until
from hosts import SSH_OPTIONS
from inventory import ALONE
from test_e_releases import make_release, version_of

_BLOCK = re.compile(r"^## (.+?)$|^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ON_THE_CONTROL_NODE = ("make ", "cd ", "git ", "$EDITOR ", "../.venv-fleet/", "curl ", "ssh ")
# The editor is a script, and `make test-fleet` has already run what `make` would do.
_SHELL = """
export EDITOR=./edit
make() { echo "make $*: already done"; }
"""


def blocks() -> list[tuple[str, list[str]]]:
    """The console blocks of the page: the title of the section, and the commands."""
    title, found = "", []
    for heading, block in _BLOCK.findall((ROOT / "docs" / "operations.md").read_text()):
        title = heading or title
        commands = [line.removeprefix("$ ") for line in block.splitlines()]
        if block:
            found.append((title, commands))
    return found


class Operator:
    """A person who follows the page, in a clone of this repository."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.folder = folder
        self.home = folder / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, self.home], check=True)
        for name in (".venv", ".venv-fleet"):
            (self.home / name).symlink_to(ROOT / name)
        (self.home / "dist").mkdir()
        self.use_wheelhouse(ROOT / "dist" / "wheelhouse")
        secrets = self.home / "ansible" / ".secrets"
        secrets.mkdir(mode=0o700)
        (secrets / "fleet").symlink_to(fleet.folder / "secrets")
        with (self.home / "ansible" / "inventories" / "fleet" / "group_vars" / "all.yml").open("a") as more:
            more.writelines(f"{name}: {json.dumps(value)}\n" for name, value in fleet.variables.items())
        edit = self.home / "ansible" / "edit"
        addresses = " ".join(
            f"-e 's/ {each.name}: {{ansible.*/ {each.name}: {{ansible_host: {each.address}}}/'"
            for each in fleet.hosts.named.values()
        )
        edit.write_text(f'#!/bin/sh\nsed -i {addresses} "$1"\n')
        edit.chmod(0o755)
        # Each block must also run on its own, so the inventory is edited now.
        subprocess.run([edit, "inventories/fleet/hosts.yml"], cwd=edit.parent, check=True)
        ingest1 = fleet["ingest1"].address
        (folder / ".curlrc").write_text(f'resolve = "ingest1:443:{ingest1}"\nsilent\nshow-error\nfail\n')

    def use_wheelhouse(self, wheelhouse: Path) -> None:
        """Put a wheelhouse where `make wheelhouse` puts it."""
        place = self.home / "dist" / "wheelhouse"
        place.unlink(missing_ok=True)
        place.symlink_to(wheelhouse)

    def type(self, commands: list[str]) -> str:
        """Run commands on the control node, in one shell. Returns their output. Fails if one fails."""
        key = self.fleet.hosts.key
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", _SHELL + "\n".join(commands)],
            cwd=self.home,
            env={
                **os.environ,
                "CURL_HOME": str(self.folder),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_PRIVATE_KEY_FILE": str(key),
                "ANSIBLE_SSH_COMMON_ARGS": SSH_OPTIONS,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout[-5000:]}\n{done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def operator(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    yield Operator(fleet, tmp_path_factory.mktemp("operator"))
    fleet.play("deploy").ok()  # apply the inventory of the other tests again


def test_a_single_host(operator: Operator) -> None:
    """Deploys the inventory single-host."""
    solo = operator.fleet[ALONE]
    hosts = operator.home / "ansible" / "inventories" / "single-host" / "hosts.yml"
    hosts.write_text(re.sub(r"ansible_host: \S+", f"ansible_host: {solo.address}", hosts.read_text()))
    deploy = ["cd ansible", "../.venv-fleet/bin/ansible-playbook -i inventories/single-host deploy.yml"]
    operator.type(deploy)
    solo.run(f"echo '{{}}' >{SPOOL}/raw/.one.json && mv {SPOOL}/raw/.one.json {SPOOL}/raw/one.json")
    wait_until(lambda: solo.try_run(f"test -s {SPOOL}/processed/one.json").returncode == 0, "the result")
    key = (operator.home / "ansible" / ".secrets" / "single-host" / "api_key_admin").read_text().strip()
    certificate = operator.home / "ansible" / ".secrets" / "single-host" / "ca.crt"
    with httpx.Client(verify=ssl.create_default_context(cafile=certificate), headers={"X-API-Key": key}) as http:
        jobs = http.get(f"https://{solo.address}/jobs", params={"source": "one.json"}).json()["jobs"]
    assert [job["status"] for job in jobs] == ["done"]
    assert re.findall(r"changed=(\d+)", operator.type(deploy)) == ["0"], "a second run changes nothing"


def is_for_control_node(commands: list[str]) -> bool:
    places = {command.startswith(_ON_THE_CONTROL_NODE) for command in commands}
    assert len(places) == 1, f"a block runs on one machine: {commands}"
    return places.pop()


def test_the_page_has_commands() -> None:
    found = blocks()
    assert len(found) >= 8
    titles = {title for title, _ in found}
    assert {"Deploying", "Status and logs", "Upgrade and rollback", "Backups", "Monitoring"} <= titles


@pytest.mark.parametrize(("title", "commands"), blocks())
def test_every_command_works(operator: Operator, tmp_path: Path, title: str, commands: list[str]) -> None:
    fleet = operator.fleet
    numbers = fleet.drop(20)
    if commands[0].startswith("ssh "):
        check_tunnel(operator, commands)
    elif not is_for_control_node(commands):
        run_on_host(fleet, commands)
    elif title == "Upgrade and rollback":
        operator.use_wheelhouse(make_release(tmp_path, "9.4.0"))
        operator.type([each for each in commands if "rollback" not in each])
        assert version_of(fleet, "worker2") == "9.4.0"
        rollback = commands[-1]
        operator.type(["cd ansible", re.sub(r" \[.*?\]", "", rollback)])
        assert version_of(fleet, "worker2") == "0.1.0"
        operator.type(["cd ansible", rollback.replace("[", "").replace("]", "")])
        operator.use_wheelhouse(ROOT / "dist" / "wheelhouse")
    elif title == "Backups":
        *make, restore = commands
        operator.type(make)
        (made,) = (operator.home / "backups" / "fleet").iterdir()
        operator.type(["cd ansible", re.sub(r"llm-ingest1-\S+", made.name, restore)])
    else:
        output = operator.type(commands)
        if commands[0].startswith("curl "):
            assert '"jobs"' in output
    fleet.finish(numbers)


def run_on_host(fleet: Fleet, commands: list[str]) -> None:
    host = fleet["worker1" if "llm-worker@" in commands[0] else "ingest1"]
    for command in commands:
        typed = command
        if "DOCUMENT_ID=" in command:
            last = "journalctl -u llm-ingest -u llm-collector -o json --output-fields=DOCUMENT_ID -n 500"
            document_id = re.findall(r'"DOCUMENT_ID":"(\w+)"', host.run(last))[-1]
            typed = re.sub(r"DOCUMENT_ID=\w+", f"DOCUMENT_ID={document_id}", command)
        elif "llm-ingest1-" in command:
            newest = host.run("ls /var/backups/llm | tail -n 1").strip()
            typed = re.sub(r"llm-ingest1-\S+", newest, command)
        elif command.endswith(" -f"):  # it does not end by itself
            typed = f"timeout 2 {command}; [ $? = 124 ]"
        if command.startswith("llmctl restore /"):  # "into empty folders, with the daemons stopped"
            host.run("systemctl stop llm-ingest llm-collector llm-scheduler")
            host.run("sh -s /var/lib/llm", (ROOT / "ansible" / "tasks" / "set-aside.sh").read_bytes())
        done = host.try_run(typed, seconds=300)
        # `systemctl status` returns 3 if a unit, such as the backup, does not run now.
        assert done.returncode in ((0, 3) if " status " in command else (0,)), f"{typed}: {done.stdout}{done.stderr}"
        print(f"{host.name}: {command}\n{done.stdout[-600:]}")
    host.run("systemctl start llm.target llm-ingest llm-collector llm-scheduler" if host.name == "ingest1" else "true")


def check_tunnel(operator: Operator, commands: list[str]) -> None:
    (command,) = commands
    key, mon1 = operator.fleet.hosts.key, operator.fleet["mon1"].address
    options = f"-i {key} {SSH_OPTIONS} -N"
    # Other ports here, because this machine may have its own Prometheus.
    typed = command.replace("-L 90", "-L 190").replace("ssh ", f"ssh {options} -l root -o HostName={mon1} ", 1)
    tunnel = subprocess.Popen(["bash", "-c", f"exec {typed.split(' # ')[0]}"], stdin=subprocess.DEVNULL)
    ports = re.findall(r"-L (\d+):", typed)
    assert len(ports) == 2

    def is_ready(port: str) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(lambda: all(is_ready(port) for port in ports), "Prometheus and Alertmanager through the tunnel")
    finally:
        tunnel.terminate()
        tunnel.wait()
