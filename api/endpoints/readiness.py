"""`GET /health`: whether the process lives, and how the rest is. `GET /ready`: whether documents would be worked on."""

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.http.context import answer, site
from llm_scheduler.api.http.operation import Answer, Nothing, Operation
from llm_scheduler.api.state.checks import Check
from llm_scheduler.api.state.health import Health


class Readiness(msgspec.Struct, frozen=True):
    """Whether all `checks` are well. Whatever is not says what to do about it."""

    status: Literal["ready", "not ready"]
    checks: list[Check]


def health(request: Request, query: Nothing) -> Response:
    """200 for as long as the process lives: `status` and `message` say how the rest is."""
    return answer(site(request).lookout.look())


def ready(request: Request, query: Nothing) -> Response:
    """Whether documents that come now would be worked on.

    503 when something is missing for it; the checks say what, and what to do next. They are at most a second old.
    """
    found = site(request).lookout.checks()
    well = all(check.ok for check in found)
    return answer(Readiness("ready" if well else "not ready", found), 200 if well else 503)


OPERATIONS = (
    Operation(
        method="GET",
        path="/health",
        endpoint=health,
        tag="condition",
        role=None,
        answers={200: Answer(Health, "The process lives.")},
    ),
    Operation(
        method="GET",
        path="/ready",
        endpoint=ready,
        tag="condition",
        role=None,
        answers={
            200: Answer(Readiness, "Documents would be worked on."),
            503: Answer(Readiness, "Something is missing; see the checks."),
        },
    ),
)
