"""Controls of the running fleet: pausing a queue, restarting every process, and what the configuration is."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.access.roles import Role, caller
from llm_scheduler.api.http.context import answer, asks_redis, site
from llm_scheduler.api.http.operation import Answer, Nothing, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.jobs.config import ConfigError
from llm_scheduler.jobs.config.mask import masked
from llm_scheduler.jobs.document import new_id
from llm_scheduler.jobs.store import commands


class QueueState(msgspec.Struct, frozen=True):
    """Whether the workers of a queue take jobs. Those in hand are finished either way."""

    name: str
    paused: bool
    message: str


class RestartAsked(msgspec.Struct, frozen=True):
    """A restart that was asked for, by its id."""

    restart: str
    message: str


class ConfigShown(msgspec.Struct, frozen=True):
    """The configuration as it is in force, `***` for its secrets."""

    config: dict[str, Any]


@asks_redis
def pause_queue(request: Request, query: Nothing) -> Response:
    """Let the workers of a queue take no more jobs. What comes in meanwhile waits."""
    return _pause(request, paused=True)


@asks_redis
def resume_queue(request: Request, query: Nothing) -> Response:
    """Let the workers of a paused queue go on."""
    return _pause(request, paused=False)


def _pause(request: Request, *, paused: bool) -> Response:
    here = site(request)
    name = request.path_params["name"]
    if name not in here.levels:
        raise ProblemError(404, f"There is no queue {name[:50]!r}. Queues: {', '.join(here.levels)}.")
    changed = commands.pause(here.redis, name) if paused else commands.resume(here.redis, name)
    words = "is paused: its workers finish what they have in hand" if paused else "goes on"
    request.scope["llm.audit"] = {"queue": name, "changed": changed}
    return answer(QueueState(name, paused, f"{name} {words}." if changed else f"{name} was so already."))


@asks_redis
def restart_fleet(request: Request, query: Nothing) -> Response:
    """Restart every process of the fleet without losing anything: each finishes what it has in hand and is started
    anew by what runs it (systemd, or `llmctl up`). The configuration and the handlers are read again; with a
    configuration that can't be used nothing is restarted.
    """
    here = site(request)
    try:
        here.recheck()
    except ConfigError as error:
        raise ProblemError(
            409, f"The configuration can't be used, and no process would start with it again: {error}"
        ) from None
    word = new_id(here.clock.now())
    commands.restart(here.redis, word)
    request.scope["llm.audit"] = {"restart": word, "by": caller(request).name}
    message = "Every process ends once it has finished what it has in hand, and starts anew."
    return answer(RestartAsked(word, message), 202)


def get_config(request: Request, query: Nothing) -> Response:
    """The configuration that this API runs by, without its secrets."""
    return answer(ConfigShown(masked(site(request).config)))


OPERATIONS = (
    *(
        Operation(
            method="POST",
            path=f"/queues/{{name}}/{verb}",
            endpoint=endpoint,
            tag="fleet",
            role=Role.OPERATOR,
            answers={200: Answer(QueueState, "How the queue is now.")},
            problems=(503,),
        )
        for verb, endpoint in (("pause", pause_queue), ("resume", resume_queue))
    ),
    Operation(
        method="POST",
        path="/restart",
        endpoint=restart_fleet,
        tag="fleet",
        role=Role.ADMIN,
        answers={202: Answer(RestartAsked, "It was asked for.")},
        problems=(409, 503),
    ),
    Operation(
        method="GET",
        path="/config",
        endpoint=get_config,
        tag="fleet",
        role=Role.ADMIN,
        answers={200: Answer(ConfigShown, "The configuration.")},
    ),
)
