"""The hosts on which workers and daemons run, by what these report."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from llm_scheduler.api.state import Count
from llm_scheduler.api.state.processes import Processes
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.process.vitals import HostVitals


class DiskSpace(msgspec.Struct, frozen=True):
    """The file system that holds the spool."""

    free_bytes: Count
    total_bytes: Count


class DaemonView(msgspec.Struct, frozen=True):
    """A daemon: ingest, collector or scheduler. `message` says what it waits for, or how much it holds."""

    role: str
    pid: Count
    state: str
    message: str
    version: str | None


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """A host on which a worker or a daemon runs. Null stands for what is not known.

    `cpu` and `memory` are in percent, `load` is the load average of the last minute. `disk` is set where ingest or the
    collector runs. `workers` are counted by state.
    """

    name: str
    cpu: float | None
    memory: float | None
    load: float | None
    disk: DiskSpace | None
    workers: dict[str, Count]
    daemons: list[DaemonView]
    last_seen: str | None
    versions: list[str]
    version_skew: bool


def hosts(processes: Processes) -> list[HostView]:
    """Every host, by name."""
    return [_host(name, processes.on_host(name)) for name in processes.hosts]


def _host(name: str, processes: Processes) -> HostView:
    workers, daemons = processes.workers, processes.daemons
    reported = [*(worker.vitals for worker in workers), *(daemon.vitals for daemon in daemons.values())]
    known = sorted((each for each in reported if each is not None), key=lambda each: each.at, reverse=True)
    seen = [worker.last_heartbeat for worker in workers] + [rfc3339(daemon.at) for daemon in daemons.values()]
    versions = set(processes.versions)
    disks = ((each.disk_free, each.disk_total) for each in known)
    return HostView(
        name=name,
        cpu=_newest(known, "cpu"),
        memory=_newest(known, "memory"),
        load=_newest(known, "load"),
        disk=next((DiskSpace(free, total) for free, total in disks if free is not None and total is not None), None),
        workers=dict(sorted(Counter(worker.state for worker in workers).items())),
        daemons=[
            DaemonView(role, daemon.pid, daemon.state, daemon.message, daemon.version or None)
            for role, daemon in daemons.items()
        ],
        last_seen=max((at for at in seen if at), default=None),
        versions=sorted(versions - {""}),
        version_skew=versions != {__version__},
    )


def _newest(known: Iterable[HostVitals], name: str) -> float | None:
    """The newest figure that is set: the first measurement of a process lacks some."""
    return next((figure for each in known if (figure := getattr(each, name)) is not None), None)
