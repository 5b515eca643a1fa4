"""A small disk that can be filled safely: a tmpfs that only this process and its children see."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

# unshare(2), mount(2)
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MS_NOSUID_NODEV = 2 | 4


class DiskUnavailable(Exception):
    """No such disk can be mounted here; the message says why."""


class SmallDisk:
    """The file system at `folder`, which can be filled and freed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._filler = os.path.join(folder, ".filler")

    def fill(self, leave: int) -> None:
        """Fill it except for about `leave` bytes."""
        room = os.statvfs(self._folder)
        with contextlib.suppress(OSError), open(self._filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - leave))

    def free(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._filler)


def mount(folder: str, size: int) -> SmallDisk:
    """Mount a file system of `size` bytes at `folder`, for this process and the children that it starts later.

    It is unmounted when the last of them ends. A user without the right to mount gets a user namespace, which only a
    process with a single thread can create. Raises `DiskUnavailable`.
    """
    if sys.platform != "linux":
        raise DiskUnavailable("it needs Linux")
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > available / 2:
        raise DiskUnavailable(f"it would take {size / 1e6:.0f} MB of memory, more than half of what is free")
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        try:
            _check(libc.unshare(_CLONE_NEWNS))
        except PermissionError:
            _check(libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER))
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
        options = f"size={size},mode=700".encode()
        _check(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _MS_NOSUID_NODEV, options))
    except OSError as error:
        raise DiskUnavailable(f"a private file system can't be mounted ({os.strerror(error.errno or 0)})") from error
    return SmallDisk(folder)


def _check(answer: int) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
