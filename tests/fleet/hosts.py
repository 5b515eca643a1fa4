"""Test hosts: Debian systems with their own systemd, booted by systemd-nspawn. They need no Docker and no network.

    python tests/fleet/hosts.py up ingest1 redis1 worker1    # boot hosts and leave them running
    python tests/fleet/hosts.py ssh ingest1 systemctl status
    python tests/fleet/hosts.py down                         # kill all hosts and delete their files

`up --suite noble,worker2=jammy` means Ubuntu 24.04 on all hosts except worker2.

Needs root on Debian. mmdebstrap makes a base system once. It is kept, with a local package repository, in
`$LLM_FLEET_CACHE` (~/.cache/llm-fleet). Each host is an overlay over the base system; it survives a reboot of the
host. Roles install packages from the local repository: the only network of the hosts is the bridge between them.
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

# New hosts have new keys, so ssh must not remember them.
SSH_OPTIONS = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
NETWORK = "10.89.77"  # .1 is this machine
BRIDGE = "llmfleet0"
SUITE = "bookworm"
# Package sources of systems that this machine's own sources do not have. Without the key of the archive they count as
# trusted, which is enough for test hosts.
_UBUNTU = "deb [trusted=yes] http://archive.ubuntu.com/ubuntu {} main universe"
_SOURCES = {suite: [_UBUNTU.format(suite), _UBUNTU.format(f"{suite}-updates")] for suite in ("jammy", "noble")}
_BASE = "systemd,systemd-sysv,dbus,udev,openssh-server,python3,ca-certificates,iproute2,procps,curl"
# The packages that roles may install. They are downloaded once, with their dependencies, into the local repository.
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
# So early in the boot, a start sometimes fails because its control group does not exist yet.
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


# Runs a command in control groups of its own. Otherwise hosts with the same units would kill each other's processes.
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


class BaseSystemError(Exception):
    """The base system can't be made, because its packages can't be downloaded."""


class FleetError(Exception):
    """A host can't be made or reached; the message says why."""


