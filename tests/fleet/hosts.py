"""Hosts to test on: Debian machines with systemd of their own, booted here by systemd-nspawn. No Docker, no network.

    python tests/fleet/hosts.py up ingest1 redis1 worker1    # boots them, and leaves them running
    python tests/fleet/hosts.py ssh ingest1 systemctl status
    python tests/fleet/hosts.py down                         # ends all of them, and removes what they wrote

`up --suite noble,worker2=jammy` is Ubuntu 24.04 everywhere but on worker2.

Needs root on Debian. A bare system is made once, by mmdebstrap, and kept with a local package repository in
`$LLM_FLEET_CACHE` (~/.cache/llm-fleet); each host is that system with a layer of its own over it, which survives a
reboot of the host, and goes with it. What roles install they take from the repository: hosts have no other network
than the bridge between them.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Hosts are made anew, and their keys with them: ssh is not to remember them.
SSH_OPTIONS = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
NETWORK = "10.89.77"  # .1 is this machine
BRIDGE = "llmfleet0"
SUITE = "bookworm"
# Where a system comes from that is not in this machine's own sources. Its archive's key is not here: hosts that are
# thrown away do without.
_UBUNTU = "deb [trusted=yes] http://archive.ubuntu.com/ubuntu {} main universe"
_SOURCES = {suite: [_UBUNTU.format(suite), _UBUNTU.format(f"{suite}-updates")] for suite in ("jammy", "noble")}
_BASE = "systemd,systemd-sysv,dbus,udev,openssh-server,python3,ca-certificates,iproute2,procps,curl"
# What the roles may install, with all that it needs: it is fetched once, and served from a folder.
_PACKAGES = [
    "python3-apt",
    "openssl",
    "sudo",
    "redis-server",
    "redis-tools",
    "redis-sentinel",
    "nginx",
    "nftables",
    "logrotate",
    "python3-venv",
    "prometheus",
    "prometheus-alertmanager",
    "prometheus-node-exporter",
    "prometheus-redis-exporter",
]
_MORE_PACKAGES = {"jammy": ["python3.11", "python3.11-venv"]}
_TOOLS = ("mmdebstrap", "systemd-nspawn", "dpkg-scanpackages", "ip", "ssh-keygen")
_BOOT_SECONDS = 90.0
_STOP_SECONDS = 20.0

_NETWORK_UNIT = """
[Unit]
Description=The address of this test host
DefaultDependencies=no
Before=network.target network-online.target ssh.service
StartLimitIntervalSec=0
[Service]
Type=oneshot
RemainAfterExit=yes
# So early, a start fails now and then: its control group is not there yet.
Restart=on-failure
RestartSec=200ms
ExecStart=/usr/local/sbin/test-host-network
[Install]
WantedBy=multi-user.target network-online.target
"""
_NETWORK = """#!/bin/sh
set -e
ip link set lo up
ip link set host0 up
ip address replace "$(cat /etc/llm-test-address)/24" dev host0
"""


# Each host has control groups of its own: two with the same units would else end each other's processes.
_IN_GROUPS = """
name=$1; shift
for root in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
    [ -e "$root/cgroup.procs" ] || continue
    find "$root" -path "$root/$name-*" -depth -type d -exec rmdir {} + 2>/dev/null
    mkdir "$root/$name-$$"
    echo $$ >"$root/$name-$$/cgroup.procs"
done
exec "$@"
"""


class NoSystem(Exception):
    """A bare system can't be made here: what it consists of can't be fetched."""


class FleetError(Exception):
    """A host can't be made or reached; the message says why."""


