"""The workers under `llmctl up`: how many there are at first, and how one more is started or one is sent home."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from llm_scheduler.api.scaling.actuators import CrewError, Instance, instance_name
from llm_scheduler.jobs.config import Config

if TYPE_CHECKING:
    from llm_scheduler.api.local.up import Child, Supervisor

_PREFIX = "worker "


def first_workers(config: Config) -> Iterator[tuple[str, int]]:
    """The workers to begin with, as (queue, number).

    Each queue has one, whatever `processing.max_workers` says: nobody else would do its documents. What the number
    leaves is dealt out a worker at a time from the most urgent queue on, and round again: four workers for high,
    medium and low are two, one and one. With "auto", each queue begins with its fewest.
    """
    levels = config.queue.priority_levels
    most = config.processing.max_workers
    total = len(levels) * config.processing.autoscale.min_workers if most == "auto" else max(most, len(levels))
    for place, level in enumerate(levels):
        for number in range(1, len(range(place, total, len(levels))) + 1):
            yield level, number


class LocalCrew:
    """The supervisor's workers, as `llm_scheduler.api.scaling` sees them."""

    def __init__(self, supervisor: "Supervisor", levels: Sequence[str], child: "Callable[[str, int], Child]") -> None:
        self._supervisor = supervisor
        self._levels = levels
        self._child = child

    def running(self) -> dict[str, list[Instance]]:
        found: dict[str, list[Instance]] = {level: [] for level in self._levels}
        for children, leaving in ((self._supervisor.children, False), (self._supervisor.leaving, True)):
            for child in children:
                if child.name.startswith(_PREFIX):
                    queue, _, number = child.name.removeprefix(_PREFIX).partition(".")
                    found[queue].append(Instance(int(number or 1), leaving))
        return found

    def start(self, queue: str, number: int) -> None:
        try:
            self._supervisor.start(self._child(queue, number))
        except OSError as error:
            raise CrewError(f"A worker of {queue} could not be started: {error}") from None

    def stop(self, queue: str, number: int) -> None:
        self._supervisor.dismiss(_PREFIX + instance_name(queue, number))
