"""The count guard: an answer with far fewer entries than its producer's usually have is warned of, not refused."""

from collections import OrderedDict

from msgspec.structs import replace

from llm_scheduler.jobs.receipt import Warned
from llm_scheduler.jobs.store.outcomes import Outcome, Read

_LEAST = 20  # documents of a producer before anything is said of the next
_WEIGHT = 0.05  # of the latest document in the moving average
_MOST = 1000  # producers that are remembered


class Baselines:
    """How long the longest list in a producer's documents usually is. In the collector's memory: it is learnt anew."""

    def __init__(self, share: float) -> None:
        """`share` of the usual number, below which a document is warned of; 0: none ever is."""
        self._share = share
        self._usual: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def looked_at(self, outcome: Outcome) -> Outcome:
        """`outcome`, with a warning where its document has too few entries to be true."""
        read = outcome.read
        if read is None or read.count < 0 or not self._share or not (read.producer or read.model):
            return outcome
        key = (read.producer, read.model)
        seen, usual = self._usual.pop(key, (0, float(read.count)))
        weight = max(_WEIGHT, 1 / (seen + 1))
        self._usual[key] = (seen + 1, usual + weight * (read.count - usual))
        if len(self._usual) > _MOST:
            self._usual.popitem(last=False)
        if seen < _LEAST or read.count >= self._share * usual:
            return outcome
        return replace(outcome, read=_warned(read, usual))


def _warned(read: Read, usual: float) -> Read:
    who = read.producer or read.model
    message = f"Its longest list has {read.count} entries; those of {who} have about {usual:.0f}."
    return replace(read, warnings=[*read.warnings, Warned("few_items", message)])
