"""How workers are started and stopped: by systemd on hosts (here), by `llmctl up` in api/local/crew.py."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import NamedTuple, Protocol

UNIT = re.compile(r"llm-worker@(?P<queue>[a-z][a-z0-9_-]*)(\.(?P<number>[1-9][0-9]*))?\.service")
_GONE = ("inactive", "failed")
_SYSTEMCTL_SECONDS = 10.0
_WITHOUT_SYSTEMD = "{}. On a machine without systemd, llmctl up starts and stops workers."


class Instance(NamedTuple):
    """A worker process of this host: `high` is number 1, `high.2` is 2. `leaving`: it was asked to stop."""

    number: int
    leaving: bool = False


class CrewError(Exception):
    """Workers could not be listed, started or stopped; the message says why."""


class Crew(Protocol):
    """The workers of this host. Each method raises `CrewError`; none waits for a worker."""

    def running(self) -> Mapping[str, list[Instance]]:
        """The workers by queue, for the queues that this host serves."""

    def start(self, queue: str, number: int) -> None:
        """Start a worker."""

    def stop(self, queue: str, number: int) -> None:
        """Ask a worker to stop: it finishes its document and returns the rest of its job."""


def instance_name(queue: str, number: int) -> str:
    """The name of an instance: `high`, `high.2`."""
    return queue if number == 1 else f"{queue}.{number}"


def free_number(instances: list[Instance]) -> int:
    """The lowest number that no instance has, leaving ones included."""
    taken = {instance.number for instance in instances}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


class Systemd:
    """Workers as instances of `llm-worker@.service`.

    A host serves a queue if `llm-worker@QUEUE.service` runs. The administrator owns that unit: it is never touched.
    """

    def __init__(self) -> None:
        """Raises `CrewError` on a machine without systemd."""
        program = shutil.which("systemctl")
        if program is None:
            raise CrewError(_WITHOUT_SYSTEMD.format("There is no systemctl here"))
        self._program = program

    def running(self) -> dict[str, list[Instance]]:
        answer = self._ask("list-units", "--all", "--full", "--plain", "--no-legend", "--no-pager", "llm-worker@*")
        found: dict[str, list[Instance]] = {}
        for line in answer.splitlines():
            unit, _, active, *_ = [*line.split(), "", "", ""]
            matched = UNIT.fullmatch(unit)
            if matched and active not in _GONE:
                instance = Instance(int(matched["number"] or 1), active == "deactivating")
                found.setdefault(matched["queue"], []).append(instance)
        return {
            queue: instances
            for queue, instances in found.items()
            if any(instance.number == 1 and not instance.leaving for instance in instances)
        }

    def start(self, queue: str, number: int) -> None:
        self._ask("start", "--no-block", f"llm-worker@{instance_name(queue, number)}.service")

    def stop(self, queue: str, number: int) -> None:
        self._ask("stop", "--no-block", f"llm-worker@{instance_name(queue, number)}.service")

    def _ask(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SYSTEMCTL_SECONDS,
                check=False,
                encoding="utf-8",
                errors="replace",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CrewError(f"systemctl {arguments[0]} could not be run: {error}") from None
        if done.returncode:
            reason = done.stderr.strip() or f"exit status {done.returncode}"
            if "booted with systemd" in reason:
                raise CrewError(_WITHOUT_SYSTEMD.format("systemd does not run here"))
            raise CrewError(f"systemctl {' '.join(arguments)}: {reason}")
        return done.stdout
