"""The worker's loop: one process, one queue. It keeps RQ's data model, with fewer round trips and nothing lost.

It differs from RQ's `SimpleWorker` in four ways (docs/decisions/0002-rq.md): a signal only sets a flag; a thread keeps
a short lease; a job's outcomes, retries and end are one transaction; the worker waits while Redis is away.
"""

import time
from contextlib import suppress
from functools import partial
from typing import Any

from rq import Queue, SimpleWorker
from rq.exceptions import DequeueTimeout
from rq.executions import Execution
from rq.serializers import JSONSerializer
from rq.utils import now as rq_now
from rq.worker import WorkerStatus

from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.handler import HandlerMissing, load_handlers
from llm_scheduler.jobs.process.blocking_wait import Wait
from llm_scheduler.jobs.process.connection import AWAY, explain
from llm_scheduler.jobs.process.outage import Outage, when_redis_answers
from llm_scheduler.jobs.process.runtime import Runtime
from llm_scheduler.jobs.schemas import load_schemas
from llm_scheduler.jobs.sealing import sealing_of
from llm_scheduler.jobs.store.keys import keys_of
from llm_scheduler.jobs.store.rq_job import DocumentJob
from llm_scheduler.jobs.worker import job_transactions
from llm_scheduler.jobs.worker.hang_guard import HangGuard
from llm_scheduler.jobs.worker.lease import Lease
from llm_scheduler.jobs.worker.pulse import Pulse
from llm_scheduler.jobs.worker.reader import Reader
from llm_scheduler.jobs.worker.reaper import Reaper
from llm_scheduler.jobs.worker.runner import JobResult, Runner

_WAIT_SECONDS = 10  # for a job; a request to stop ends the wait
_ROUND_SECONDS = 30.0  # one round of the loop, without the time that documents take
_PACE_SHARE = 0.2  # of the latest job in the moving average
_BRIEF_SECONDS = 0.1  # a job that is expected to take less is not put under `started`, unless it takes longer
_GIVE_UP_SECONDS = 5.0  # a stopping worker without Redis; `llmctl up` gives it 10 s


