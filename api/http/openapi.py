"""The OpenAPI 3.1 document of the API, made from its operations and their types (https://spec.openapis.org/oas/v3.1.0).

Nothing of it is written by hand: paths, parameters and roles come from `Operation`s, schemas from msgspec.
"""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from llm_scheduler.api.http.operation import Answer, Body, Operation, hints
from llm_scheduler.api.http.problems import MEDIA_TYPE, Problem
from llm_scheduler.api.http.query import LEVELS, plain
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.document import ID_PATTERN

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)}")
_ID = {"type": "string", "pattern": f"^{ID_PATTERN.pattern}$"}
# Of every operation: a wrong query, a fault of the API's own; and, of those that ask who is there, a stranger.
_ALWAYS = (422, 500)
_ASKED = (401, 403, 429)
_TAGS = {
    "jobs": "Documents: hand them in, find them, see what became of them, try again or give up.",
    "fleet": "What runs, how much waits, and who writes what.",
    "condition": "How the system is, for people, balancers and Prometheus.",
    "access": "Who may do what, and who did.",
}


def document(operations: Sequence[Operation], levels: Sequence[str], *, secured: bool = True) -> dict[str, Any]:
    """The document for an API with these priority levels. `secured`: whether callers have to show a key or a token."""
    types = list(_types(operations))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(map(_named, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, by_type, secured=secured)
    used = {each.tag for each in operations}
    made = {
        "openapi": "3.1.0",
        "info": {
            "title": "LLM JSON scheduler",
            "version": __version__,
            "summary": "A drop folder for LLM output that never loses a file.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": words} for name, words in _TAGS.items() if name in used],
        "paths": paths,
        "components": {"schemas": components, **(_SECURITY if secured else {})},
    }
    filled: dict[str, Any] = _with_levels(made, list(levels))
    return filled


_SECURITY = {
    "securitySchemes": {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    }
}


def _types(operations: Iterable[Operation]) -> Iterable[Any]:
    seen = {_named(Problem)}
    yield Problem
    for each in operations:
        for type_ in (
            *(type_ for answer in each.answers.values() for type_ in _options(answer)),
            *(each.body.content.values() if each.body else ()),
        ):
            if type_ is not None and not isinstance(type_, dict) and _named(type_) not in seen:
                seen.add(_named(type_))
                yield type_


def _options(answer: Answer) -> tuple[Any, ...]:
    return answer.type if isinstance(answer.type, tuple) else (answer.type,)


def _named(type_: Any) -> str:
    return f"{getattr(type_, '__module__', '')}.{type_!r}"


def _operation(each: Operation, schemas: dict[str, Any], *, secured: bool) -> dict[str, Any]:
    summary, _, rest = each.words.partition("\n")
    role = f"\n\nNeeds the role `{each.role}`." if each.role and secured else ""
    made: dict[str, Any] = {
        "operationId": each.name,
        "summary": summary.rstrip("."),
        "description": f"{summary}{rest}{role}",
        "tags": [each.tag],
        "parameters": [*_in_path(each.path), *_in_headers(each), *_in_query(each)],
        "responses": {
            **{str(status): _answer(answer, schemas) for status, answer in sorted(each.answers.items())},
            **{str(status): _problem(status) for status in _problems(each)},
        },
    }
    if each.body:
        made["requestBody"] = _body(each.body, schemas)
    if secured:
        made["security"] = [{"key": []}, {"token": []}] if each.role else []
    return made


def _problems(each: Operation) -> list[int]:
    asked = _ASKED if each.role else (403,)
    in_path = (404,) if _PARAMETER.search(each.path) else ()
    body = (400, 413, 415) if each.body else ()
    return sorted({*_ALWAYS, *asked, *in_path, *body, *each.problems} - set(each.answers))


def _in_path(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _ID if name == "id" else {"type": "string", LEVELS: True},
        }
        for name in _PARAMETER.findall(path)
    ]


def _in_headers(each: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "description": words, "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"}}
        for name, words in each.headers.items()
    ]


def _in_query(each: Operation) -> list[dict[str, Any]]:
    if not hints(each.query):
        return []
    _, components = msgspec.json.schema_components([each.query])
    known = components[each.query.__name__]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in known.get("required", ()),
            "schema": {key: value for key, value in schema.items() if key not in ("description", "title")},
            **({"description": schema["description"]} if "description" in schema else {}),
        }
        for name, schema in ((name, plain(schema, components)) for name, schema in known["properties"].items())
    ]


def _body(body: Body, schemas: dict[str, Any]) -> dict[str, Any]:
    return {
        "required": body.required,
        "content": {
            media: {"schema": type_ if isinstance(type_, dict) else schemas[_named(type_)]}
            for media, type_ in body.content.items()
        },
    }


def _answer(answer: Answer, schemas: dict[str, Any]) -> dict[str, Any]:
    options = [schemas[_named(option)] for option in _options(answer) if option is not None]
    content = {"schema": options[0] if len(options) == 1 else {"anyOf": options}} if options else {}
    return {"description": answer.description, "content": {answer.media_type: content}}


def _problem(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name=Problem.__name__)}}},
    }


def _with_levels(part: Any, levels: list[str]) -> Any:
    """The document with the levels in all places that are marked for them."""
    if isinstance(part, dict):
        made = {key: _with_levels(value, levels) for key, value in part.items() if key != LEVELS}
        return {**made, "enum": levels} if LEVELS in part else made
    return [_with_levels(each, levels) for each in part] if isinstance(part, list) else part
