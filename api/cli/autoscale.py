"""`llmctl autoscale`: as many workers on this host as its queues need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail
from llm_scheduler.api.cli.redis_client import away, client
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from redis import Redis

    from llm_scheduler.api.scaling.actuators import Crew, Instance
    from llm_scheduler.api.scaling.autoscaler import Autoscaler, Look
    from llm_scheduler.jobs.config import Config

_PATIENCE_SECONDS = 5.0  # for another host that decides at the same moment
_CPU_SECONDS = 0.5  # how long one look alone watches the CPU


def autoscale(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, with --watch a line a look.")] = False,
) -> None:
    """Start and stop this host's workers as the queues need it.

    One look: what waits, for how long, what arrives, how fast it is done; then systemctl start or stop of
    llm-worker@QUEUE.N units. Under llmctl up this happens by itself.
    """
    from llm_scheduler.api.scaling.actuators import CrewError
    from llm_scheduler.jobs.process.connection import AWAY

    config = settings(context).config
    if config.processing.max_workers != "auto" and not dry_run:
        fail(
            f"processing.max_workers is {config.processing.max_workers}, a fixed number. "
            'Set it to "auto" to have workers started and stopped as needed; --dry-run says what would be done.',
            ExitCode.CONFIGURATION,
        )
    if config.queue.type == "local" and not dry_run:
        fail(
            "queue.type is local: llmctl up looks after its workers itself. "
            "This command is for hosts whose workers run under systemd; --dry-run works anywhere.",
            ExitCode.CONFIGURATION,
        )
    with client(config) as redis:
        try:
            autoscaler = _autoscaler(config, redis, dry_run=dry_run, watch=watch)
            if watch:
                _watch(config, autoscaler, dry_run=dry_run, as_json=as_json)
                return
            look = autoscaler.step(act=not dry_run, patience=_PATIENCE_SECONDS)
        except AWAY as error:
            fail(away(config, error), ExitCode.UNREACHABLE)
        except CrewError as error:
            fail(str(error), ExitCode.NOT_WELL)
    _show(look, dry_run=dry_run, as_json=as_json)
    if look.failed:
        fail("\n".join(look.failed), ExitCode.NOT_WELL)


def _autoscaler(config: Config, redis: Redis, *, dry_run: bool, watch: bool) -> Autoscaler:
    from llm_scheduler.api.scaling.actuators import Systemd
    from llm_scheduler.api.scaling.autoscaler import Autoscaler
    from llm_scheduler.api.scaling.observation import SystemVitals
    from llm_scheduler.jobs.clock import SystemClock

    crew: Crew = _Registered(config, redis) if dry_run else Systemd()
    vitals = SystemVitals(0.0 if watch else _CPU_SECONDS)
    return Autoscaler(config, redis, crew, vitals, SystemClock(), _log(config, watch=watch))


def _log(config: Config, *, watch: bool) -> logging.Logger:
    """Where decisions go. One look alone prints them; a watch logs them as the daemons do, to stderr."""
    import logging

    from llm_scheduler.jobs.process.logs import setup

    if watch:
        return setup(config.logging, "autoscale")
    log = logging.getLogger("llm.autoscale.once")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    return log


class _Registered:
    """This host's workers by what they say in Redis: for a look that changes nothing, wherever they run."""

    def __init__(self, config: Config, redis: Redis) -> None:
        self._levels = config.queue.priority_levels
        self._redis = redis

    def running(self) -> Mapping[str, list[Instance]]:
        import socket

        from llm_scheduler.api.scaling.actuators import Instance
        from llm_scheduler.api.state.rollcall import living_workers

        host = socket.gethostname()
        found: dict[str, list[Instance]] = {}
        for worker in living_workers(self._redis):
            if worker["host"] == host and worker["queue"] in self._levels:
                instances = found.setdefault(worker["queue"], [])
                instances.append(Instance(len(instances) + 1))
        return found

    def start(self, queue: str, number: int) -> None:
        raise NotImplementedError

    def stop(self, queue: str, number: int) -> None:
        raise NotImplementedError


def _watch(config: Config, autoscaler: Autoscaler, *, dry_run: bool, as_json: bool) -> None:
    """Look until told to stop; Redis being away, or systemd, is waited for."""
    import json
    import logging

    from llm_scheduler.api.scaling.actuators import CrewError
    from llm_scheduler.jobs.process.connection import AWAY
    from llm_scheduler.jobs.process.startup import Outage, Stop

    log = logging.getLogger("llm.autoscale")
    stop = Stop()
    stop.on_signals()
    outage = Outage(log)
    while not stop:
        pause = config.processing.autoscale.look_every
        try:
            look = None
            if as_json or dry_run or not autoscaler.rests():
                look = autoscaler.step(act=not dry_run, patience=_PATIENCE_SECONDS)
        except AWAY as error:
            pause = outage.failed(error)
        except CrewError as error:
            log.error("%s", error)
        else:
            outage.over()
            if look is not None and as_json:
                typer.echo(json.dumps(_plain(look), ensure_ascii=False))
            elif look is not None and dry_run:
                _print(look)
        stop.wait(pause)


def _show(look: Look, *, dry_run: bool, as_json: bool) -> None:
    from llm_scheduler.api.cli.output import print_json

    if as_json:
        print_json(_plain(look))
        return
    _print(look)
    if dry_run:
        typer.echo("\nNothing was started or stopped.")


def _plain(look: Look) -> dict[str, Any]:
    import msgspec

    return {
        "decisions": [
            {
                "queue": each.queue,
                "before": each.before,
                "after": each.after,
                "reason": each.reason,
                "held": each.held or None,
            }
            for each in look.decisions
        ],
        "queues": {queue: msgspec.to_builtins(seen) for queue, seen in look.seen.items()},
        "host": msgspec.to_builtins(look.host),
        "note": look.note or None,
        "failed": list(look.failed),
    }


def _print(look: Look) -> None:
    from llm_scheduler.api.cli.output import console, duration, emit, printable, table

    out = console()
    if look.seen:
        numbers = ("waiting", "oldest", "arrive/s", "a document", "busy", "here", "elsewhere")
        made = table("queue", *numbers, numbers=numbers)
        for queue, seen in look.seen.items():
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
        emit(made, out)
        out.print()
    for decision in look.decisions:
        out.print(printable(str(decision)), soft_wrap=True)
    if look.note:
        out.print(printable(f"No decision: {look.note}."), soft_wrap=True)
    elif not look.decisions:
        out.print("No decision: this host runs no workers.")
