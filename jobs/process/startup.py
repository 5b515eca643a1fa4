"""How a process starts: its configuration, its log, and the garbage collector's settings."""

import gc
import logging
import os
import sys

from llm_scheduler.jobs.config import Config, ConfigError, find, load
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.process.logs import setup
from llm_scheduler.jobs.process.termination import stop_with_parent

# `llmctl up` sets these for the processes it starts.
URL_VARIABLE = "LLM_REDIS_URL"
QUIET_VARIABLE = "LLM_QUIET"


def start(process: str, explicit: str | None = None) -> tuple[Config, logging.Logger]:
    """Read the configuration (`explicit`: the file named on the command line), start the log, follow the parent.

    Exits with status 78 and lists every problem on stderr when the configuration is not valid.
    """
    try:
        config = load(find(explicit, os.environ))
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(ExitCode.CONFIGURATION) from None
    log = start_log(config, process)
    stop_with_parent(os.environ)
    _tune_garbage_collector()
    return config, log


def start_log(config: Config, process: str) -> logging.Logger:
    file = config.logging.file if config.queue.type == "local" else None
    return setup(config.logging, process, file, quiet=QUIET_VARIABLE in os.environ)


def redis_url(config: Config) -> str:
    """The address of Redis: `llmctl up` tells its processes where the embedded server listens."""
    return os.environ.get(URL_VARIABLE, config.queue.redis_url)


def _tune_garbage_collector() -> None:
    """Collect seldom, and never scan the objects that exist at the start.

    A group of documents is tens of thousands of objects without a cycle. With Python's thresholds, ingest spent a
    seventh of its time on them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
