"""`llm-worker QUEUE`: one worker, one queue. RQ's data model, with fewer round trips and nothing lost on the way.

Differences from RQ's `SimpleWorker`, each for a measured reason (docs/decisions/0002-rq.md):
a signal only sets a flag; a lease kept by a thread says that the worker lives, so that its work is found soon after
its death; a job's outcomes, its retries and its end are one transaction; Redis being away is waited for.
The process that is started is the worker's keeper (jobs/worker/supervisor.py), which forks the worker itself.
"""

import contextlib
import faulthandler
import logging
import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
from functools import partial
from typing import Any, NoReturn

import msgspec
from redis import Redis
from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.exceptions import DequeueTimeout
from rq.executions import Execution
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now as rq_now
from rq.utils import utcformat
from rq.worker import WorkerStatus
from rq.worker_registration import register

from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.clock import Clock, SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.crash import EXIT_OUT_OF_MEMORY
from llm_scheduler.jobs.document import Status
from llm_scheduler.jobs.handler import HandlerMissing, load_handlers
from llm_scheduler.jobs.process import arguments, liveness
from llm_scheduler.jobs.process.blocking_wait import PROD_SECONDS, Wait
from llm_scheduler.jobs.process.connection import AWAY, connect, explain
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.process.startup import URL_VARIABLE, Outage, Stop, await_redis, start, start_log
from llm_scheduler.jobs.process.vitals import Vitals
from llm_scheduler.jobs.schemas import load_schemas
from llm_scheduler.jobs.sealing import sealing_of
from llm_scheduler.jobs.store import commands, ledger, outcomes, submission
from llm_scheduler.jobs.store.full_redis import FinishingRedis
from llm_scheduler.jobs.store.rq_job import DocumentJob
from llm_scheduler.jobs.worker import supervisor
from llm_scheduler.jobs.worker.reader import Reader
from llm_scheduler.jobs.worker.reaper import IN_HAND, Reaper, in_hand
from llm_scheduler.jobs.worker.runner import HangGuard, OutOfMemory, Ran, Runner
from llm_scheduler.jobs.worker.supervisor import STOP_SIGNALS, Keeper, Pulse

WAIT_SECONDS = 10  # how long one wait for a job blocks; a request to stop ends it
_ENROL_EVERY = 10  # beats between two at which a worker says all that is known of it, and not only that it lives
# How long RQ's registries may hold a running job before RQ's own tools call it abandoned. The lease says so far sooner.
_ROUND_SECONDS = 30.0  # within which the loop comes round, apart from what documents take
_REGISTERED_SECONDS = 7 * 86400
_PACE_SHARE = 0.2  # of the latest job in the moving average
_BRIEF_SECONDS = 0.1  # a job expected to take less is not put under `started`, unless it turns out longer
# How long a stopping worker goes on trying to report what it has done: less than the 10 s that `llmctl up` gives it.
_GIVE_UP_SECONDS = 5.0
_ENTRY_BYTES = 8 * 1024 * 1024  # results in one entry of the stream
_TOGETHER_BYTES = 256 * 1024 * 1024  # results in one transaction


# KEYS: the worker's, RQ's flag of suspension, the paused queues, the word that asks for a restart. ARGV: seconds, the
# queue, then names and values. Renews a lease, and tells whether the worker is to take no jobs, and that word; nothing
# when Redis knows no such worker (any more).
_RENEW = """
if redis.call('HEXISTS', KEYS[1], 'birth') == 0 then return false end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return {redis.call('EXISTS', KEYS[2]) + redis.call('SISMEMBER', KEYS[3], ARGV[2]), redis.call('GET', KEYS[4]) or ''}
"""


_NUMBER = re.compile(r"[1-9][0-9]*")
_REST = re.compile(r"(.+)-rest([0-9]*)")


