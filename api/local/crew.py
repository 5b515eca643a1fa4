"""The workers under `llmctl up`: how many start at first, and how the autoscaler starts and stops one."""

from collections.abc import Callable, Iterator, Sequence

from llm_scheduler.api.local.child_processes import Child, Supervisor
from llm_scheduler.api.scaling.actuators import CrewError, Instance, instance_name
from llm_scheduler.jobs.config import Config

WORKER_PREFIX = "worker "  # of the name of a worker process


def first_workers(config: Config) -> Iterator[tuple[str, int]]:
    """The workers to start with, as (queue, number).

    Each queue has one, even if `processing.max_workers` is smaller. The rest is dealt out in turn, the most urgent
    queue first: four workers for high, medium and low are two, one and one. With "auto", each queue starts with
    `processing.autoscale.min_workers`.
    """
    levels = config.queue.priority_levels
    count = config.processing.max_workers
    total = len(levels) * config.processing.autoscale.min_workers if count == "auto" else max(count, len(levels))
    for place, level in enumerate(levels):
        for number in range(1, len(range(place, total, len(levels))) + 1):
            yield level, number


class LocalCrew:
    """The supervisor's workers; implements `Crew` of api/scaling. `child` makes the worker of a queue and a number."""

    def __init__(self, supervisor: Supervisor, levels: Sequence[str], child: Callable[[str, int], Child]) -> None:
        self._supervisor = supervisor
        self._levels = levels
        self._child = child

    def running(self) -> dict[str, list[Instance]]:
        found: dict[str, list[Instance]] = {level: [] for level in self._levels}
        for children, leaving in ((self._supervisor.children, False), (self._supervisor.leaving, True)):
            for child in children:
                if child.name.startswith(WORKER_PREFIX):
                    queue, _, number = child.name.removeprefix(WORKER_PREFIX).partition(".")
                    found[queue].append(Instance(int(number or 1), leaving))
        return found

    def start(self, queue: str, number: int) -> None:
        try:
            self._supervisor.start(self._child(queue, number))
        except OSError as error:
            raise CrewError(f"A worker of {queue} could not be started: {error}") from None

    def stop(self, queue: str, number: int) -> None:
        self._supervisor.dismiss(WORKER_PREFIX + instance_name(queue, number))
