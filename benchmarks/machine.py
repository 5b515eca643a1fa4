"""The machine of a measurement, in one line."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

from benchmarks.server import version


class Machine(msgspec.Struct, frozen=True):
    """`load`: the load average of the minute before the run. It shows what else used the machine."""

    date: str
    line: str
    load: float


def describe(spool: Path) -> Machine:
    """The machine, and the file system of `spool`."""
    parts = (
        f"{_cpu()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        f"Linux {platform.release()}" if platform.system() == "Linux" else platform.platform(),
        f"spool on {_file_system(spool)}",
        f"Python {platform.python_version()}",
        version(),
    )
    return Machine(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "; ".join(parts), os.getloadavg()[0])


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the innermost mount that holds `folder`."""
    inside = [each for each in psutil.disk_partitions(all=True) if folder.is_relative_to(each.mountpoint)]
    if not inside:
        return "an unknown file system"
    return max(inside, key=lambda each: len(each.mountpoint)).fstype
