"""The scheduler's care for Redis: a bounded ledger, and log lines about a server that is short of memory."""

from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.store import ledger, server_state

_TRIM_CHUNK = 2000
_TRIM_SECONDS = 0.25  # at once: the lock must be renewed, and a batch may be due
_SHORT_LEDGER_DOCUMENTS = 1_000  # finished documents that stay in the ledger while the server is short of memory
_REPEAT_SECONDS = 600.0  # between two log lines about the same trouble


class Maintenance:
    def __init__(self, runtime: Runtime) -> None:
        self._redis = runtime.redis
        self._queues = runtime.config.queue.priority_levels
        self._monitoring = runtime.config.monitoring
        self._clock = runtime.clock
        self._log = runtime.log
        self._trouble = ""  # the last one logged, without its figures, which change
        self._repeat_at = float("-inf")

    def trim_ledger(self) -> None:
        """Remove finished documents by number and age. There may be very many: it stops after `_TRIM_SECONDS`."""
        before = ledger.horizon(self._clock.now(), self._monitoring.metrics_retention_days)
        until = self._clock.monotonic() + _TRIM_SECONDS
        keep = self._monitoring.ledger_documents
        while ledger.trim(self._redis, self._queues, keep, before, _TRIM_CHUNK):
            if self._clock.monotonic() >= until:
                return

    def check_server(self) -> None:
        """Log what is wrong with the server. If it is short of memory, trim the ledger to make room."""
        found = server_state.read_state(self._redis)
        if found.is_short:
            removed = ledger.trim(self._redis, self._queues, _SHORT_LEDGER_DOCUMENTS, chunk=5000)
            if removed:
                self._log.warning("Redis is short of memory: %d finished document(s) left its ledger", removed)
        trouble = found.trouble() or ""
        now = self._clock.monotonic()
        kind = trouble.partition("(")[0]
        if trouble and (kind != self._trouble or now >= self._repeat_at):
            self._log.error("%s", trouble)
            self._repeat_at = now + _REPEAT_SECONDS
        elif self._trouble and not trouble:
            self._log.info("The trouble with Redis is over: %s", self._trouble.strip())
        self._trouble = kind
