"""`llmctl status`: the state of the whole system."""

from typing import Any

import typer
from msgspec.structs import asdict
from redis import Redis

from llm_scheduler.api.cli.output import Json, console, fail, print_json, print_table, printable, status_text, table
from llm_scheduler.api.cli.redis_client import client, unreachable_message
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.api.state.backlog import read_backlog
from llm_scheduler.api.state.health import read_health
from llm_scheduler.api.state.processes import ROLES, read_processes
from llm_scheduler.ingest.spool import Claims
from llm_scheduler.ingest.spool.claims import claim_counts
from llm_scheduler.ingest.spool.watch_files import files
from llm_scheduler.jobs.clock import SystemClock, rfc3339
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.store import alerts


def status(context: typer.Context, as_json: Json = False) -> None:
    """Shows what waits, what runs, what is done, and whether all processes run."""
    config = config_of(context)
    with client(config) as redis:
        health = read_health(config, redis, SystemClock())
        shown: dict[str, Any] = {
            "status": health.status,
            "message": health.message,
            "redis": asdict(health.redis),
            "files": {"on_disk": health.files_on_disk, **_files(config)},
        }
        if health.redis.reachable:
            try:
                shown |= {"counts": health.counts, **_in_redis(config, redis)}
            except AWAY as error:  # it became unreachable between two reads
                fail(unreachable_message(config, error), ExitCode.UNREACHABLE)
            if shown["missing"] and health.status == "ok":
                shown |= {"status": "degraded", "message": f"Not running: {', '.join(shown['missing'])}"}
    if as_json:
        print_json(shown)
    elif health.redis.reachable:
        _print(shown)
    if not health.redis.reachable:
        fail(health.message, ExitCode.UNREACHABLE)


def _files(config: Config) -> dict[str, Any]:
    """Files that wait, by watch folder, and files that are claimed; None for a folder that can't be read."""
    waiting: dict[str, int | None] = {}
    for folder in config.directories.watch:
        try:
            waiting[folder] = sum(1 for _ in files(folder))
        except OSError:
            waiting[folder] = None
    try:
        claimed: int | None = sum(claim_counts(Claims(config.directories.temp_directory)))
    except FileNotFoundError:
        claimed = 0
    except OSError:
        claimed = None
    return {"waiting": waiting, "claimed": claimed}


def _in_redis(config: Config, redis: Redis) -> dict[str, Any]:
    levels = config.queue.priority_levels
    found = read_processes(redis)
    stopped = {"state": "not running", "pid": None, "host": None, "message": "", "at": None}
    daemons = {role: {**asdict(daemon), "at": rfc3339(daemon.at)} for role, daemon in found.daemons.items()}
    return {
        "queues": [
            {"name": each.queue, "jobs": each.jobs, "batched": each.batched}
            for each in read_backlog(redis, levels, SystemClock().now())
        ],
        "workers": [
            {name: value for name, value in asdict(worker).items() if name != "vitals"} for worker in found.workers
        ],
        "processes": [{"name": role, **daemons.get(role, stopped)} for role in ROLES],
        "missing": found.missing(levels),
        "alerts": [
            {"kind": event.kind, "at": rfc3339(event.at), "message": event.message, "details": event.details}
            for event in alerts.standing(redis).values()
        ],
    }


def _print(shown: dict[str, Any]) -> None:
    out = console()
    out.print(printable(f"{shown['status']}: {shown['message']}"), soft_wrap=True)
    for alert in shown["alerts"]:
        out.print(printable(f"alert: {alert['message']}"), soft_wrap=True)
    for folder, number in shown["files"]["waiting"].items():
        text = "can't be read" if number is None else f"{number} waiting"
        out.print(printable(f"{folder}: {text}"), soft_wrap=True)
    claimed = shown["files"]["claimed"]
    out.print(f"claimed: {'unknown' if claimed is None else claimed}")

    counts: dict[str, dict[str, int]] = shown["counts"]
    levels = [queue["name"] for queue in shown["queues"]]
    rows = table("documents", *levels, "total", numbers=(*levels, "total"))
    for name, by_level in counts.items():
        rows.add_row(status_text(name), *(str(by_level[level]) for level in levels), str(sum(by_level.values())))
    out.print()
    print_table(rows)

    rows = table("queue", "jobs waiting", "in a batch", "workers", numbers=("jobs waiting", "in a batch", "workers"))
    for queue in shown["queues"]:
        workers = sum(queue["name"] in worker["queue"].split(",") for worker in shown["workers"])
        rows.add_row(queue["name"], str(queue["jobs"]), str(queue["batched"]), str(workers))
    out.print()
    print_table(rows)

    rows = table("process", "state", "pid", "host", "says", numbers=("pid",), flexible=("says",))
    processes = [(f"llm-{daemon['name']}", daemon, daemon["message"]) for daemon in shown["processes"]]
    processes += [
        (f"llm-worker {worker['queue']}", worker, f"{worker['jobs_done']} jobs done") for worker in shown["workers"]
    ]
    for name, process, message in processes:
        pid = "" if process["pid"] is None else str(process["pid"])
        cells = (name, process["state"], pid, process["host"] or "", message)
        rows.add_row(*(printable(cell) for cell in cells))
    out.print()
    print_table(rows)
