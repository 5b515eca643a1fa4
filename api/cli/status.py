"""`llmctl status`: the whole system at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail
from llm_scheduler.api.cli.redis_client import away, client
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from redis import Redis

    from llm_scheduler.jobs.config import Config


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show the state of the whole system.

    What waits, what runs, what is done, and whether the processes are well.
    """
    from llm_scheduler.api.cli.output import print_json
    from llm_scheduler.api.state.health import look
    from llm_scheduler.jobs.clock import SystemClock
    from llm_scheduler.jobs.process.connection import AWAY

    config = settings(context).config
    with client(config) as redis:
        health = look(config, redis, SystemClock())
        shown: dict[str, Any] = {
            "status": health.status,
            "message": health.message,
            "redis": {
                "reachable": health.redis.reachable,
                "unreachable_seconds": health.redis.unreachable_seconds,
            },
            "files": {"on_disk": health.files_on_disk, **_files(config)},
        }
        if health.redis.reachable:
            try:
                shown |= {"counts": health.counts, **_in_redis(config, redis)}
            except AWAY as error:  # it went away between two questions
                fail(away(config, error), ExitCode.UNREACHABLE)
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
    from llm_scheduler.ingest.finder import files
    from llm_scheduler.ingest.spool import Claims
    from llm_scheduler.ingest.spool.claims import held_count

    waiting: dict[str, int | None] = {}
    for folder in config.directories.watch:
        try:
            waiting[folder] = sum(1 for _ in files(folder))
        except OSError:
            waiting[folder] = None
    try:
        claimed: int | None = sum(held_count(Claims(config.directories.temp_directory)))
    except FileNotFoundError:
        claimed = 0
    except OSError:
        claimed = None
    return {"waiting": waiting, "claimed": claimed}


def _in_redis(config: Config, redis: Redis) -> dict[str, Any]:
    from llm_scheduler.api.state import processes
    from llm_scheduler.api.state.rollcall import living_workers, missing

    levels = config.queue.priority_levels
    return {
        "queues": processes.queues(redis, levels),
        "workers": living_workers(redis),
        "processes": processes.processes(redis),
        "missing": missing(redis, levels),
        "alerts": _alerts(redis),
    }


def _alerts(redis: Redis) -> list[dict[str, Any]]:
    """The alerts that stand, each as its last look found it."""
    from llm_scheduler.jobs.clock import rfc3339
    from llm_scheduler.jobs.store import alerts

    return [
        {"kind": event.kind, "at": rfc3339(event.at), "message": event.message, "details": event.details}
        for event in alerts.standing(redis).values()
    ]


def _print(shown: dict[str, Any]) -> None:
    from llm_scheduler.api.cli.output import coloured, console, emit, printable, table

    out = console()
    out.print(printable(f"{shown['status']}: {shown['message']}"), soft_wrap=True)
    for alert in shown["alerts"]:
        out.print(printable(f"alert: {alert['message']}"), soft_wrap=True)
    for folder, number in shown["files"]["waiting"].items():
        words = "can't be read" if number is None else f"{number} waiting"
        out.print(printable(f"{folder}: {words}"), soft_wrap=True)
    claimed = shown["files"]["claimed"]
    out.print(f"claimed: {'unknown' if claimed is None else claimed}")

    counts: dict[str, dict[str, int]] = shown["counts"]
    levels = [queue["name"] for queue in shown["queues"]]
    made = table("documents", *levels, "total", numbers=(*levels, "total"))
    for name, by_level in counts.items():
        made.add_row(coloured(name), *(str(by_level[level]) for level in levels), str(sum(by_level.values())))
    out.print()
    emit(made, out)

    made = table("queue", "jobs waiting", "in a batch", "workers", numbers=("jobs waiting", "in a batch", "workers"))
    for queue in shown["queues"]:
        manned = sum(worker["queue"] == queue["name"] for worker in shown["workers"])
        made.add_row(queue["name"], str(queue["jobs"]), str(queue["batched"]), str(manned))
    out.print()
    emit(made, out)

    made = table("process", "state", "pid", "host", "says", numbers=("pid",), rubber=("says",))
    for process in shown["processes"]:
        made.add_row(
            f"llm-{process['name']}",
            printable(process["state"]),
            "" if process["pid"] is None else str(process["pid"]),
            printable(process["host"] or ""),
            printable(process["message"]),
        )
    for worker in shown["workers"]:
        made.add_row(
            f"llm-worker {printable(worker['queue'])}",
            printable(worker["state"]),
            "" if worker["pid"] is None else str(worker["pid"]),
            printable(worker["host"] or ""),
            f"{worker['jobs_done']} jobs done",
        )
    out.print()
    emit(made, out)