class DocumentWorker(SimpleWorker):
    """An RQ worker for `DocumentJob`s."""

    def __init__(
        self,
        name: str,
        queue: str,
        config: Config,
        redis: Redis,
        clock: Clock,
        stop: Stop,
        pulse: Pulse,
        log: logging.Logger,
    ) -> None:
        super().__init__(
            [Queue(queue, connection=redis, job_class=DocumentJob, serializer=JSONSerializer)],
            name=name,
            connection=redis,
            job_class=DocumentJob,
            serializer=JSONSerializer,
            worker_ttl=supervisor.LEASE_SECONDS,
        )
        handlers = load_handlers(config.handlers)
        stop.on_signals()  # an import may have given them another meaning
        for name, handler in handlers.items():
            if isinstance(handler, HandlerMissing):
                log.error("Handler %s cannot be used, its documents will be rejected: %s", name, handler)
        self._clock = clock
        self._stop = stop
        self._log = log
        self._outage = Outage(log, told=partial(_promise, pulse, clock))
        self._pulse = pulse
        # By these a successor on this machine knows for certain that the two processes are gone.
        self._whereabouts: dict[Any, Any] = {
            "place": liveness.here(),
            "processes": f"{liveness.known_as(os.getpid())} {liveness.known_as(os.getppid())}",
        }
        self._vitals = Vitals(clock)
        self._in_hand = ""
        self._guard = HangGuard(clock, lingers=True, told=self._promise_documents)
        sealing = sealing_of(config.security)
        reader = Reader(config.processing, config.intake, load_schemas(config.intake.schemas), sealing)
        self._runner = Runner(config.processing, handlers, clock, lambda: bool(stop), log, self._guard, reader, sealing)
        self._suspended = False
        self._restart = commands.RestartWatch()
        self._beats = 0
        self._wait = Wait(redis)
        self._pace: float | None = None
        self._ended = threading.Event()
        # A job in hand that the ledger holds for queued, and since when; the lease thread tells it if it lasts.
        self._untold: tuple[DocumentJob, float] | None = None
        self._telling = threading.Lock()

    @property
    def restarts(self) -> bool:
        """Whether it has ended because a restart was asked for."""
        return self._restart.asked

    # The loop

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Take and run jobs until told to stop. Returns whether any job was run."""
        worked = False
        queue = self.queues[0].name
        if not await_redis(self.connection, self._outage, self._stop):
            return worked
        self.birth_date = self.last_heartbeat = rq_now()
        self._state = WorkerStatus.IDLE
        beat = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._insist(self._breathe)
        beat.start()
        self._take_over()
        self._log.info("Worker %s takes jobs from %s", self.name, self.queues[0].name)
        while not self._stop:
            _promise(
                self._pulse, self._clock, f"{queue} is paused" if self._suspended else f"Waits for a job of {queue}"
            )
            try:
                taken = self._take()
            except AWAY as error:
                self._stop.wait(self._outage.failed(error))
                continue
            except Exception:
                self._log.exception("A job could not be read and was passed over")
                continue
            self._outage.over()
            if taken is not None:
                self.execute_job(taken, self.queues[0])
                worked = True
        self._ended.set()
        beat.join()
        try:
            self.register_death()  # type: ignore[no-untyped-call]
        except AWAY:
            pass  # the lease runs out by itself
        self._log.info("Worker %s has stopped", self.name)
        return worked

    def _take_over(self) -> None:
        """Give back what a predecessor on this machine had in hand when it and its keeper were killed."""
        queues = [queue.name for queue in self.queues]
        try:
            Reaper(self.connection, queues, self._clock, self._log).take_from_the_gone()
        except AWAY as error:
            self._log.warning("Work of earlier workers was not looked for (%s); the reaper does it", explain(error))

    def _take(self) -> DocumentJob | None:
        if self._suspended:
            self._stop.wait(supervisor.BEAT_SECONDS)
            return None
        try:
            with self._wait.begin() as connection:
                if self._stop:
                    return None
                found = self.queue_class.dequeue_any(
                    self.queues,
                    WAIT_SECONDS,
                    connection=connection,
                    job_class=self.job_class,
                    serializer=self.serializer,
                    death_penalty_class=self.death_penalty_class,
                )
        except DequeueTimeout:
            return None
        if found is None:
            return None
        job = found[0]
        assert isinstance(job, DocumentJob)
        return job

    def _promise_documents(self, seconds: float) -> None:
        """Documents begin that have `seconds`: only then the loop comes round again, or its end."""
        _promise(self._pulse, self._clock, self._in_hand, seconds)

    # The lease

    def _beat(self) -> None:
        while self._rest():
            if self._pulse.is_asked and not self._stop:
                self._stop.set()  # a handler has caught the signal, or holds it back
            try:
                self._breathe()
                self._tell_started()
                if self._suspended:
                    self._wait.end()
            except AWAY:
                pass  # the main thread says so
            except MemoryError:
                pass  # the handler has taken all of it; its own end is near

    def _breathe(self) -> None:
        """Renew the lease; now and then, and when Redis has forgotten it, say all that says this worker exists."""
        self._pulse.beat(self._clock.monotonic())
        self._guard.rest()
        self.last_heartbeat = rq_now()
        held = [execution.job_id for execution in list(self.executions.values())]
        said: dict[Any, Any] = {
            "last_heartbeat": utcformat(self.last_heartbeat),
            "state": self._state,
            IN_HAND: in_hand(self._clock, held),
        }
        told = self._renew(said) if self._beats % _ENROL_EVERY else None
        suspended, word = self._enrol(said) if told is None else told
        if bool(suspended) != self._suspended:
            self._suspended = bool(suspended)
            self._log.info("%s %s", self.queues[0].name, "is paused" if suspended else "goes on")
        self._beats += 1
        if self._restart.heard(word or None):
            self._log.info("A restart was asked for; this worker ends once it has finished what it has in hand")
            self._stop.set()

    def _renew(self, said: dict[Any, Any]) -> tuple[int, bytes] | None:
        pairs = [part for pair in said.items() for part in pair]
        told: tuple[int, bytes] | None = self.connection.eval(
            _RENEW,
            4,
            *(self.key, WORKERS_SUSPENDED, commands.PAUSED, commands.RESTART),
            *(supervisor.LEASE_SECONDS, self.queues[0].name, *pairs),
        )
        return told

    def _enrol(self, said: dict[Any, Any]) -> tuple[int, bytes]:
        with self.connection.pipeline() as pipeline:
            pipeline.hset(self.key, mapping={**self.serialize(), **self._whereabouts, **self._condition(), **said})
            pipeline.expire(self.key, supervisor.LEASE_SECONDS)
            register(self, pipeline)
            pipeline.exists(WORKERS_SUSPENDED)
            pipeline.sismember(commands.PAUSED, self.queues[0].name)
            pipeline.get(commands.RESTART)
            suspended, paused, word = pipeline.execute()[-3:]
            return int(suspended) + int(paused), word or b""

    def _condition(self) -> dict[Any, Any]:
        """How this worker and its host are, as far as the system tells. RQ's own `version` is that of RQ."""
        own = self._vitals.own()
        known = {"rss": own.rss, "cpu": own.cpu}
        return {
            "llm_version": __version__,
            "vitals": msgspec.json.encode(self._vitals.host()),
            **{name: value for name, value in known.items() if value is not None},
        }

    def _rest(self) -> bool:
        """Until the next beat; False once the worker has ended. A request to stop ends the wait for a job."""
        until = self._clock.monotonic() + supervisor.BEAT_SECONDS
        while (left := until - self._clock.monotonic()) > 0:
            if not self._stop:
                self._stop.wait(left)
            elif self._wait.goes_on:
                self._wait.end()
                self._ended.wait(PROD_SECONDS)
            elif self._ended.wait(left):
                return False
        return True

    def _tell_started(self) -> None:
        """Tell the ledger of a job that was expected to be over by now."""
        with self._telling:  # or the word could come after the job's end and undo it
            if self._untold is not None:
                job, at = self._untold
                _move_started(self.connection, job, at)
                self._untold = None

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Nothing: the lease thread does it."""

    # One job

    def execute_job(self, job: Any, queue: Queue) -> None:
        """Run one job: begin it, run its documents, end it; two round trips beside those that took it."""
        self._state = WorkerStatus.BUSY
        self._in_hand = f"Works on {len(job.payloads)} document(s) of {queue.name}, job {job.id}"
        try:
            tries: list[Execution] = []
            execution = self._insist(lambda: self._begin(job, queue, tries))
            if execution is None:
                return
            job.runner = self._runner
            began = self._clock.monotonic()
            try:
                ran: Ran = job.perform()
            except Exception as error:
                self._log.exception("Job %s could not be run", job.id)
                message = f"{type(error).__name__}: {error}"
                self._insist_once(execution, queue.name, lambda: self._fail(job, execution, message))
                return
            finally:
                self._stop.on_signals()  # a handler may have given them another meaning
                with self._telling:
                    self._untold = None
            self._note_pace(ran, self._clock.monotonic() - began)
            self._insist_once(execution, queue.name, lambda: self._end(job, execution, ran, queue.name))
        finally:
            self._state = WorkerStatus.IDLE

    def _begin(self, job: DocumentJob, queue: Queue, tries: list[Execution]) -> Execution:
        """The job is this worker's from here on, and RQ's registries say so; the ledger, if it will take a while.

        `tries` are the beginnings of which it isn't known whether the server heard them; they are taken back.
        """
        at = self._clock.now()
        brief = self._pace is not None and self._pace * len(job.payloads) < _BRIEF_SECONDS
        with self.connection.pipeline() as pipeline:
            for unknown in tries:
                unknown.delete(job=job, pipeline=pipeline)
            execution = Execution.create(job, _REGISTERED_SECONDS, pipeline, self.name)
            tries.append(execution)
            job.prepare_for_execution(self.name, pipeline=pipeline)
            pipeline.persist(job.key)
            pipeline.lrem(queue.intermediate_queue_key, 1, job.id)
            pipeline.hset(self.key, "state", WorkerStatus.BUSY.value)
            asked = len(pipeline)
            if job.payloads:
                pipeline.zmscore(commands.CANCELLED, [payload.id for payload in job.payloads])
            if not brief:
                _move_started(pipeline, job, at)
            answers = pipeline.execute()
        if job.payloads and any(cancelled := answers[asked]):
            job.payloads = [payload for payload, told in zip(job.payloads, cancelled, strict=True) if told is None]
        self.executions[execution.id] = execution
        with self._telling:
            self._untold = (job, at) if brief else None
        return execution

    def _end(self, job: DocumentJob, execution: Execution, ran: Ran, queue: str) -> None:
        """What came of the job, and the job's removal, in one transaction."""
        at = self._clock.now()
        parts = list(outcomes.parts(ran.outcomes, _ENTRY_BYTES))
        # A batch may come to more than one transaction can hold. What is told ahead is told again if the end fails.
        while sum(each.size for part in parts for each in part) > _TOGETHER_BYTES and len(parts) > 1:
            self.connection.xadd(outcomes.stream(queue), {outcomes.FIELD: outcomes.encode(parts.pop(0))})
        with self.connection.pipeline() as pipeline:
            for part in parts:
                pipeline.xadd(outcomes.stream(queue), {outcomes.FIELD: outcomes.encode(part)})
            for again in ran.again:
                payload = again.payload
                # The id follows from the attempt, so that telling it twice schedules it once.
                job_id = f"{payload.id}-r{payload.attempts}"
                submission.enqueue_at(pipeline, self.connection, job_id, payload, again.at)
                ledger.move(
                    pipeline, Status.RETRYING, at, [(payload.id, {"rq_job_id": job_id, "message": again.reason[:500]})]
                )
            if ran.left:
                job_id = _rest_of(job.id)
                submission.enqueue(pipeline, self.connection, job_id, queue, ran.left, at_front=True)
                submission.resubmitted(pipeline, Status.QUEUED, at, ran.left, job_id)
            pipeline.hincrby(self.key, "successful_job_count", 1)
            pipeline.hincrbyfloat(self.key, "total_working_time", sum(done.seconds for done in ran.outcomes))
            pipeline.expire(self.key, supervisor.LEASE_SECONDS)
            if self._pace is not None:
                pipeline.hset(ledger.PACE_KEY, queue, f"{self._pace:.6g}")
            self._forget(pipeline, job, execution)
            pipeline.execute()
        for again in ran.again:
            self._log.warning(
                "Task will be retried: %s attempt %d of document %s failed (%s)",
                again.payload.source,
                again.payload.attempts,
                again.payload.id,
                again.reason.partition(":")[0],
                extra={"document_id": again.payload.id, "attempt": again.payload.attempts},
            )

    def _note_pace(self, ran: Ran, seconds: float) -> None:
        """How long a document takes here, as a moving average: ingest makes jobs by it."""
        count = len(ran.outcomes) + len(ran.again)
        if count:
            mean = seconds / count
            self._pace = mean if self._pace is None else self._pace + _PACE_SHARE * (mean - self._pace)

    def _fail(self, job: DocumentJob, execution: Execution, message: str) -> None:
        """A job that is not the project's own work ends in RQ's failed registry, for `rq info` to show."""
        with self.connection.pipeline() as pipeline:
            job.set_status(JobStatus.FAILED, pipeline=pipeline)
            self.cleanup_execution(job, pipeline=pipeline, execution=execution)
            pipeline.hset(job.key, "ended_at", utcformat(rq_now()))
            job.failed_job_registry.add(job, ttl=86400, exc_string=message, pipeline=pipeline)
            pipeline.hincrby(self.key, "failed_job_count", 1)
            pipeline.execute()

    def _forget(self, pipeline: Any, job: DocumentJob, execution: Execution) -> None:
        execution.delete(job=job, pipeline=pipeline)
        pipeline.delete(job.key, f"rq:executions:{job.id}")

    def _insist_once(self, execution: Execution, queue: str, end: Any) -> None:
        """Do `end`, which takes `execution` off its registry, however long Redis is away. When a connection breaks
        the server may have done it all the same; then the registry says so, and it isn't done again."""
        tried = False

        def once() -> None:
            nonlocal tried
            if tried and self.connection.zscore(f"rq:wip:{queue}", execution.composite_key) is None:
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
                    self._log.error("Stopping without Redis; the job in hand will be run again by another worker.")
                    return None
                time.sleep(wait)
            else:
                self._outage.over()
                return done