class DocumentWorker(SimpleWorker):
    """An RQ worker for `DocumentJob`s."""

    def __init__(self, name: str, queue: str, runtime: Runtime, pulse: Pulse) -> None:
        super().__init__(
            [Queue(queue, connection=runtime.redis, job_class=DocumentJob, serializer=JSONSerializer)],
            name=name,
            connection=runtime.redis,
            job_class=DocumentJob,
            serializer=JSONSerializer,
            worker_ttl=Lease.SECONDS,
        )
        config, clock, log = runtime.config, runtime.clock, runtime.log
        handlers = load_handlers(config.handlers)
        runtime.stop.handle_signals()  # the import of a handler may have replaced them
        for name, handler in handlers.items():
            if isinstance(handler, HandlerMissing):
                log.error("Handler %s cannot be used, its documents will be rejected: %s", name, handler)
        self._clock = clock
        self._stop = runtime.stop
        self._log = log
        self._set_deadline = partial(set_deadline, pulse, clock)
        self._outage = Outage(log, report=self._set_deadline)
        self._activity = ""
        guard = HangGuard(clock, lingers=True, on_renew=lambda seconds: self._set_deadline(self._activity, seconds))
        sealing = sealing_of(config.security)
        reader = Reader(config.processing, config.intake, load_schemas(config.intake.schemas), sealing)
        stopping = runtime.stop.__bool__
        self._runner = Runner(config.processing, handlers, clock, stopping, log, guard, reader, sealing)
        self._wait = Wait(runtime.redis)
        self.lease = Lease(self, runtime, pulse, self._wait, guard)
        self._pace: float | None = None

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Take and run jobs until asked to stop. Returns whether any job was run."""
        worked = False
        queue = self.queues[0].name
        if not when_redis_answers(self.connection.ping, self._outage, self._stop):
            return worked
        self.birth_date = self.last_heartbeat = rq_now()
        self._state = WorkerStatus.IDLE
        self._insist(self.lease.renew)
        self.lease.start()
        self._take_over(queue)
        self._log.info("Worker %s takes jobs from %s", self.name, queue)
        while not self._stop:
            activity = f"{queue} is paused" if self.lease.is_paused else f"Waits for a job of {queue}"
            self._set_deadline(activity)
            try:
                job = self._take()
            except AWAY as error:
                self._stop.wait(self._outage.failed(error))
                continue
            except Exception:
                self._log.exception("A job could not be read and is skipped")
                continue
            self._outage.over()
            if job is not None:
                self.execute_job(job, self.queues[0])
                worked = True
        self.lease.end()
        with suppress(*AWAY):  # the lease expires
            self.register_death()  # type: ignore[no-untyped-call]
        self._log.info("Worker %s has stopped", self.name)
        return worked

    def execute_job(self, job: Any, queue: Queue) -> None:
        """Run one job: begin it, run its documents, end it. This takes two round trips beside those to get the job."""
        self._state = WorkerStatus.BUSY
        self._activity = f"Works on {len(job.payloads)} document(s) of {queue.name}, job {job.id}"
        try:
            attempts: list[Execution] = []
            execution = self._insist(lambda: self._begin(job, queue, attempts))
            if execution is None:
                return
            began = self._clock.monotonic()
            try:
                job.check_function()
                result = self._runner.run(job.payloads, job.id)
            except Exception as error:
                self._log.exception("Job %s could not be run", job.id)
                fail = partial(job_transactions.fail, self, job, execution, f"{type(error).__name__}: {error}")
                self._insist_once(execution, queue.name, fail)
                return
            finally:
                self._stop.handle_signals()  # a handler may have replaced them
                self.lease.cancel_record()
            self._update_pace(result, self._clock.monotonic() - began)
            self._insist_once(execution, queue.name, lambda: self._finish(job, execution, result))
        finally:
            self._state = WorkerStatus.IDLE

    def _take_over(self, queue: str) -> None:
        """Return the work of earlier workers on this machine that were killed together with their supervisors."""
        try:
            Reaper(self.connection, [queue], self._clock, self._log).take_from_ended()
        except AWAY as error:
            self._log.warning("The work of earlier workers is left to the scheduler: %s", explain(error))

    def _take(self) -> DocumentJob | None:
        if self.lease.is_paused:
            self._stop.wait(Pulse.BEAT_SECONDS)
            return None
        try:
            with self._wait.begin() as connection:
                if self._stop:
                    return None
                found: Any = self.queue_class.dequeue_any(
                    self.queues,
                    _WAIT_SECONDS,
                    connection=connection,
                    job_class=self.job_class,
                    serializer=self.serializer,
                    death_penalty_class=self.death_penalty_class,
                )
        except DequeueTimeout:
            return None
        return found[0] if found else None

    def _begin(self, job: DocumentJob, queue: Queue, attempts: list[Execution]) -> Execution:
        at = self._clock.now()
        brief = self._pace is not None and self._pace * len(job.payloads) < _BRIEF_SECONDS
        execution = job_transactions.begin(self, job, queue, attempts, None if brief else at)
        self.executions[execution.id] = execution
        if brief:
            self.lease.record_start_later(job, at)
        return execution

    def _finish(self, job: DocumentJob, execution: Execution, result: JobResult) -> None:
        job_transactions.finish(self, job, execution, result, self._pace, self._clock.now())
        for retry in result.retries:
            self._log.warning(
                "Task will be retried: %s attempt %d of document %s failed (%s)",
                retry.payload.source,
                retry.payload.attempts,
                retry.payload.id,
                retry.reason.partition(":")[0],
                extra={"document_id": retry.payload.id, "attempt": retry.payload.attempts},
            )

    def _update_pace(self, result: JobResult, seconds: float) -> None:
        """The seconds that a document takes, as a moving average: ingest sizes jobs by it."""
        count = len(result.outcomes) + len(result.retries)
        if count:
            mean = seconds / count
            self._pace = mean if self._pace is None else self._pace + _PACE_SHARE * (mean - self._pace)

    def _insist_once(self, execution: Execution, queue: str, end: Any) -> None:
        """Do `end`, which removes `execution` from its registry, however long Redis is away. When the connection
        breaks, the server may have done it: then the execution is no longer registered, and `end` is not repeated."""
        tried = False

        def once() -> None:
            nonlocal tried
            if tried:
                registry = keys_of(self.connection).begun(queue)
                if self.connection.zscore(registry, execution.composite_key) is None:
                    return
            tried = True
            end()

        self._insist(once)
        self.executions.pop(execution.id, None)

    def _insist(self, action: Any) -> Any:
        """Do `action` however long Redis is away; None when a stopping worker gives up (others find its work)."""
        while True:
            try:
                done = action()
            except AWAY as error:
                wait = self._outage.failed(error)
                if self._stop and self._outage.seconds > _GIVE_UP_SECONDS:
                    self._log.error("Stopping without Redis; another worker will run the current job again.")
                    return None
                time.sleep(wait)
            else:
                self._outage.over()
                return done


def set_deadline(pulse: Pulse, clock: Clock, activity: str, seconds: float = 0.0) -> None:
    """Tell the supervisor what the loop does now, and that it takes up to `seconds` beside its usual time."""
    pulse.set_deadline(clock.monotonic() + seconds + _ROUND_SECONDS, activity)
