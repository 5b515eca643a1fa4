"""An operation: one method on one path, as data. Its route, its checks and its documentation are made from it."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llm_scheduler.api.access.roles import Role, caller
from llm_scheduler.api.http.context import api_context, json_answer, redis_access
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.api.http.query import parse_query

# An endpoint is called with the request and, if the operation has parameters, its checked query: a struct of the type
# `query`. It returns a `Response`, or a struct that is sent as JSON with the status 200.
Endpoint = Callable[..., Any]


class EmptyQuery(msgspec.Struct, frozen=True):
    """The query of an operation without parameters."""


@dataclass(frozen=True)
class Body:
    """The bodies that an operation takes, by media type: a type that msgspec knows, or a JSON Schema as it is."""

    content: Mapping[str, Any]
    required: bool = True


@dataclass(frozen=True)
class Answer:
    """A successful answer. `type`: a type that msgspec knows, a tuple of alternatives, or None for any bytes."""

    type: Any
    description: str
    media_type: str = "application/json"

    @property
    def types(self) -> "tuple[Any, ...]":
        return self.type if isinstance(self.type, tuple) else (self.type,) if self.type is not None else ()


@dataclass(frozen=True)
class Operation:
    """`path` in Starlette's notation. `role` is the least that a caller needs; None: everybody, without a key.
    `headers` maps request headers to their descriptions. `needs_redis`: the endpoint is not async and its OSErrors all
    come from Redis; they become a 503. `problems` are statuses of problem answers that not every operation has.
    """

    method: str
    path: str
    endpoint: Endpoint
    tag: str
    answers: Mapping[int, Answer]
    role: Role | None = Role.READONLY
    query: type[msgspec.Struct] = EmptyQuery
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    needs_redis: bool = False
    problems: tuple[int, ...] = ()


def routes(operations: Iterable[Operation]) -> list[Route]:
    """One route for each path, so that the answer to another method (405) lists every allowed one."""
    paths: dict[str, dict[str, Operation]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method] = each
    return [Route(path, _dispatcher(methods), methods=list(methods)) for path, methods in paths.items()]


def _dispatcher(methods: dict[str, Operation]) -> Callable[[Request], Any]:
    async def dispatch(request: Request) -> Response:
        operation = methods["GET" if request.method == "HEAD" else request.method]
        role = operation.role
        if role is not None and not (who := caller(request)).role.includes(role):
            text = f"{who.name!r} has the role {who.role}; this needs {role}."
            raise ProblemError(403, text, role=who.role, needs=role)
        context = api_context(request)
        query = parse_query(request, operation.query, context.levels)
        arguments = (request,) if operation.query is EmptyQuery else (request, query)

        def call() -> Response:
            with redis_access(context) if operation.needs_redis else nullcontext():
                return _response(operation.endpoint(*arguments))

        if inspect.iscoroutinefunction(operation.endpoint):
            return _response(await operation.endpoint(*arguments))
        return await run_in_threadpool(call)

    return dispatch


def _response(answer: Any) -> Response:
    return answer if isinstance(answer, Response) else json_answer(answer)