def _promise(pulse: Pulse, clock: Clock, words: str, seconds: float = 0.0) -> None:
    pulse.promise(clock.monotonic() + seconds + _ROUND_SECONDS, words)


def _rest_of(job_id: str) -> str:
    """The id of the job with the rest of a job: another one each time, and the same when it is told twice."""
    rest = _REST.fullmatch(job_id)
    return f"{rest[1]}-rest{int(rest[2] or 1) + 1}" if rest else f"{job_id[:40]}-rest"


def _move_started(redis: "Redis | Pipeline", job: DocumentJob, at: float) -> None:
    entries: list[tuple[str, ledger.Fields]] = [
        (payload.id, {"attempts": payload.attempts + 1, "rq_job_id": job.id}) for payload in job.payloads
    ]
    ledger.move(redis, Status.STARTED, at, entries)


def _made(
    name: str, queue: str, config: Config, redis: Redis, stop: Stop, pulse: Pulse, log: logging.Logger
) -> DocumentWorker | None:
    """The worker, once Redis is there: it asks for its own address. None when told to stop first."""
    outage = Outage(log, told=partial(_promise, pulse, SystemClock()))
    while await_redis(redis, outage, stop):
        try:
            return DocumentWorker(name, queue, config, redis, SystemClock(), stop, pulse, log)
        except AWAY as error:
            stop.wait(outage.failed(error))
    return None