def why_not() -> str | None:
    """Why there can't be hosts on this machine, in words; None if there can."""
    if sys.platform != "linux" or not Path("/etc/debian_version").exists():
        return "hosts are made on Debian and Ubuntu only"
    if os.geteuid() != 0:
        return "hosts need root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        packages = "mmdebstrap systemd-container dpkg-dev iproute2 openssh-client"
        return f"hosts need {', '.join(missing)} (apt install {packages})"
    for what, probe in (
        (
            "make a bridge",
            f"ip link delete {BRIDGE}-p 2>/dev/null; ip link add {BRIDGE}-p type bridge && ip link delete {BRIDGE}-p",
        ),
        ("mount", "unshare --mount mount -t tmpfs none /mnt"),
    ):
        done = subprocess.run(["sh", "-c", probe], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"hosts need the right to {what}, as a privileged container has it: {done.stderr.strip()}"
    return None


def cache() -> Path:
    """Where the bare system and the packages are kept."""
    return Path(os.environ.get("LLM_FLEET_CACHE") or Path.home() / ".cache" / "llm-fleet")


def run(*command: str | Path, **options: object) -> str:
    """What a command prints. Raises `FleetError` with what it said when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise FleetError(f"{' '.join(str(part) for part in command[:6])} failed ({done.returncode}): {said}")
    return str(done.stdout)


@dataclass(frozen=True)
class Host:
    """A booted machine. Its name is its hostname; the others find it by that, and by `address`."""

    name: str
    address: str
    folder: Path
    key: Path
    repository: Path

    @property
    def root(self) -> Path:
        """Its file system, from outside."""
        return self.folder / "root"

    def ssh_command(self, *options: str) -> list[str]:
        """ssh to it, up to the command."""
        once = ("-o", "ConnectTimeout=5", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6")
        return ["ssh", "-i", str(self.key), *SSH_OPTIONS.split(), *once, *options, f"root@{self.address}"]

    def ask(
        self, command: str, content: bytes | None = None, seconds: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """Run a shell command on it, with `content` as its standard input."""
        done = subprocess.run(
            [*self.ssh_command(), command], input=content or b"", capture_output=True, timeout=seconds, check=False
        )
        return subprocess.CompletedProcess(
            command, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def tell(self, command: str, content: bytes | None = None, seconds: float = 120) -> str:
        """What a shell command on it prints. Raises `FleetError` when it fails."""
        done = self.ask(command, content, seconds)
        if done.returncode != 0:
            raise FleetError(
                f"{self.name}: {command[:200]} failed ({done.returncode}): {(done.stderr or done.stdout)[-3000:]}"
            )
        return done.stdout

    def put(self, source: Path, target: str) -> None:
        """Copy a file or what is in a folder to a folder of it."""
        packed = subprocess.run(
            [
                "tar",
                "-C",
                source if source.is_dir() else source.parent,
                "-cf",
                "-",
                "." if source.is_dir() else source.name,
            ],
            capture_output=True,
            check=True,
        ).stdout
        self.tell(f"mkdir -p {target} && tar -C {target} -xf -", packed)

    def answers(self) -> bool:
        """Whether it lets one in."""
        try:
            return self.ask("true", seconds=10).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def boot(self) -> None:
        """Power on. Does not wait: see `wait`."""
        # What a machine leaves that was ended without being told.
        subprocess.run(["ip", "link", "delete", f"vb-llm-{self.name}"], capture_output=True, check=False)
        shutil.rmtree(Path("/run/systemd/nspawn/propagate") / f"llm-{self.name}", ignore_errors=True)
        command = [
            *("sh", "-c", _IN_GROUPS, "sh", f"llm-{self.name}"),
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--machine=llm-{self.name}"),
            *(f"--hostname={self.name}", f"--directory={self.root}", f"--network-bridge={BRIDGE}"),
            *("--resolv-conf=off", "--timezone=off", f"--bind-ro={self.repository}:/repository", "--boot"),
        ]
        console = os.open(self.folder / "console", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        # It outlives this process: `hosts.py up` leaves it running.
        actions = [
            (os.POSIX_SPAWN_DUP2, source, target) for source, target in ((nothing, 0), (console, 1), (console, 2))
        ]
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions, setsid=True)
        os.close(console)
        os.close(nothing)
        (self.folder / "pid").write_text(str(pid))

    def wait(self, seconds: float = _BOOT_SECONDS) -> None:
        """Until it lets one in. Raises `FleetError` with what is on its console."""
        end = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > end or "systemd-nspawn" not in _command(int((self.folder / "pid").read_text())):
                console = (self.folder / "console").read_text(errors="replace")[-2000:]
                raise FleetError(f"{self.name} does not answer. Its console: {console}")
            time.sleep(0.3)

    def power_off(self) -> None:
        """As when the cable is pulled: nothing is written any more, nobody is told."""
        _end(self.folder / "pid")

    def reboot(self) -> None:
        """In order; back when this returns. It gets new control groups, as a machine gets a new kernel."""
        self.ask("systemctl --no-block poweroff")
        pid = int((self.folder / "pid").read_text())
        end = time.monotonic() + _BOOT_SECONDS
        while "systemd-nspawn" in _command(pid):
            if time.monotonic() > end:
                raise FleetError(f"{self.name} has not gone down after {_BOOT_SECONDS:g} s")
            time.sleep(0.1)
        self.boot()
        self.wait()

    def cut(self) -> None:
        """Out of the network: what is sent to it and from it is lost."""
        run("ip", "link", "set", f"vb-llm-{self.name}", "down")

    def join(self) -> None:
        """Back into the network."""
        run("ip", "link", "set", f"vb-llm-{self.name}", "up")


class Hosts:
    """The hosts of one fleet, by name. There is one fleet at a time on a machine."""

    def __init__(self, suites: str = SUITE) -> None:
        """`suites`: the release that all have, and after a comma, as NAME=RELEASE, what others have."""
        self.suite, *others = suites.split(",")
        self._suites = dict(other.split("=", 1) for other in others)
        self.folder = cache() / "hosts"
        self.key = self.folder / "key"
        self.named: dict[str, Host] = {}
        record = self.folder / "hosts.json"
        if record.exists():
            for name, address in json.loads(record.read_text()).items():
                self.named[name] = self._host(name, address)

    def __getitem__(self, name: str) -> Host:
        return self.named[name]

    def up(self, names: Sequence[str]) -> None:
        """Make and boot hosts, and wait until each lets one in. What is left of a former fleet is removed first."""
        refusal = why_not()
        if refusal:
            raise FleetError(refusal)
        bare = {suite: base(suite) for suite in sorted({self.suite, *self._suites.values()})}
        self.down()
        _make_room()
        self.folder.mkdir(parents=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        self.named = {name: self._host(name, f"{NETWORK}.{number}") for number, name in enumerate(names, 10)}
        (self.folder / "hosts.json").write_text(json.dumps({each.name: each.address for each in self.named.values()}))
        for host in self.named.values():
            self._lay(host, bare[self._suite_of(host.name)])
            host.boot()
        for host in self.named.values():
            host.wait()

    def down(self) -> None:
        """End all hosts and remove everything of them."""
        for folder in self.folder.glob("*/"):
            _end(folder / "pid")
            _unmount(folder / "root")
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.named = {}

    def _host(self, name: str, address: str) -> Host:
        return Host(name, address, self.folder / name, self.key, cache() / f"packages-{self._suite_of(name)}")

    def _suite_of(self, name: str) -> str:
        return self._suites.get(name, self.suite)

    def _lay(self, host: Host, bare: Path) -> None:
        for part in ("root", "upper", "work"):
            (host.folder / part).mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={bare},upperdir={host.folder / 'upper'},workdir={host.folder / 'work'}"
        run("mount", "-t", "overlay", "-o", layers, "overlay", host.root)
        etc = host.root / "etc"
        (etc / "hostname").write_text(host.name + "\n")
        (etc / "llm-test-address").write_text(host.address + "\n")
        names = "".join(f"{each.address} {each.name}\n" for each in self.named.values())
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{NETWORK}.1 control\n{names}")
        keys = host.root / "root" / ".ssh"
        keys.mkdir(mode=0o700, exist_ok=True)
        (keys / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())


def base(suite: str = SUITE) -> Path:
    """The bare system, made anew when what belongs into it has changed."""
    bare, packages, stamp = (cache() / f"{name}-{suite}" for name in ("base", "packages", "made"))
    wanted_packages = [*_PACKAGES, *_MORE_PACKAGES.get(suite, [])]
    wanted = json.dumps([_BASE, wanted_packages, _NETWORK_UNIT, _NETWORK])
    if stamp.exists() and stamp.read_text() == wanted:
        return bare
    stamp.unlink(missing_ok=True)
    for folder in (bare, packages):
        shutil.rmtree(folder, ignore_errors=True)
    packages.mkdir(parents=True)
    print(f"A bare {suite} is made, once: about two minutes.", file=sys.stderr)
    try:
        run("mmdebstrap", "--simulate", "--variant=minbase", suite, "/dev/null", *_SOURCES.get(suite, []))
    except FleetError as error:
        raise NoSystem(str(error)) from None
    run("mmdebstrap", "--variant=minbase", f"--include={_BASE},apt", suite, bare, *_SOURCES.get(suite, []))
    (bare / "etc" / "resolv.conf").unlink(missing_ok=True)  # a link to what does not run here, in Ubuntu
    shutil.copy("/etc/resolv.conf", bare / "etc" / "resolv.conf")
    run("chroot", bare, "apt-get", "update", "-qq")
    run("chroot", bare, "apt-get", "install", "-qq", "--no-install-recommends", "--download-only", *wanted_packages)
    for package in (bare / "var" / "cache" / "apt" / "archives").glob("*.deb"):
        shutil.move(package, packages)
    (packages / "Packages").write_text(run("dpkg-scanpackages", "--multiversion", ".", cwd=packages))
    _close(bare)
    stamp.write_text(wanted)
    return bare


def _make_room() -> None:
    """All hosts share this machine's root, and each systemd watches some twenty things: 128 are not enough for six."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < 1024:
        limit.write_text("1024")


def _close(bare: Path) -> None:
    """Leave the bare system with the local repository alone, the unit for its address, and keys of its own."""
    apt = bare / "etc" / "apt"
    for folder in (apt / "sources.list.d", apt / "apt.conf.d", bare / "var" / "lib" / "apt" / "lists"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    (apt / "sources.list").write_text("deb [trusted=yes] file:/repository ./\n")
    (bare / "etc" / "resolv.conf").write_text("")
    (bare / "etc" / "machine-id").write_text("")
    units = bare / "etc" / "systemd" / "system"
    (units / "test-host-network.service").write_text(_NETWORK_UNIT)
    script = bare / "usr" / "local" / "sbin" / "test-host-network"
    script.write_text(_NETWORK)
    script.chmod(0o755)
    run("systemctl", f"--root={bare}", "enable", "test-host-network.service", "ssh.service")
    run(
        "systemctl",
        f"--root={bare}",
        "mask",
        "systemd-networkd-wait-online.service",
        "getty@.service",
        "console-getty.service",
    )
    for key in (bare / "etc" / "ssh").glob("ssh_host_*"):
        key.unlink()
    run("chroot", bare, "ssh-keygen", "-A")


def _end(record: Path) -> None:
    """End the machine whose pid is on record, and wait for its end."""
    try:
        pid = int(record.read_text())
    except (FileNotFoundError, ValueError):
        return
    record.unlink()
    if "systemd-nspawn" not in _command(pid):
        return
    # Its first process: with that the kernel ends all others, which would outlive systemd-nspawn.
    inside = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for each in (*inside, pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    end = time.monotonic() + _STOP_SECONDS
    while any(_command(each) for each in (*inside, pid)) and time.monotonic() < end:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _unmount(root: Path) -> None:
    end = time.monotonic() + _STOP_SECONDS
    while os.path.ismount(root):
        done = subprocess.run(["umount", root], capture_output=True, text=True, check=False)
        if done.returncode != 0 and time.monotonic() > end:
            raise FleetError(f"{root} can't be unmounted: {done.stderr.strip()}")
        time.sleep(0.1)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description="Hosts to test on.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="boot hosts, and leave them running")
    up.add_argument("names", nargs="+")
    up.add_argument("--suite", default=SUITE)
    commands.add_parser("down", help="end all hosts, and remove what they wrote")
    ssh = commands.add_parser("ssh", help="run a command on a host, or a shell")
    ssh.add_argument("name")
    ssh.add_argument("words", nargs=argparse.REMAINDER)
    asked = parser.parse_args(argv)
    try:
        hosts = Hosts(getattr(asked, "suite", SUITE))
        if asked.command == "up":
            hosts.up(asked.names)
            for host in hosts.named.values():
                print(f"{host.name}\t{host.address}")
        elif asked.command == "down":
            hosts.down()
        elif asked.name not in hosts.named:
            print(f"There is no host {asked.name}. There are: {', '.join(hosts.named) or 'none'}.", file=sys.stderr)
            return 2
        else:
            return subprocess.call([*hosts[asked.name].ssh_command(), " ".join(asked.words)])
    except (FleetError, NoSystem) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
