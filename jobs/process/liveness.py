"""Whether a process that a worker's key in Redis speaks of still lives: known for certain on one's own machine only.

A process id alone says nothing: another container has its own, and a freed one is given out again. So a process is
known by its place (this boot of this machine, and this namespace of process ids) and by the moment it began. What is
not known for certain counts as living; its lease decides.
"""

import os


def here() -> str:
    """This process's place; "" where the system doesn't tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def known_as(pid: int) -> str:
    """The process by its id and the moment it began (in ticks since boot); "" when there is no such process."""
    state, began = _stat(pid)
    return f"{pid}:{began}" if state else ""


def is_gone(place: str, processes: str) -> bool:
    """Whether all of `processes` (a list of `known_as` with blanks between) ran at this `place` and have ended."""
    if not place or place != here() or not processes:
        return False
    return all(_has_ended(process) for process in processes.split())


def is_stopped(pid: int) -> bool:
    """Whether the process is there but frozen by a signal."""
    return _stat(pid)[0] == "T"


def _has_ended(process: str) -> bool:
    text, _, began = process.partition(":")
    if not text.isdigit() or not began:
        return False
    try:
        os.kill(int(text), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it is somebody else's; /proc may hide it, so it has to be asked this way
    state, since = _stat(int(text))
    return bool(state) and (state in "ZX" or since != began)


def _stat(pid: int) -> tuple[str, str]:
    """A process's state (one letter) and the moment it began, from proc(5); both "" when it can't be read."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before may hold anything
        return fields[0].decode(), fields[19].decode()
    except (OSError, IndexError):
        return "", ""
