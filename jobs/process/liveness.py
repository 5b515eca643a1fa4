"""Whether a process that a key in Redis names still lives. It is known for certain only on the same machine.

A process id alone is not enough: another container has its own ids, and freed ids are used again. So a process is
known by its place (this boot of this machine, and this namespace of process ids) and its start time. If in doubt, the
process counts as living, and its lease decides.
"""

import os


def here() -> str:
    """This process's place; "" where the system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def identity(pid: int) -> str:
    """A process's id and start time (in ticks since boot); "" when there is no such process."""
    state, started = _stat(pid)
    return f"{pid}:{started}" if state else ""


def is_gone(place: str, processes: str) -> bool:
    """Whether all `processes` (identities, with spaces between) ran at this `place` and have ended."""
    if not place or place != here() or not processes:
        return False
    return all(_has_ended(process) for process in processes.split())


def is_stopped(pid: int) -> bool:
    """Whether the process exists but is stopped by a signal."""
    return _stat(pid)[0] == "T"


def _has_ended(process: str) -> bool:
    text, _, started = process.partition(":")
    if not text.isdigit() or not started:
        return False
    try:
        os.kill(int(text), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # another user's: /proc may hide those, which is why signal 0 is tried first
    state, since = _stat(int(text))
    return bool(state) and (state in "ZX" or since != started)


def _stat(pid: int) -> tuple[str, str]:
    """A process's state (one letter) and start time, from proc(5); both "" when it cannot be read."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name in parentheses may hold anything
        return fields[0].decode(), fields[19].decode()
    except (OSError, IndexError):
        return "", ""
