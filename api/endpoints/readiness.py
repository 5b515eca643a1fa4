"""`GET /health` and `GET /ready`."""

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.http.context import api_context, json_answer
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.state.checks import Check
from llm_scheduler.api.state.health import Health


class Readiness(msgspec.Struct, frozen=True):
    """`ready` if every check is ok. Any other check says what to do."""

    status: Literal["ready", "not ready"]
    checks: list[Check]


def health(request: Request) -> Health:
    """Whether the API process is alive: always 200. `status` and `message` describe the rest of the system."""
    return api_context(request).monitor.health()


def ready(request: Request) -> Response:
    """Whether documents that arrive now would be worked on.

    503 if a check fails; each check says what is missing and what to do next. Checks are at most a second old.
    """
    found = api_context(request).monitor.checks()
    is_ready = all(check.ok for check in found)
    return json_answer(Readiness("ready" if is_ready else "not ready", found), 200 if is_ready else 503)


_HEALTH = {200: Answer(Health, "The process is alive.")}
_READY = {
    200: Answer(Readiness, "Documents would be worked on."),
    503: Answer(Readiness, "Something is missing; see the checks."),
}
OPERATIONS = (
    Operation("GET", "/health", health, "condition", _HEALTH, role=None),
    Operation("GET", "/ready", ready, "condition", _READY, role=None),
)