def unsupported_reason() -> str | None:
    """Why this machine can't run test hosts; None if it can."""
    if sys.platform != "linux" or not Path("/etc/debian_version").exists():
        return "test hosts need Debian or Ubuntu"
    if os.geteuid() != 0:
        return "test hosts need root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        packages = "mmdebstrap systemd-container dpkg-dev iproute2 openssh-client"
        return f"test hosts need {', '.join(missing)} (apt install {packages})"
    for what, probe in (
        (
            "make a bridge",
            f"ip link delete {BRIDGE}-p 2>/dev/null; ip link add {BRIDGE}-p type bridge && ip link delete {BRIDGE}-p",
        ),
        ("mount", "unshare --mount mount -t tmpfs none /mnt"),
    ):
        done = subprocess.run(["sh", "-c", probe], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"test hosts need the right to {what}, as in a privileged container: {done.stderr.strip()}"
    return None


def cache() -> Path:
    """The folder of the base systems, the packages and the hosts."""
    return Path(os.environ.get("LLM_FLEET_CACHE") or Path.home() / ".cache" / "llm-fleet")


def run(*command: str | Path, **options: object) -> str:
    """Run a command on this machine. Returns its output. Raises `FleetError` with its messages if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        messages = (done.stderr or done.stdout).strip()[-2000:]
        raise FleetError(f"{' '.join(str(part) for part in command[:6])} failed ({done.returncode}): {messages}")
    return str(done.stdout)


@dataclass(frozen=True)
class Host:
    """A booted host. The other hosts find it by its name and by its address."""

    name: str
    address: str
    folder: Path
    key: Path
    repository: Path

    @property
    def root(self) -> Path:
        """Its root folder, as a folder of this machine."""
        return self.folder / "root"

    def ssh_command(self, *options: str) -> list[str]:
        """The ssh command line; append the command to run."""
        timeouts = ("-o", "ConnectTimeout=5", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6")
        return ["ssh", "-i", str(self.key), *SSH_OPTIONS.split(), *timeouts, *options, f"root@{self.address}"]

    def try_run(
        self, command: str, content: bytes | None = None, seconds: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """Run a shell command on the host, with `content` as standard input. It may fail."""
        done = subprocess.run(
            [*self.ssh_command(), command], input=content or b"", capture_output=True, timeout=seconds, check=False
        )
        return subprocess.CompletedProcess(
            command, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def run(self, command: str, content: bytes | None = None, seconds: float = 120) -> str:
        """Run a shell command on the host. Returns its output. Raises `FleetError` if it fails."""
        done = self.try_run(command, content, seconds)
        if done.returncode != 0:
            raise FleetError(
                f"{self.name}: {command[:200]} failed ({done.returncode}): {(done.stderr or done.stdout)[-3000:]}"
            )
        return done.stdout

    def put(self, source: Path, target: str) -> None:
        """Copy a file, or the content of a folder, into a folder of the host."""
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
        self.run(f"mkdir -p {target} && tar -C {target} -xf -", packed)

    def answers(self) -> bool:
        """Whether ssh works."""
        try:
            return self.try_run("true", seconds=10).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def boot(self) -> None:
        """Power on. Use `wait` to wait until ssh works."""
        # Remove what a killed machine left behind.
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
        # The host has to outlive this process, because `hosts.py up` leaves it running.
        actions = [
            (os.POSIX_SPAWN_DUP2, source, target) for source, target in ((nothing, 0), (console, 1), (console, 2))
        ]
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions, setsid=True)
        os.close(console)
        os.close(nothing)
        (self.folder / "pid").write_text(str(pid))

    def wait(self, seconds: float = _BOOT_SECONDS) -> None:
        """Wait until ssh works. Raises `FleetError` with the console output if it does not."""
        end = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > end or "systemd-nspawn" not in _command(int((self.folder / "pid").read_text())):
                console = (self.folder / "console").read_text(errors="replace")[-2000:]
                raise FleetError(f"{self.name} does not answer. Its console: {console}")
            time.sleep(0.3)

    def power_off(self) -> None:
        """Kill the host, as if the power failed."""
        _kill_machine(self.folder / "pid")

    def reboot(self) -> None:
        """Shut the host down, boot it again, and wait until ssh works. It gets new control groups."""
        self.try_run("systemctl --no-block poweroff")
        pid = int((self.folder / "pid").read_text())
        end = time.monotonic() + _BOOT_SECONDS
        while "systemd-nspawn" in _command(pid):
            if time.monotonic() > end:
                raise FleetError(f"{self.name} has not gone down after {_BOOT_SECONDS:g} s")
            time.sleep(0.1)
        self.boot()
        self.wait()

    def disconnect(self) -> None:
        """Cut the host off from the network."""
        run("ip", "link", "set", f"vb-llm-{self.name}", "down")

    def reconnect(self) -> None:
        """Undo `disconnect`."""
        run("ip", "link", "set", f"vb-llm-{self.name}", "up")


class Hosts:
    """The hosts of one fleet, by name. A machine can run one fleet at a time."""

    def __init__(self, suites: str = SUITE) -> None:
        """`suites`: the operating system of all hosts, and exceptions as `,NAME=SUITE`."""
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
        """Make hosts, boot them, and wait until ssh works. First it removes a former fleet."""
        reason = unsupported_reason()
        if reason:
            raise FleetError(reason)
        bases = {suite: base(suite) for suite in sorted({self.suite, *self._suites.values()})}
        self.down()
        _raise_inotify_limit()
        self.folder.mkdir(parents=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        self.named = {name: self._host(name, f"{NETWORK}.{number}") for number, name in enumerate(names, 10)}
        (self.folder / "hosts.json").write_text(json.dumps({each.name: each.address for each in self.named.values()}))
        for host in self.named.values():
            self._mount_root(host, bases[self._suite_of(host.name)])
            host.boot()
        for host in self.named.values():
            host.wait()

    def down(self) -> None:
        """Kill all hosts and delete their files."""
        for folder in self.folder.glob("*/"):
            _kill_machine(folder / "pid")
            _unmount(folder / "root")
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.named = {}

    def _host(self, name: str, address: str) -> Host:
        return Host(name, address, self.folder / name, self.key, cache() / f"packages-{self._suite_of(name)}")

    def _suite_of(self, name: str) -> str:
        return self._suites.get(name, self.suite)

    def _mount_root(self, host: Host, base_system: Path) -> None:
        """Mount the host's overlay over the base system, with its name, address and ssh key."""
        for part in ("root", "upper", "work"):
            (host.folder / part).mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={base_system},upperdir={host.folder / 'upper'},workdir={host.folder / 'work'}"
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
    """The folder of the base system. It is made again if its content has to change."""
    bare, packages, stamp = (cache() / f"{name}-{suite}" for name in ("base", "packages", "made"))
    wanted_packages = [*_PACKAGES, *_MORE_PACKAGES.get(suite, [])]
    wanted = json.dumps([_BASE, wanted_packages, _NETWORK_UNIT, _NETWORK])
    if stamp.exists() and stamp.read_text() == wanted:
        return bare
    stamp.unlink(missing_ok=True)
    for folder in (bare, packages):
        shutil.rmtree(folder, ignore_errors=True)
    packages.mkdir(parents=True)
    print(f"Making the base system of {suite}, once; this takes about two minutes.", file=sys.stderr)
    try:
        run("mmdebstrap", "--simulate", "--variant=minbase", suite, "/dev/null", *_SOURCES.get(suite, []))
    except FleetError as error:
        raise BaseSystemError(str(error)) from None
    run("mmdebstrap", "--variant=minbase", f"--include={_BASE},apt", suite, bare, *_SOURCES.get(suite, []))
    (bare / "etc" / "resolv.conf").unlink(missing_ok=True)  # in Ubuntu a link to the file of a service
    shutil.copy("/etc/resolv.conf", bare / "etc" / "resolv.conf")
    run("chroot", bare, "apt-get", "update", "-qq")
    run("chroot", bare, "apt-get", "install", "-qq", "--no-install-recommends", "--download-only", *wanted_packages)
    for package in (bare / "var" / "cache" / "apt" / "archives").glob("*.deb"):
        shutil.move(package, packages)
    (packages / "Packages").write_text(run("dpkg-scanpackages", "--multiversion", ".", cwd=packages))
    _finish_base(bare)
    stamp.write_text(wanted)
    return bare


def _raise_inotify_limit() -> None:
    """Raise the limit of inotify instances. All hosts share it, and each systemd needs about twenty."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < 1024:
        limit.write_text("1024")


def _finish_base(bare: Path) -> None:
    """Set up the local repository as the only package source, the unit for the address, and new ssh host keys."""
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


def _kill_machine(record: Path) -> None:
    """Kill the machine whose pid is in the file `record`, and wait for its end."""
    try:
        pid = int(record.read_text())
    except (FileNotFoundError, ValueError):
        return
    record.unlink()
    if "systemd-nspawn" not in _command(pid):
        return
    # Also kill its process 1: then the kernel kills all its other processes, which would survive systemd-nspawn.
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
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Test hosts.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="boot hosts and leave them running")
    up.add_argument("names", nargs="+")
    up.add_argument("--suite", default=SUITE)
    commands.add_parser("down", help="kill all hosts and delete their files")
    ssh = commands.add_parser("ssh", help="run a command on a host, or open a shell")
    ssh.add_argument("name")
    ssh.add_argument("words", nargs=argparse.REMAINDER)
    arguments = parser.parse_args(argv)
    try:
        hosts = Hosts(getattr(arguments, "suite", SUITE))
        if arguments.command == "up":
            hosts.up(arguments.names)
            for host in hosts.named.values():
                print(f"{host.name}\t{host.address}")
        elif arguments.command == "down":
            hosts.down()
        elif arguments.name not in hosts.named:
            print(f"There is no host {arguments.name}. There are: {', '.join(hosts.named) or 'none'}.", file=sys.stderr)
            return 2
        else:
            return subprocess.call([*hosts[arguments.name].ssh_command(), " ".join(arguments.words)])
    except (FleetError, BaseSystemError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
