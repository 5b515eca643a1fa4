"""The item count check: a document with far fewer entries than its producer's others gets a warning."""

from collections import OrderedDict

from msgspec.structs import replace

from llm_scheduler.jobs.receipt import DocumentWarning
from llm_scheduler.jobs.store.outcomes import Outcome

_MIN_DOCUMENTS = 20  # of a producer before its documents are checked
_WEIGHT = 0.05  # of the latest document in the moving average
_MAX_PRODUCERS = 1000


class ItemCounts:
    """The usual length of the longest list in each producer's documents. Kept in memory: a restart learns it anew."""

    def __init__(self, share: float) -> None:
        """A document with less than this `share` of the usual number gets a warning; 0: none does."""
        self._share = share
        self._usual: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def check(self, outcome: Outcome) -> Outcome:
        """`outcome`, with a warning if its document has too few entries. Its count enters the average."""
        read = outcome.read
        if read is None or read.count < 0 or not self._share or not (read.producer or read.model):
            return outcome
        key = (read.producer, read.model)
        documents, usual = self._usual.pop(key, (0, float(read.count)))
        weight = max(_WEIGHT, 1 / (documents + 1))
        self._usual[key] = (documents + 1, usual + weight * (read.count - usual))
        if len(self._usual) > _MAX_PRODUCERS:
            self._usual.popitem(last=False)
        if documents < _MIN_DOCUMENTS or read.count >= self._share * usual:
            return outcome
        message = f"Its longest list has {read.count} entries; those of {key[0] or key[1]} have about {usual:.0f}."
        return replace(outcome, read=replace(read, warnings=[*read.warnings, DocumentWarning("few_items", message)]))
