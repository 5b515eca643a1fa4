"""What must be well so that documents are worked on. Each check says what to do if it is not.

`/ready` shows this to anybody: messages name configuration keys, but no path, address or version.
"""

import os
from collections.abc import Iterator

import msgspec
from redis import Redis

from llm_scheduler.api.state.processes import ROLES, read_processes, workers_by_queue
from llm_scheduler.ingest.spool import Folders
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.process.connection import AWAY, refusal
from llm_scheduler.jobs.store import server_state
from llm_scheduler.jobs.store.keys import keys_of

MIN_INODES = 10_000


class Check(msgspec.Struct, frozen=True):
    """One check. If it is not `ok`, `message` says what is wrong and what to do next."""

    name: str
    ok: bool
    message: str


def checks(config: Config, redis: Redis) -> list[Check]:
    """All checks. Never raises because Redis or a folder is unreachable."""
    server, answers = _server(redis)
    return [server, *_folders(config), _disk(config), *_processes(config, redis if answers else None)]


def _server(redis: Redis) -> tuple[Check, bool]:
    """Whether Redis answers, takes writes, and deletes nothing by itself; and whether it answers at all."""
    try:
        found = server_state.read_state(redis)
        redis.set(keys_of(redis).ready_probe, 1, ex=60)
    except AWAY as error:
        refused = refusal(error)
        if refused is not None:
            return Check("redis", False, f"Redis refuses writes: {refused}."), True
        message = "Redis can't be reached. Check that it runs, and the address and password in queue.redis_url."
        return Check("redis", False, message), False
    trouble = found.trouble()
    return Check("redis", trouble is None, trouble or "Redis answers and takes writes."), True


def _folders(config: Config) -> Iterator[Check]:
    wrong: dict[str, str] = {}
    devices = set()
    for key, path in Folders.of(config.directories).named():
        name = f"directories.{key}"
        try:
            devices.add(os.stat(path).st_dev)
        except FileNotFoundError:
            wrong[name] = f"{name} is not there. llm-ingest makes it when it starts; or mount it, or make it."
            continue
        except OSError:
            wrong[name] = f"{name} can't be accessed. Give the API's user the right to."
            continue
        if not os.path.isdir(path):
            wrong[name] = f"{name} is not a folder. Change the setting."
        elif not os.access(path, os.R_OK | os.X_OK) or not _may_be_written(key, path):
            wrong[name] = f"{name} can't be written. Give the API's user the right to, or mount it read-write."
    if not wrong and len(devices) > 1:
        wrong["directories"] = (
            "The folders in directories are on different file systems. Documents move by rename: put all on one."
        )
    message = " ".join(wrong.values()) or "All folders exist and can be written."
    yield Check("spool", not wrong, message)


def _may_be_written(key: str, path: str) -> bool:
    """Whether a folder can be written, as far as the API can tell. systemd mounts all but the watch folders read-only
    for the API; ingest and the collector report it themselves if they can't write."""
    if os.access(path, os.W_OK):
        return True
    return not key.startswith("watch") and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _disk(config: Config) -> Check:
    """Whether there is room for the bytes that may be in flight, and for their files' inodes."""
    try:
        found = os.statvfs(config.directories.watch[0])
    except OSError:
        return Check("disk", False, "The disk can't be checked: directories.watch_directory is not there.")
    free, needed = found.f_bavail * found.f_frsize, config.queue.max_queue_bytes
    left = f"The disk of the spool has {free / 1e6:.0f} MB left"
    if free < needed:
        return Check("disk", False, f"{left}, less than queue.max_queue_bytes ({needed / 1e6:.0f} MB). Make room.")
    if found.f_files and found.f_favail < MIN_INODES:
        message = f"The file system of the spool has room for {found.f_favail} more files. Delete some."
        return Check("disk", False, message)
    return Check("disk", True, f"{left}.")


def _processes(config: Config, redis: Redis | None) -> Iterator[Check]:
    levels = config.queue.priority_levels
    try:
        processes = read_processes(redis) if redis else None
    except AWAY:
        processes = None
    if processes is None:
        for name in (*(f"llm-{role}" for role in ROLES), *(f"llm-worker {level}" for level in levels)):
            yield Check(name, False, "Nothing is known of it while Redis can't be asked.")
        return
    for role in ROLES:
        name, daemon = f"llm-{role}", processes.daemons.get(role)
        if daemon is None:
            yield Check(name, False, f"{name} is not running. Start it: systemctl start {name}, or llmctl up.")
        elif daemon.state != "working":
            yield Check(name, False, f"{name} runs, but waits. Its log and llmctl status say for what.")
        else:
            yield Check(name, True, f"{name} works.")
    served = workers_by_queue(processes.workers)
    for level in levels:
        idle = f"Nobody works on {level}. Start a worker: systemctl start llm-worker@{level}, or llmctl up."
        has_worker = served[level] > 0
        yield Check(f"llm-worker {level}", has_worker, f"{level} has a worker." if has_worker else idle)
