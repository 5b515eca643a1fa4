"""What a host lacks, in words: run on the host by the role `preflight`, before anything is changed.

Gets what to look for as JSON in the first argument, and prints JSON: `problems`, and the `release` in use.
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
    asked = json.loads(sys.argv[1])
    problems: list[str] = []
    for check in (_python, _systemd, _clock, _disk, _one_file_system, _names, _other_release):
        found = check(asked)
        problems.extend([found] if isinstance(found, str) else found or [])
    print(
        json.dumps(
            {"problems": problems, "release": _release(asked), "python": _version(asked["python"]), **_packager()}
        )
    )


def _python(asked: dict[str, Any]) -> str | None:
    path = asked["python"]
    version = _version(path)
    if version is None:
        if asked["python_packages"]:
            return None  # it is installed with the other packages
        return (
            f"There is no {path}, and no package is known that brings it. Install Python 3.11 or newer, and let "
            "llm_python name it."
        )
    if tuple(map(int, version.split("."))) < (3, 11):
        return (
            f"{path} is Python {version}; 3.11 or newer is needed. Install one beside it (it may stay), and let "
            "llm_python name that."
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


def _systemd(asked: dict[str, Any]) -> str | None:
    if not os.path.isdir("/run/systemd/system"):
        return "systemd does not run here. The daemons are systemd units; a host without it can't take them."
    said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True).stdout
    found = re.match(r"systemd (\d+)", said)
    version = int(found[1]) if found else 0
    if version < asked["systemd"]:
        return (
            f"systemd is version {version}; {asked['systemd']} or newer is needed (LoadCredential=). Take a newer "
            "release of the operating system: Debian 12, Ubuntu 22.04, RHEL 9."
        )
    return None


def _clock(asked: dict[str, Any]) -> str | None:
    skew = time.time() - asked["now"]
    # The control node looked at its clock before it connected: being late by that is no skew.
    if -asked["skew"] <= skew <= asked["skew"] + asked["patience"]:
        return None
    way = "ahead of" if skew > 0 else "behind"
    return (
        f"The clock is {abs(skew):.0f} s {way} the control node's. Ids of documents, tokens and leases hold the time: "
        "set it, and keep it (apt-get install chrony, or timedatectl set-ntp true)."
    )


def _disk(asked: dict[str, Any]) -> list[str]:
    problems = []
    for path, needed in asked["room"].items():
        status = os.statvfs(_nearest(path))
        free = status.f_bavail * status.f_frsize / GIBIBYTE
        if free < needed:
            problems.append(
                f"{path} has {free:.1f} GiB free; {needed:g} GiB are needed. Make room, or mount a larger disk there."
            )
    return problems


def _one_file_system(asked: dict[str, Any]) -> str | None:
    """Documents move by rename, which stops at the edge of a file system."""
    by_device: dict[int, list[str]] = {}
    for folder in asked["folders"]:
        by_device.setdefault(os.stat(_nearest(folder)).st_dev, []).append(folder)
    if len(by_device) < 2:
        return None
    parts = " / ".join(", ".join(sorted(folders)) for folders in by_device.values())
    return (
        f"The folders of the spool are on {len(by_device)} file systems ({parts}). Documents move by rename: mount one "
        "file system above all of them, or change llm_config.directories."
    )


def _names(asked: dict[str, Any]) -> list[str]:
    problems = []
    for name in asked["names"]:
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            problems.append(f"The name {name} is not known here. Add it to DNS or /etc/hosts, or write the address.")
    return problems


def _other_release(asked: dict[str, Any]) -> str | None:
    release = _release(asked)
    if release in (None, asked["release"]) or asked["any_release"]:
        return None
    return (
        f"Release {release} runs here, and the wheelhouse holds {asked['release']}. deploy.yml changes no version: run "
        f"upgrade.yml first, or say -e llm_version={release.split('-')[0]} to change only the configuration."
    )


def _release(asked: dict[str, Any]) -> str | None:
    try:
        return os.path.basename(os.readlink(os.path.join(asked["root"], "current")))
    except OSError:
        return None


def _packager() -> dict[str, bool]:
    """Whether Ansible can ask for packages here: it can't on a bare Debian host before python3-apt is there.

    Its modules look for a Python that can, where the one that they run in is not the system's own.
    """
    known = (sys.executable, "/usr/bin/python3", "/usr/libexec/platform-python")
    ask = "import importlib.util as u, sys; sys.exit(not (u.find_spec('apt') or u.find_spec('dnf')))"
    for python in known:
        if os.path.exists(python) and subprocess.run([python, "-c", ask], timeout=20).returncode == 0:
            return {"packager": True}
    return {"packager": False}


def _nearest(path: str) -> str:
    """`path`, or the folder above it that is there already."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


if __name__ == "__main__":
    main()
