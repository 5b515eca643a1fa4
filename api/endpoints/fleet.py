"""The fleet: its workers, its hosts, its configuration, and a restart of every process."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.access.roles import Role, caller
from llm_scheduler.api.http.context import api_context, json_answer
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.api.state.host_view import HostView, hosts
from llm_scheduler.api.state.processes import LiveWorker, WorkerFigures, read_processes, read_workers
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.config import ConfigError
from llm_scheduler.jobs.config.mask import masked
from llm_scheduler.jobs.document import new_id
from llm_scheduler.jobs.store import commands


class WorkerView(WorkerFigures, frozen=True, kw_only=True):
    """A live worker, as of its last heartbeat.

    `rss` is the memory of its process in bytes and `cpu` its processor time in percent of one core; both are updated
    every 15 s. `version_skew`: it runs another version than this API. `current_job` is an RQ job's id.
    """

    version: str | None
    version_skew: bool


class Workers(msgspec.Struct, frozen=True):
    workers: list[WorkerView]


class Hosts(msgspec.Struct, frozen=True):
    hosts: list[HostView]


class ConfigView(msgspec.Struct, frozen=True):
    """The configuration, with `***` for its secrets."""

    config: dict[str, Any]


class RestartCommand(msgspec.Struct, frozen=True):
    """The id of a restart, and what happens now."""

    restart: str
    message: str


def list_workers(request: Request) -> Workers:
    """The live workers."""
    return Workers([_view(worker) for worker in read_workers(api_context(request).redis)])


def _view(worker: LiveWorker) -> WorkerView:
    fields = msgspec.structs.asdict(worker)
    del fields["vitals"]
    fields["version"] = worker.version or None
    return WorkerView(**fields, version_skew=worker.version != __version__)


def list_hosts(request: Request) -> Hosts:
    """The hosts on which workers and daemons run, with their load."""
    return Hosts(hosts(read_processes(api_context(request).redis)))


def get_config(request: Request) -> ConfigView:
    """The configuration that this API uses, without its secrets."""
    return ConfigView(masked(api_context(request).config))


def restart_fleet(request: Request) -> Response:
    """Restart every process of the fleet without losing a document.

    Each process finishes what it has in hand and ends; systemd or `llmctl up` starts it again. It reads the
    configuration and the handlers anew. If the configuration is invalid, nothing is restarted (409).
    """
    context = api_context(request)
    try:
        context.recheck()
    except ConfigError as error:
        text = f"The configuration can't be used, and no process would start with it again: {error}"
        raise ProblemError(409, text) from None
    restart_id = new_id(context.clock.now())
    commands.restart(context.redis, restart_id)
    request.scope["llm.audit"] = {"restart": restart_id, "by": caller(request).name}
    message = "Every process ends once it has finished what it has in hand, and starts anew."
    return json_answer(RestartCommand(restart_id, message), 202)


_WORKERS = {200: Answer(Workers, "Every live worker.")}
_HOSTS = {200: Answer(Hosts, "Every host that runs a worker or a daemon.")}
_CONFIG = {200: Answer(ConfigView, "The configuration.")}
_RESTART = {202: Answer(RestartCommand, "The restart is requested.")}
OPERATIONS = (
    Operation("GET", "/workers", list_workers, "fleet", _WORKERS, needs_redis=True),
    Operation("GET", "/hosts", list_hosts, "fleet", _HOSTS, needs_redis=True),
    Operation("GET", "/config", get_config, "fleet", _CONFIG, role=Role.ADMIN),
    Operation("POST", "/restart", restart_fleet, "fleet", _RESTART, role=Role.ADMIN, needs_redis=True, problems=(409,)),
)