def _work(name: str, queue: str, config: Config, pulse: Pulse) -> int:
    """The worker's own process, from its fork to its end."""
    stop = Stop()
    stop.on_signals()
    # What a handler forks is no worker: multiprocessing ends its processes with SIGTERM, and then waits for their end.
    os.register_at_fork(after_in_child=stop.leave_signals)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    log = _log(config, queue)
    faulthandler.enable(all_threads=False)  # the stack at a fatal signal: its keeper keeps it
    _limit_memory(config.processing.worker_memory)
    redis = connect(_url(config), kind=FinishingRedis)
    try:
        worker = _made(name, queue, config, redis, stop, pulse, log)
        if worker is not None:
            worker.work()
            if worker.restarts:
                pulse.end()
                return supervisor.EXIT_RESTART
    except (OutOfMemory, MemoryError) as error:
        _end_for_want_of_memory(error)
    finally:
        redis.close()
    pulse.end()
    return 0


def _limit_memory(limit: int | None) -> None:
    """Let this process allocate at most `limit` bytes.

    The limit is on its data (setrlimit(2)): of shared libraries it counts the little that is written to, and of
    files in memory nothing, so that the number means about what it says.
    """
    if limit is not None:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def _end_for_want_of_memory(error: BaseException) -> NoReturn:
    """Leave at once: threads, libraries and whatever else failed to allocate may be in any state."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))  # to say where it was takes some memory, too
    with contextlib.suppress(Exception):
        traceback.print_exception(error.__cause__ or error)
        sys.stderr.flush()
    os._exit(EXIT_OUT_OF_MEMORY)


def _log(config: Config, queue: str) -> logging.Logger:
    """The log of this process: a JSON line bears its process id."""
    log = start_log(config, "worker")
    log.name = f"llm.worker.{queue}"
    return log


def _url(config: Config) -> str:
    return os.environ.get(URL_VARIABLE, config.queue.redis_url)


def main() -> None:
    """Entry point of `llm-worker QUEUE`; `high.2` is a second worker of `high`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # they wait until there is somebody to heed them
    told = arguments.read("llm-worker", "Run the jobs of one queue.", queue=True)
    config, log = start("worker", told.config)
    queue, dot, number = told.queue.partition(".")
    if queue not in config.queue.priority_levels or (dot and not _NUMBER.fullmatch(number)):
        allowed = ", ".join(config.queue.priority_levels)
        print(
            f"llm-worker: {told.queue!r} is not a queue. Allowed: {allowed} (queue.priority_levels); "
            "high.2, high.3 and so on are further workers of high.",
            file=sys.stderr,
        )
        raise SystemExit(78)
    log.name = f"llm.worker.{queue}"
    kept = Keeper(
        queue,
        _url(config),
        SystemClock(),
        log,
        quotes=not config.security.encryption_enabled,
        notify=Notify.of(os.environ, SystemClock()),
    )
    raise SystemExit(kept.run(lambda name, pulse: _work(name, queue, config, pulse)))


if __name__ == "__main__":
    main()
