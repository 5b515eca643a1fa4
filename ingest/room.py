"""Back-pressure: how many documents each level may still claim."""

from collections import Counter
from collections.abc import Mapping, Sequence

from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.store.load import Load

_RATE_SECONDS = 0.2  # between two measurements
_FAIR_SECONDS = 1.0  # of work that a level may have in flight, with fairness


class Rates:
    """How many documents of each level are finished per second, from the number in flight and the number added."""

    def __init__(self, levels: Sequence[str]) -> None:
        self.per_second = dict.fromkeys(levels, 0.0)
        self._added: Counter[str] = Counter()
        self._before: dict[str, int] = {}
        self._at = 0.0

    def add(self, counts: Mapping[str, int]) -> None:
        """Note documents that were claimed, by level."""
        self._added.update(counts)

    def measure(self, in_flight: Mapping[str, int], now: float) -> None:
        """Note how many are in flight at monotonic `now`. The rates are averages over about two seconds."""
        passed = now - self._at
        if passed < _RATE_SECONDS and self._before:
            return
        for level, count in in_flight.items() if self._before else ():
            finished = max(0, self._before[level] + self._added[level] - count)
            weight = min(1.0, passed / 2.0)
            self.per_second[level] += weight * (finished / passed - self.per_second[level])
        self._before, self._at = dict(in_flight), now
        self._added.clear()


class Room:
    """Computes the room of each level. `rates` has to be told of documents that were claimed."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._levels = config.queue.priority_levels
        self._fair = config.processing.fairness == "source"
        self._clock = clock
        self.rates = Rates(self._levels)

    def read(self, load: Load) -> dict[str, int]:
        """How many documents each level may claim. The lowest level leaves a fifth of the queue to those above it.

        With fairness, a level may only have as much in flight as it finishes in a moment. Queued documents can't be
        overtaken, so only documents that wait in front of the queue can take turns.
        """
        most = self._config.queue.max_queue_size
        if load.bytes >= self._config.queue.max_queue_bytes or load.spare <= 0:
            return dict.fromkeys(self._levels, 0)
        steps = 10 * max(1, len(self._levels) - 1)
        room = {level: most - 2 * most * place // steps - load.documents for place, level in enumerate(self._levels)}
        if not self._fair:
            return room
        self.rates.measure(load.in_flight, self._clock.monotonic())
        least = 4 * self._config.processing.batch_size
        for level in self._levels:
            window = max(least, int(self.rates.per_second[level] * _FAIR_SECONDS))
            room[level] = min(room[level], window - load.in_flight[level])
        return room

    def without_one(self, room: dict[str, int], level: str) -> dict[str, int]:
        """The room after one more document of `level` is claimed."""
        if not self._fair:
            return {each: left - 1 for each, left in room.items()}
        return {**room, level: room[level] - 1}
