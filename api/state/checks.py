"""What has to be well for documents to be worked on, each with what to do about it.

Anybody may read the answers: they name keys of the configuration, and no path, address or version.
"""

import os
from collections.abc import Iterator

import msgspec
from redis import Redis

from llm_scheduler.api.state.rollcall import ROLES, words, workers
from llm_scheduler.ingest.spool import Folders
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.process.connection import AWAY, refusal
from llm_scheduler.jobs.store import server_state

MIN_INODES = 10_000
_PROBE = "llm:ready"
_PROBE_SECONDS = 60


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. Where it is not `ok`, `message` says what is wrong and what to do next."""

    name: str
    ok: bool
    message: str


def checks(config: Config, redis: Redis) -> list[Check]:
    """All of them. Never raises because of Redis or a folder being away."""
    server, answers = _server(redis)
    return [server, *_folders(config), _disk(config), *_processes(config, redis if answers else None)]


def _server(redis: Redis) -> tuple[Check, bool]:
    """Whether Redis answers, takes writes, and deletes nothing by itself; and again whether it answers at all."""
    try:
        found = server_state.look(redis)
        redis.set(_PROBE, 1, ex=_PROBE_SECONDS)
    except AWAY as error:
        refused = refusal(error)
        if refused is not None:
            return Check("redis", False, f"Redis refuses writes: {refused}."), True
        message = "Redis can't be reached. See that it runs, and that queue.redis_url names it and its password."
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
            wrong[name] = f"{name} can't be looked at. Let the API's user do so."
            continue
        if not os.path.isdir(path):
            wrong[name] = f"{name} is not a folder. Let it name one."
        elif not os.access(path, os.R_OK | os.X_OK) or not _may_be_written(key, path):
            wrong[name] = f"{name} can't be written. Give the API's user the right to, or mount it read-write."
    if not wrong and len(devices) > 1:
        wrong["directories"] = (
            "The folders in directories are on different file systems. Documents move by rename: put all on one."
        )
    message = " ".join(wrong.values()) or "All folders are there and can be written."
    yield Check("spool", not wrong, message)


def _may_be_written(key: str, path: str) -> bool:
    """Whether it can be written, as far as that is to be seen from here: systemd gives the API all folders but the
    watch folders read-only, and ingest and the collector say so themselves where they can't write."""
    if os.access(path, os.W_OK):
        return True
    return not key.startswith("watch") and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _disk(config: Config) -> Check:
    """Whether there is room for what may be in flight, and for its files' entries."""
    try:
        found = os.statvfs(config.directories.watch[0])
    except OSError:
        return Check("disk", False, "The disk can't be looked at: directories.watch_directory is not there.")
    free, least = found.f_bavail * found.f_frsize, config.queue.max_queue_bytes
    if free < least:
        return Check(
            "disk",
            False,
            f"The disk of the spool has {free / 1e6:.0f} MB left, less than queue.max_queue_bytes "
            f"({least / 1e6:.0f} MB). Make room.",
        )
    if found.f_files and found.f_favail < MIN_INODES:
        return Check(
            "disk", False, f"The file system of the spool has room for {found.f_favail} more files. Delete some."
        )
    return Check("disk", True, f"The disk of the spool has {free / 1e6:.0f} MB left.")


def _processes(config: Config, redis: Redis | None) -> Iterator[Check]:
    names = [*(f"llm-{role}" for role in ROLES), *(f"llm-worker {level}" for level in config.queue.priority_levels)]
    try:
        said = words(redis) if redis else None
        manned = {queue for worker in workers(redis) for queue in worker.queue.split(",")} if redis else set()
    except AWAY:
        said = None
    if said is None:
        yield from (Check(name, False, "Nothing is known of it while Redis can't be asked.") for name in names)
        return
    for role in ROLES:
        name, word = f"llm-{role}", said.get(role)
        if word is None:
            yield Check(name, False, f"{name} is not running. Start it: systemctl start {name}, or llmctl up.")
        elif word.state != "working":
            yield Check(name, False, f"{name} runs, but waits. Its log and llmctl status say for what.")
        else:
            yield Check(name, True, f"{name} works.")
    for level in config.queue.priority_levels:
        name = f"llm-worker {level}"
        if level in manned:
            yield Check(name, True, f"{level} has a worker.")
        else:
            yield Check(
                name,
                False,
                f"Nobody works on {level}. Start a worker: systemctl start llm-worker@{level}, or llmctl up.",
            )
