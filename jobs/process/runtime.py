"""How a process starts, from its command line on, and what every daemon has until its end."""

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from redis import Redis

from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.clock import Clock, SystemClock
from llm_scheduler.jobs.config import Config, ConfigError, find, load
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.process.connection import KeyPrefixError, connect, key_prefix
from llm_scheduler.jobs.process.logs import setup
from llm_scheduler.jobs.process.sd_notify import Notify
from llm_scheduler.jobs.process.termination import PARENT_VARIABLE, Stop, signal_on_parent_death

# `llmctl up` sets these for the processes it starts.
URL_VARIABLE = "LLM_REDIS_URL"
QUIET_VARIABLE = "LLM_QUIET"


@dataclass(frozen=True)
class Runtime:
    config: Config
    redis: Redis
    clock: Clock
    stop: Stop
    log: logging.Logger
    notify: Notify = field(default_factory=Notify)


def arguments(program: str, purpose: str, *, queue: bool = False, port: bool = False) -> argparse.Namespace:
    """`config` from `--config FILE`; if wanted, `queue` as written (`high`, `high.2`) and `port`. None if not given.

    Exits after --help and --version; exits with status 2 and the usage on stderr when the command line is wrong.
    """
    parser = argparse.ArgumentParser(prog=program, description=purpose, allow_abbrev=False)
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration; else $LLM_CONFIG, ./scheduler_config.json, or the defaults"
    )
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    if port:
        parser.add_argument("--port", type=_port, help="listen on this port instead of the configuration's")
    if queue:
        parser.add_argument("queue", metavar="QUEUE", help="a priority level; high.2 is a second worker of high")
    return parser.parse_args()


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a whole number from 1 to 65535 is")
    return number


def start(process: str, explicit: str | None = None) -> tuple[Config, logging.Logger]:
    """Read the configuration (`explicit`: the file named on the command line), start the log, follow the parent.

    Exits with status 78 and lists every problem on stderr when the configuration, or `RQ_KEY_PREFIX`, is not valid.
    """
    try:
        config = load(find(explicit, os.environ))
        key_prefix(os.environ)
    except (ConfigError, KeyPrefixError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(ExitCode.CONFIGURATION) from None
    log = start_log(config, process)
    if parent := os.environ.get(PARENT_VARIABLE):
        signal_on_parent_death(int(parent), signal.SIGTERM)
    # A group of documents is tens of thousands of objects without a cycle: with Python's thresholds, ingest spent a
    # seventh of its time on them. So collect seldom, and never scan the objects that exist now.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    return config, log


def start_log(config: Config, process: str) -> logging.Logger:
    file = config.logging.file if config.queue.type == "local" else None
    return setup(config.logging, process, file, quiet=QUIET_VARIABLE in os.environ)


def redis_url(config: Config) -> str:
    """The address of Redis: `llmctl up` tells its processes where the embedded server listens."""
    return os.environ.get(URL_VARIABLE, config.queue.redis_url)


@contextmanager
def runtime(config: Config, log: logging.Logger, kind: type[Redis]) -> Iterator[Runtime]:
    """Handle SIGTERM and SIGINT, and hold a Redis client of `kind` until the end of the block."""
    clock = SystemClock()
    stop = Stop()
    stop.handle_signals()
    redis = connect(redis_url(config), kind=kind)
    try:
        yield Runtime(config, redis, clock, stop, log, Notify.from_environment(os.environ, clock))
    finally:
        redis.close()


@contextmanager
def daemon_runtime(name: str, purpose: str, kind: type[Redis] = Redis) -> Iterator[Runtime]:
    """The same for the program `llm-<name>`, from its command line to its last log line."""
    config, log = start(name, arguments(f"llm-{name}", purpose).config)
    with runtime(config, log, kind) as made:
        yield made
        log.info("%s has stopped", name.capitalize())
