"""Which Redis a command talks to, and what it says when there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llm_scheduler.api.cli.exit_codes import ExitCode, fail

if TYPE_CHECKING:
    from redis import Redis

    from llm_scheduler.jobs.config import Config


def redis_url(config: Config, environ: Mapping[str, str] | None = None) -> str:
    """The address: `$LLM_REDIS_URL`, else the embedded server of this folder, else `queue.redis_url`."""
    from llm_scheduler.jobs.process.startup import URL_VARIABLE

    explicit = (os.environ if environ is None else environ).get(URL_VARIABLE)
    if explicit:
        return explicit
    if config.queue.type == "local":
        from llm_scheduler.api.local.embedded_server import socket_url

        return socket_url(config)
    return config.queue.redis_url


@contextmanager
def client(config: Config) -> Iterator[Redis]:
    """A client for the block, closed after it. Nothing is sent yet. An address of no known form ends the command."""
    from llm_scheduler.jobs.process.connection import connect

    try:
        redis = connect(redis_url(config))
    except ValueError:
        fail(
            "The address of Redis is not one. Write redis://, rediss://, redis+sentinel:// or unix:// and the rest.",
            ExitCode.CONFIGURATION,
        )
    try:
        yield redis
    finally:
        redis.close()


@contextmanager
def reached(config: Config) -> Iterator[Redis]:
    """A client for the block; Redis being away in it ends the command, in words."""
    from llm_scheduler.jobs.process.connection import AWAY

    with client(config) as redis:
        try:
            redis.ping()
            yield redis
        except AWAY as error:
            fail(away(config, error), ExitCode.UNREACHABLE)


def away(config: Config, error: Exception) -> str:
    """That Redis is away, why, and what to do about it, in a sentence or two."""
    from llm_scheduler.jobs.process.connection import explain

    hint = "Start it with llmctl up." if config.queue.type == "local" else "See queue.redis_url, and try again."
    return f"Redis unreachable: {explain(error).rstrip('.')}. {hint}"
