"""A worker's lease: its RQ key in Redis, which a thread renews and which expires soon after the worker's death."""

import os
import threading
from typing import Any

import msgspec
from redis import Redis
from redis.client import Pipeline
from rq import SimpleWorker
from rq.utils import now as rq_now
from rq.utils import utcformat
from rq.worker_registration import register

from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.process import liveness
from llm_scheduler.jobs.process.blocking_wait import END_AGAIN_SECONDS, Wait
from llm_scheduler.jobs.process.connection import AWAY
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.process.vitals import Vitals
from llm_scheduler.jobs.store import ledger
from llm_scheduler.jobs.store.commands import RestartWatch
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.rq_job import DocumentJob
from llm_scheduler.jobs.worker.hang_guard import HangGuard
from llm_scheduler.jobs.worker.pulse import Pulse
from llm_scheduler.jobs.worker.reaper import CURRENT_JOBS, current_jobs_field

_REGISTER_EVERY = 10  # beats: all fields are written then, and only the changing ones in between

# KEYS: the worker, RQ's flag of suspension, the paused queues, the restart token. ARGV: seconds, the queue, then names
# and values. Renews a lease. Returns whether the worker must not take jobs, and the token; nothing if Redis does not
# know the worker (any more).
_RENEW = """
if redis.call('HEXISTS', KEYS[1], 'birth') == 0 then return false end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return {redis.call('EXISTS', KEYS[2]) + redis.call('SISMEMBER', KEYS[3], ARGV[2]), redis.call('GET', KEYS[4]) or ''}
"""


class Lease:
    """The lease of `worker`, renewed by a thread between `start` and `end`.

    Each renewal also reads whether the queue is paused and whether a restart was requested. The same thread ends the
    main thread's wait for a job when the worker is to stop.
    """

    SECONDS = 4  # others run a dead machine's work after this, the reaper's grace and two searches: 9 s at most

    def __init__(
        self, worker: SimpleWorker, runtime: Runtime, pulse: Pulse, wait_for_job: Wait, guard: HangGuard
    ) -> None:
        self._worker = worker
        self._queue = worker.queues[0].name
        self._clock = runtime.clock
        self._stop = runtime.stop
        self._log = runtime.log
        self._pulse = pulse
        self._wait_for_job = wait_for_job
        self._guard = guard
        # With these, the next worker on this machine can tell for certain that both processes have ended.
        self._processes: dict[Any, Any] = {
            "place": liveness.here(),
            "processes": f"{liveness.identity(os.getpid())} {liveness.identity(os.getppid())}",
        }
        self._vitals = Vitals(runtime.clock)
        self._beats = 0
        self.restart = RestartWatch()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._unrecorded: tuple[DocumentJob, float] | None = None
        self.is_paused = False

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def record_start_later(self, job: DocumentJob, at: float) -> None:
        """`job` began at `at`, and the ledger does not know: the thread records it if the job lasts."""
        with self._lock:
            self._unrecorded = (job, at)

    def cancel_record(self) -> None:
        with self._lock:
            self._unrecorded = None

    def _run(self) -> None:
        while self._sleep():
            if self._pulse.stop_requested and not self._stop:
                self._stop.set()  # a handler has caught or blocked the signal
            try:
                self.renew()
                self._record_start()
                if self.is_paused:
                    self._wait_for_job.end()
            except (*AWAY, MemoryError):
                pass  # the main thread logs that Redis is away, and ends when its handler has taken all memory

    def _sleep(self) -> bool:
        """Wait until the next beat, and end the wait for a job when asked to stop. False once the worker has ended."""
        until = self._clock.monotonic() + Pulse.BEAT_SECONDS
        while (left := until - self._clock.monotonic()) > 0:
            if not self._stop:
                self._stop.wait(left)
            elif self._wait_for_job.is_waiting:
                self._wait_for_job.end()
                self._ended.wait(END_AGAIN_SECONDS)
            elif self._ended.wait(left):
                return False
        return True

    def renew(self) -> None:
        """Renew the lease once. Every tenth time, and when Redis has lost the key, all fields are written."""
        worker = self._worker
        self._pulse.beat(self._clock.monotonic())
        self._guard.disarm_if_idle()
        worker.last_heartbeat = rq_now()
        job_ids = [execution.job_id for execution in list(worker.executions.values())]
        fields: dict[Any, Any] = {
            "last_heartbeat": utcformat(worker.last_heartbeat),
            "state": worker.get_state(),
            CURRENT_JOBS: current_jobs_field(self._clock, job_ids),
        }
        answer = self._extend(worker.connection, fields) if self._beats % _REGISTER_EVERY else None
        paused, token = answer or self._register(fields)
        if bool(paused) != self.is_paused:
            self.is_paused = bool(paused)
            self._log.info("%s %s", self._queue, "is paused" if paused else "is no longer paused")
        self._beats += 1
        if self.restart.observe(token or None):
            self._log.info("A restart was requested; this worker ends after its current job")
            self._stop.set()

    def _extend(self, redis: Redis, fields: dict[Any, Any]) -> Any:
        keys = keys_of(redis)
        names = (self._worker.key, keys.suspended, keys.paused, keys.restart)
        pairs = [part for pair in fields.items() for part in pair]
        return redis.eval(_RENEW, len(names), *names, self.SECONDS, self._queue, *pairs)

    def _register(self, fields: dict[Any, Any]) -> tuple[int, bytes]:
        """Write all fields: also the state of this worker and its host, as far as it is known."""
        worker = self._worker
        own = self._vitals.own()._asdict()
        known: dict[Any, Any] = {name: value for name, value in own.items() if value is not None}
        # RQ's own field `version` is RQ's version.
        known |= {"llm_version": __version__, "vitals": msgspec.json.encode(self._vitals.host())}
        with worker.connection.pipeline() as pipeline:
            pipeline.hset(worker.key, mapping={**worker.serialize(), **self._processes, **known})
            register(worker, pipeline)
            self._extend(pipeline, fields)
            answer: tuple[int, bytes] = pipeline.execute()[-1]
        return answer

    def _record_start(self) -> None:
        with self._lock:  # else it could be recorded after the job's end, and undo that
            if self._unrecorded is not None:
                record_start(self._worker.connection, *self._unrecorded)
                self._unrecorded = None


def renew_for(redis: Redis, worker: str, now: float) -> None:
    """Renew the lease of `worker` from another process, at epoch seconds `now`."""
    key = keys_of(redis).worker(worker)
    with redis.pipeline() as pipeline:
        # A key without a birth (Redis was emptied, or away for too long) counts as that of a dead worker.
        pipeline.hsetnx(key, "birth", rfc3339(now))
        pipeline.hset(key, "last_heartbeat", rfc3339(now))
        pipeline.expire(key, Lease.SECONDS)
        pipeline.execute()


def record_start(redis: "Redis | Pipeline", job: DocumentJob, at: float) -> None:
    """Put the documents of `job` under `started` in the ledger."""
    entries: list[tuple[str, ledger.Fields]] = [
        (payload.id, {"attempts": payload.attempts + 1, "rq_job_id": job.id}) for payload in job.payloads
    ]
    ledger.move(redis, Status.STARTED, at, entries)
