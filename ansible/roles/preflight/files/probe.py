"""Finds out what a host lacks. The role `preflight` runs it on the host, before anything is changed.

The first argument has the requirements as JSON. It prints JSON: `problems` (texts), `release` (in use, or null),
`python` (version, or null) and `packager` (whether Ansible can query packages).
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from typing import Any

GIBIBYTE = 1024**3


def main() -> None:
    required = json.loads(sys.argv[1])
    problems: list[str] = []
    for check in (_python, _systemd, _clock, _disk, _one_file_system, _names, _other_release):
        found = check(required)
        problems.extend([found] if isinstance(found, str) else found or [])
    report = {
        "problems": problems,
        "release": _release(required),
        "python": _version(required["python"]),
        "packager": _has_packager(),
    }
    print(json.dumps(report))


def _python(required: dict[str, Any]) -> str | None:
    path = required["python"]
    version = _version(path)
    if version is None:
        if required["python_packages"]:
            return None  # it is installed with the other packages
        return (
            f"There is no {path}, and no known package contains it. Install Python 3.11 or newer, and set llm_python "
            "to its path."
        )
    if tuple(map(int, version.split("."))) < (3, 11):
        return (
            f"{path} is Python {version}; 3.11 or newer is needed. Install a newer one beside it, and set llm_python "
            "to its path."
        )
    return None


def _version(path: str) -> str | None:
    try:
        return subprocess.run(
            [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _systemd(required: dict[str, Any]) -> str | None:
    if not os.path.isdir("/run/systemd/system"):
        return "systemd does not run here. The daemons are systemd units, so a host needs it."
    output = subprocess.run(["systemctl", "--version"], capture_output=True, text=True).stdout
    found = re.match(r"systemd (\d+)", output)
    version = int(found[1]) if found else 0
    if version < required["systemd"]:
        return (
            f"systemd is version {version}; {required['systemd']} or newer is needed (LoadCredential=). Use a newer "
            "release of the operating system: Debian 12, Ubuntu 22.04, RHEL 9."
        )
    return None


def _clock(required: dict[str, Any]) -> str | None:
    skew = time.time() - required["now"]
    # The control node read its clock before it connected, so the time of the connection is no skew.
    if -required["skew"] <= skew <= required["skew"] + required["patience"]:
        return None
    direction = "ahead of" if skew > 0 else "behind"
    return (
        f"The clock is {abs(skew):.0f} s {direction} the control node's. Ids of documents, tokens and leases contain "
        "the time. Set the clock and keep it right (apt-get install chrony, or timedatectl set-ntp true)."
    )


def _disk(required: dict[str, Any]) -> list[str]:
    problems = []
    for path, needed in required["room"].items():
        status = os.statvfs(_nearest(path))
        free = status.f_bavail * status.f_frsize / GIBIBYTE
        if free < needed:
            problems.append(
                f"{path} has {free:.1f} GiB free; {needed:g} GiB are needed. Free space, or mount a larger disk there."
            )
    return problems


def _one_file_system(required: dict[str, Any]) -> str | None:
    """The folders of the spool must be on one file system, because documents are moved by rename."""
    by_device: dict[int, list[str]] = {}
    for folder in required["folders"]:
        by_device.setdefault(os.stat(_nearest(folder)).st_dev, []).append(folder)
    if len(by_device) < 2:
        return None
    parts = " / ".join(", ".join(sorted(folders)) for folders in by_device.values())
    return (
        f"The folders of the spool are on {len(by_device)} file systems ({parts}). Documents are moved by rename: "
        "mount one file system for all of them, or change llm_config.directories."
    )


def _names(required: dict[str, Any]) -> list[str]:
    problems = []
    for name in required["names"]:
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            problems.append(f"The name {name} cannot be resolved. Add it to DNS or /etc/hosts, or use the address.")
    return problems


def _other_release(required: dict[str, Any]) -> str | None:
    release = _release(required)
    if release in (None, required["release"]) or required["any_release"]:
        return None
    return (
        f"Release {release} is in use, and the wheelhouse has {required['release']}. deploy.yml does not change the "
        "version: run upgrade.yml first. To change only the configuration, add "
        f"-e llm_version={release.split('-')[0]}."
    )


def _release(required: dict[str, Any]) -> str | None:
    try:
        return os.path.basename(os.readlink(os.path.join(required["root"], "current")))
    except OSError:
        return None


def _has_packager() -> bool:
    """Whether Ansible can query packages. On a bare Debian host it cannot, until python3-apt is installed.

    Ansible's modules look for a Python with the package, if their own Python is not the system's.
    """
    pythons = (sys.executable, "/usr/bin/python3", "/usr/libexec/platform-python")
    probe = "import importlib.util as u, sys; sys.exit(not (u.find_spec('apt') or u.find_spec('dnf')))"
    return any(
        os.path.exists(python) and subprocess.run([python, "-c", probe], timeout=20).returncode == 0
        for python in pythons
    )


def _nearest(path: str) -> str:
    """`path`, or its nearest parent folder that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


if __name__ == "__main__":
    main()
