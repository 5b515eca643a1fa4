"""`POST /restart`: a restart of every process of the fleet."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.access.roles import Role, caller
from llm_scheduler.api.http.context import api_context, json_answer
from llm_scheduler.api.http.operation import Answer, EmptyQuery, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.jobs.config import ConfigError
from llm_scheduler.jobs.document import new_id
from llm_scheduler.jobs.store import commands


class RestartCommand(msgspec.Struct, frozen=True):
    """The id of a restart, and what happens now."""

    restart: str
    message: str


def restart_fleet(request: Request, query: EmptyQuery) -> Response:
    """Restart every process of the fleet without losing a document.

    Each process finishes what it has in hand and ends; systemd or `llmctl up` starts it again. It reads the
    configuration and the handlers anew. If the configuration is invalid, nothing is restarted (409).
    """
    context = api_context(request)
    try:
        context.recheck()
    except ConfigError as error:
        raise ProblemError(
            409, f"The configuration can't be used, and no process would start with it again: {error}"
        ) from None
    restart_id = new_id(context.clock.now())
    commands.restart(context.redis, restart_id)
    request.scope["llm.audit"] = {"restart": restart_id, "by": caller(request).name}
    message = "Every process ends once it has finished what it has in hand, and starts anew."
    return json_answer(RestartCommand(restart_id, message), 202)


_ANSWERS = {202: Answer(RestartCommand, "The restart is requested.")}
OPERATIONS = (
    Operation("POST", "/restart", restart_fleet, "fleet", _ANSWERS, role=Role.ADMIN, needs_redis=True, problems=(409,)),
)
