"""What every daemon gets from its process, made at its start and closed at its end."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from redis import Redis

from llm_scheduler.jobs.clock import Clock, SystemClock
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.process import arguments
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.process.startup import redis_url, start
from llm_scheduler.jobs.process.termination import Stop


@dataclass(frozen=True)
class Runtime:
    config: Config
    redis: Redis
    clock: Clock
    stop: Stop
    log: logging.Logger
    notify: Notify = field(default_factory=Notify)


@contextmanager
def runtime(config: Config, log: logging.Logger, kind: type[Redis] = Redis) -> Iterator[Runtime]:
    """Handle SIGTERM and SIGINT, and hold a Redis client of `kind` until the end of the block."""
    clock = SystemClock()
    notify = Notify.from_environment(os.environ, clock)
    stop = Stop()
    stop.handle_signals()
    redis = connect(redis_url(config), kind=kind)
    try:
        yield Runtime(config, redis, clock, stop, log, notify)
    finally:
        redis.close()


@contextmanager
def daemon_runtime(name: str, purpose: str, kind: type[Redis] = Redis) -> Iterator[Runtime]:
    """The same for the program `llm-<name>`, from its command line to its last log line."""
    config, log = start(name, arguments.read(f"llm-{name}", purpose).config)
    with runtime(config, log, kind) as made:
        yield made
        log.info("%s has stopped", name.capitalize())
