"""An operation: one method on one path, as data. Its route, its checks and its documentation are made from it."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llm_scheduler.api.access.roles import Role, caller
from llm_scheduler.api.http.context import site
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.api.http.query import asked

# An endpoint gets the request and its query, checked: a struct of the type that its operation names.
Endpoint = Callable[[Request, Any], Any]


class Nothing(msgspec.Struct, frozen=True):
    """The query of an operation that takes no parameters."""


@dataclass(frozen=True)
class Body:
    """What a request may carry, by media type: a type that msgspec knows, or a JSON Schema as it is."""

    content: Mapping[str, Any]
    required: bool = True


@dataclass(frozen=True)
class Answer:
    """What an operation answers with, under a media type: a type that msgspec knows, or one of several; None: bytes of
    any kind."""

    type: Any
    description: str
    media_type: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """`path` as Starlette writes it. `role` is the least that may ask; None: everybody, without showing a key.
    `problems` are the statuses of problem documents beyond those that every operation has.
    """

    method: str
    path: str
    endpoint: Endpoint
    tag: str
    answers: Mapping[int, Answer]
    role: Role | None = Role.READONLY
    query: type[msgspec.Struct] = Nothing
    headers: Mapping[str, str] = field(default_factory=dict)  # by name: what they are for
    body: Body | None = None
    problems: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The name of its function, under which generated clients know it."""
        return self.endpoint.__name__

    @property
    def words(self) -> str:
        """What its function says of itself."""
        return inspect.getdoc(self.endpoint) or ""


def routes(operations: Iterable[Operation]) -> list[Route]:
    """One route a path, so that a refusal of any other method names all that are possible."""
    paths: dict[str, dict[str, Operation]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method] = each
    return [Route(path, _dispatch(methods), methods=list(methods)) for path, methods in paths.items()]


def _dispatch(methods: dict[str, Operation]) -> Callable[[Request], Any]:
    async def dispatch(request: Request) -> Response:
        operation = methods["GET" if request.method == "HEAD" else request.method]
        if operation.role is not None:
            _insist(request, operation.role)
        query = asked(request, operation.query, site(request).levels)
        endpoint = operation.endpoint
        if inspect.iscoroutinefunction(endpoint):
            answer = await endpoint(request, query)
        else:
            answer = await run_in_threadpool(endpoint, request, query)
        assert isinstance(answer, Response)
        return answer

    return dispatch


def _insist(request: Request, role: Role) -> None:
    who = caller(request)
    if not who.role.includes(role):
        raise ProblemError(403, f"{who.name!r} has the role {who.role}; this needs {role}.", role=who.role, needs=role)


def hints(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The annotations of a struct, resolved."""
    return get_type_hints(struct, include_extras=True)
