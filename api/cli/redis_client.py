"""The Redis that commands use, and what they say when it is unreachable."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis

from llm_scheduler.api.cli.output import fail
from llm_scheduler.api.local.embedded_server import socket_url
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.process.connection import AWAY, KeyPrefixError, connect, explain
from llm_scheduler.jobs.process.runtime import URL_VARIABLE


def redis_url(config: Config) -> str:
    """The address: `$LLM_REDIS_URL`, else the embedded server of this folder, else `queue.redis_url`."""
    if explicit := os.environ.get(URL_VARIABLE):
        return explicit
    if config.queue.type == "local":
        return socket_url(config)
    return config.queue.redis_url


@contextmanager
def client(config: Config) -> Iterator[Redis]:
    """A client for the block, closed after it. It sends nothing yet. An invalid address ends the command."""
    try:
        redis = connect(redis_url(config))
    except KeyPrefixError as error:
        fail(str(error), ExitCode.CONFIGURATION)
    except ValueError:
        fail(
            "The address of Redis is invalid. It must begin with redis://, rediss://, redis+sentinel:// or unix://.",
            ExitCode.CONFIGURATION,
        )
    with redis:
        yield redis


@contextmanager
def reachable_client(config: Config) -> Iterator[Redis]:
    """A client for the block. If Redis is unreachable before or in the block, the command ends."""
    with client(config) as redis:
        try:
            redis.ping()
            yield redis
        except AWAY as error:
            fail(unreachable_message(config, error), ExitCode.UNREACHABLE)


def unreachable_message(config: Config, error: Exception) -> str:
    """That Redis is unreachable, why, and what to do."""
    hint = "Start it with llmctl up." if config.queue.type == "local" else "See queue.redis_url, and try again."
    return f"Redis unreachable: {explain(error).rstrip('.')}. {hint}"
