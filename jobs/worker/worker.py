"""`llm-worker QUEUE`: a supervisor (jobs/worker/supervisor.py) that forks the process with the worker's loop."""

import contextlib
import faulthandler
import os
import re
import resource
import signal
import sys
import traceback
from functools import partial
from typing import NoReturn

from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.process.outage import Outage, when_redis_answers
from llm_scheduler.jobs.process.runtime import arguments, redis_url, runtime, start, start_log
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.store.full_redis import FinishingRedis
from llm_scheduler.jobs.worker.failure import OutOfMemory
from llm_scheduler.jobs.worker.loop import DocumentWorker, set_deadline
from llm_scheduler.jobs.worker.pulse import Pulse
from llm_scheduler.jobs.worker.supervisor import STOP_SIGNALS, WorkerSupervisor


def main() -> None:
    """Entry point of `llm-worker QUEUE`; `high.2` is a second worker of `high`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # the supervisor unblocks them when it handles them
    args = arguments("llm-worker", "Run the jobs of one queue.", queue=True)
    config, log = start("worker", args.config)
    queue, dot, number = args.queue.partition(".")
    if queue not in config.queue.priority_levels or (dot and not re.fullmatch("[1-9][0-9]*", number)):
        allowed = ", ".join(config.queue.priority_levels)
        print(
            f"llm-worker: {args.queue!r} is not a queue. Allowed: {allowed} (queue.priority_levels); "
            "high.2, high.3 and so on are further workers of high.",
            file=sys.stderr,
        )
        raise SystemExit(ExitCode.CONFIGURATION)
    log.name = f"llm.worker.{queue}"
    clock = SystemClock()
    supervisor = WorkerSupervisor(
        queue,
        redis_url(config),
        clock,
        log,
        quotes=not config.security.encryption_enabled,
        notify=Notify.from_environment(os.environ, clock),
    )
    raise SystemExit(supervisor.run(lambda name, pulse: run_worker(name, queue, config, pulse)))


def run_worker(name: str, queue: str, config: Config, pulse: Pulse) -> int:
    """The worker's own process, from its fork to its end. Returns its exit status."""
    log = start_log(config, "worker")  # again: a JSON line has the process id
    log.name = f"llm.worker.{queue}"
    with runtime(config, log, FinishingRedis) as made:
        # A process that a handler forks is no worker: multiprocessing ends it with SIGTERM, and waits for its end.
        os.register_at_fork(after_in_child=made.stop.restore_signals)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        faulthandler.enable(all_threads=False)  # the stack at a fatal signal: the supervisor keeps it
        _limit_memory(config.processing.worker_memory)
        try:
            # RQ asks Redis for the worker's address.
            outage = Outage(log, report=partial(set_deadline, pulse, made.clock))
            worker = when_redis_answers(partial(DocumentWorker, name, queue, made, pulse), outage, made.stop)
            if worker is not None:
                worker.work()
        except (OutOfMemory, MemoryError) as error:
            _end_out_of_memory(error)
    pulse.end()
    return ExitCode.RESTART if worker is not None and worker.lease.restart.requested else ExitCode.OK


def _limit_memory(limit: int | None) -> None:
    """Let this process allocate at most `limit` bytes. RLIMIT_DATA (setrlimit(2)) does not count mapped files, and of
    shared libraries only the few pages that are written to."""
    if limit is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _end_out_of_memory(error: BaseException) -> NoReturn:
    """Exit at once: threads and libraries may be in any state after a failed allocation."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))  # printing the stack takes memory too
    with contextlib.suppress(Exception):
        traceback.print_exception(error.__cause__ or error)
        sys.stderr.flush()
    os._exit(ExitCode.OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
