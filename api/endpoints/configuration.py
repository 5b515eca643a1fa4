"""`GET /config`: the configuration in force."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.access.roles import Role
from llm_scheduler.api.http.context import api_context, json_answer
from llm_scheduler.api.http.operation import Answer, EmptyQuery, Operation
from llm_scheduler.jobs.config.mask import masked


class ConfigView(msgspec.Struct, frozen=True):
    """The configuration, with `***` for its secrets."""

    config: dict[str, Any]


def get_config(request: Request, query: EmptyQuery) -> Response:
    """The configuration that this API uses, without its secrets."""
    return json_answer(ConfigView(masked(api_context(request).config)))


_ANSWERS = {200: Answer(ConfigView, "The configuration.")}
OPERATIONS = (Operation("GET", "/config", get_config, "fleet", _ANSWERS, role=Role.ADMIN),)
