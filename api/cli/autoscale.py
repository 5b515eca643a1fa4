"""`llmctl autoscale`: as many workers on this host as its queues need."""

import json
import logging
import socket
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer
from redis import Redis

from llm_scheduler.api.cli.output import console, duration, fail, print_json, print_table, printable, table
from llm_scheduler.api.cli.redis_client import client, unreachable_message
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.api.scaling.actuators import Crew, CrewError, Instance, Systemd
from llm_scheduler.api.scaling.autoscaler import Autoscaler, StepResult
from llm_scheduler.api.scaling.observation import SystemProbe
from llm_scheduler.api.state.processes import read_workers
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.process.logs import setup
from llm_scheduler.jobs.process.outage import Outage
from llm_scheduler.jobs.process.termination import Stop

_LOCK_SECONDS = 5.0  # to wait for the step of another host
_CPU_SECONDS = 0.5  # how long a single step measures the CPU


def autoscale(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the decisions.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on stdout; with --watch, one line for each step.")
    ] = False,
) -> None:
    """Measures what waits, for how long, what arrives and how fast it is done, then starts or stops llm-worker@QUEUE.N
    units with systemctl. llmctl up does the same by itself.
    """
    config = config_of(context)
    if config.processing.max_workers != "auto" and not dry_run:
        fail(
            f"processing.max_workers is {config.processing.max_workers}, a fixed number. "
            'Set it to "auto" to have workers started and stopped as needed; --dry-run shows the decisions.',
            ExitCode.CONFIGURATION,
        )
    if config.queue.type == "local" and not dry_run:
        fail(
            "queue.type is local: llmctl up starts and stops its workers by itself. "
            "This command is for hosts whose workers run under systemd; --dry-run works anywhere.",
            ExitCode.CONFIGURATION,
        )
    with client(config) as redis:
        try:
            autoscaler = _autoscaler(config, redis, dry_run=dry_run, watch=watch)
            if watch:
                _watch(config, autoscaler, dry_run=dry_run, as_json=as_json)
                return
            result = autoscaler.step(act=not dry_run, patience=_LOCK_SECONDS)
        except AWAY as error:
            fail(unreachable_message(config, error), ExitCode.UNREACHABLE)
        except CrewError as error:
            fail(str(error))
    if as_json:
        print_json(_plain(result))
    else:
        _print(result)
        if dry_run:
            typer.echo("\nNothing was started or stopped.")
    if result.failed:
        fail("\n".join(result.failed))


def _autoscaler(config: Config, redis: Redis, *, dry_run: bool, watch: bool) -> Autoscaler:
    crew: Crew = _RegisteredCrew(config, redis) if dry_run else Systemd()
    probe = SystemProbe(0.0 if watch else _CPU_SECONDS)
    return Autoscaler(config, redis, crew, probe, SystemClock(), _log(config, watch=watch))


def _log(config: Config, *, watch: bool) -> logging.Logger:
    """The log of decisions: on stderr with --watch; disabled without it, since a single step prints them."""
    if watch:
        return setup(config.logging, "autoscale")
    log = logging.getLogger("llm.autoscale.once")
    log.disabled = True
    return log


class _RegisteredCrew:
    """This host's workers as registered in Redis: for --dry-run, which works without systemd."""

    def __init__(self, config: Config, redis: Redis) -> None:
        self._levels = config.queue.priority_levels
        self._redis = redis

    def running(self) -> Mapping[str, list[Instance]]:
        host = socket.gethostname()
        found: dict[str, list[Instance]] = {}
        for worker in read_workers(self._redis):
            if worker.host == host and worker.queue in self._levels:
                instances = found.setdefault(worker.queue, [])
                instances.append(Instance(len(instances) + 1))
        return found

    def start(self, queue: str, number: int) -> None:
        raise NotImplementedError

    def stop(self, queue: str, number: int) -> None:
        raise NotImplementedError


def _watch(config: Config, autoscaler: Autoscaler, *, dry_run: bool, as_json: bool) -> None:
    """Take steps until told to stop. While Redis or systemd fails, it logs that and tries again."""
    log = logging.getLogger("llm.autoscale")
    stop = Stop()
    stop.handle_signals()
    outage = Outage(log)
    while not stop:
        pause = config.processing.autoscale.look_every
        try:
            result = None
            if as_json or dry_run or not autoscaler.is_at_rest():
                result = autoscaler.step(act=not dry_run, patience=_LOCK_SECONDS)
        except AWAY as error:
            pause = outage.failed(error)
        except CrewError as error:
            log.error("%s", error)
        else:
            outage.over()
            if result is not None and as_json:
                typer.echo(json.dumps(_plain(result), ensure_ascii=False))
            elif result is not None and dry_run:
                _print(result)
        stop.wait(pause)


def _plain(result: StepResult) -> dict[str, Any]:
    return {
        "decisions": [
            {
                "queue": each.queue,
                "before": each.before,
                "after": each.after,
                "reason": each.reason,
                "held": each.held or None,
            }
            for each in result.decisions
        ],
        "queues": msgspec.to_builtins(result.seen),
        "host": msgspec.to_builtins(result.host),
        "note": result.note or None,
        "failed": list(result.failed),
    }


def _print(result: StepResult) -> None:
    out = console()
    if result.seen:
        numbers = ("waiting", "oldest", "arrive/s", "a document", "busy", "here", "elsewhere")
        made = table("queue", *numbers, numbers=numbers)
        for queue, seen in result.seen.items():
            made.add_row(
                queue,
                str(seen.waiting),
                duration(seen.oldest) if seen.waiting else "",
                f"{seen.arrivals:.1f}",
                "" if seen.seconds is None else duration(seen.seconds),
                str(seen.busy),
                "" if seen.here is None else str(seen.here),
                str(sum(seen.elsewhere.values())),
            )
        print_table(made)
        out.print()
    for decision in result.decisions:
        out.print(printable(str(decision)), soft_wrap=True)
    if result.note:
        out.print(printable(f"No decision: {result.note}."), soft_wrap=True)
    elif not result.decisions:
        out.print("No decision: this host runs no workers.")
