"""The limit: one loop over the files in `raw`, without a queue. `plain.py SPOOL GROUP`.

GROUP results share one sync before they are renamed into place; 0: no sync.
"""

import ctypes
import os
import sys

import work

_GROUP_WITHOUT_SYNC = 96


def main() -> None:
    spool, size = sys.argv[1], int(sys.argv[2])
    descriptor = os.open(spool, os.O_RDONLY | os.O_DIRECTORY)
    libc = ctypes.CDLL(None, use_errno=True)

    def settle(group: list[tuple[str, str]]) -> None:
        if size and libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
        for source, unfinished in group:
            work.place(spool, source, unfinished)

    group: list[tuple[str, str]] = []
    raw = os.path.join(spool, "raw")
    for folder, _, names in os.walk(raw):
        below = os.path.relpath(folder, raw)
        for name in names:
            source = os.path.join(below, name)
            group.append((source, work.write_result(spool, source)))
            if len(group) >= (size or _GROUP_WITHOUT_SYNC):
                settle(group)
                group = []
    if group:
        settle(group)


if __name__ == "__main__":
    main()
