"""The OpenAPI 3.1 document of the API (https://spec.openapis.org/oas/v3.1.0), generated from its operations.

Paths, parameters and roles come from the `Operation`s, schemas from msgspec, texts from docstrings.
tests/test_openapi_components.py pins everything but the texts.
"""

import inspect
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.http.problems import MEDIA_TYPE, Problem
from llm_scheduler.api.http.query import LEVEL_MARK, parameter_schemas
from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.document import ID_PATTERN

# Class name -> component name, where the two differ. Component names are public: clients are generated from them.
COMPONENT_NAMES = {
    "AcceptedJob": "JobAccepted",
    "AcceptedJobs": "JobsAccepted",
    "AccessToken": "TokenMade",
    "AuditEntry": "CallShown",
    "AuditPage": "AuditShown",
    "BulkCommand": "ManyAccepted",
    "ConfigView": "ConfigShown",
    "CrashReport": "Evidence",
    "DaemonView": "DaemonShown",
    "DiskSpace": "DiskShown",
    "DocumentWarning": "Warned",
    "DurationSummary": "TimesShown",
    "FlushSchedule": "FlushShown",
    "HostView": "HostShown",
    "JobCommand": "Asked",
    "JobSummary": "JobShown",
    "ProducerView": "ProducerShown",
    "QueueStats": "QueueCounted",
    "QueueView": "QueueShown",
    "RestartCommand": "RestartAsked",
    "RetrySchedule": "RetriesShown",
    "TokenRequest": "TokenAsked",
    "WorkerView": "WorkerShown",
}

_REF = "#/components/schemas/{name}"
_PATH_PARAMETER = re.compile(r"{(\w+)}")
_ID = {"type": "string", "pattern": f"^{ID_PATTERN.pattern}$"}
_HEADER = {"type": "string", "pattern": "^[!-~]{1,255}$"}
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name=Problem.__name__)}}}
# Statuses of every operation: a wrong query, a fault of the API. And of those that need a role.
_ALWAYS = (422, 500)
_WITH_ROLE = (401, 403, 429)
_TAGS = {
    "jobs": "Documents: submit them, find them, follow them, retry or cancel them.",
    "fleet": "What runs, how much waits, and which producer writes what.",
    "condition": "Health of the system: for people, load balancers and Prometheus.",
    "access": "Tokens, and the audit log.",
}
_SECURITY = {
    "securitySchemes": {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    }
}


def document(operations: Sequence[Operation], levels: Sequence[str], *, secured: bool = True) -> dict[str, Any]:
    """The document for an API with these priority levels. `secured`: whether callers need a key or a token."""
    types = _types(operations)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, by_type, secured=secured)
    made = {
        "openapi": "3.1.0",
        "info": {
            "title": "LLM JSON scheduler",
            "version": __version__,
            "summary": "A drop folder for LLM output that never loses a file.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": {_public(name): {**schema, "title": _public(name)} for name, schema in components.items()},
            **(_SECURITY if secured else {}),
        },
    }
    finished: dict[str, Any] = _finished(made, list(levels))
    return finished


def _types(operations: Iterable[Operation]) -> list[type]:
    """Every type that an answer or a body names, each once."""
    found: dict[type, None] = {Problem: None}
    for each in operations:
        in_answers = [type_ for answer in each.answers.values() for type_ in answer.types]
        in_body = [type_ for type_ in each.body.content.values() if isinstance(type_, type)] if each.body else []
        found |= dict.fromkeys((*in_answers, *in_body))
    return list(found)


def _operation(each: Operation, schemas: dict[type, Any], *, secured: bool) -> dict[str, Any]:
    summary, _, rest = (inspect.getdoc(each.endpoint) or "").partition("\n")
    role = f"\n\nNeeds the role `{each.role}`." if each.role and secured else ""
    in_headers = [
        {"name": name, "in": "header", "description": text, "schema": _HEADER} for name, text in each.headers.items()
    ]
    made: dict[str, Any] = {
        "operationId": each.endpoint.__name__,  # generated clients name the operation by it
        "summary": summary.rstrip("."),
        "description": f"{summary}{rest}{role}",
        "tags": [each.tag],
        "parameters": [*_in_path(each.path), *in_headers, *_in_query(each)],
        "responses": {
            **{str(status): _answer(answer, schemas) for status, answer in sorted(each.answers.items())},
            **{
                str(status): {"description": HTTPStatus(status).phrase, "content": _PROBLEM}
                for status in _problems(each)
            },
        },
    }
    if each.body:
        made["requestBody"] = {
            "required": each.body.required,
            "content": {
                media: {"schema": type_ if isinstance(type_, dict) else schemas[type_]}
                for media, type_ in each.body.content.items()
            },
        }
    if secured:
        made["security"] = [{"key": []}, {"token": []}] if each.role else []
    return made


def _problems(each: Operation) -> list[int]:
    access = _WITH_ROLE if each.role else (403,)
    in_path = (404,) if _PATH_PARAMETER.search(each.path) else ()
    body = (400, 413, 415) if each.body else ()
    redis = (503,) if each.needs_redis else ()
    return sorted({*_ALWAYS, *access, *in_path, *body, *redis, *each.problems} - set(each.answers))


def _in_path(path: str) -> list[dict[str, Any]]:
    level = {"type": "string", LEVEL_MARK: True}
    return [
        {"name": name, "in": "path", "required": True, "schema": _ID if name == "id" else level}
        for name in _PATH_PARAMETER.findall(path)
    ]


def _in_query(each: Operation) -> list[dict[str, Any]]:
    required = {field.name for field in msgspec.structs.fields(each.query) if field.required}
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": {key: value for key, value in schema.items() if key not in ("description", "title")},
            **({"description": schema["description"]} if "description" in schema else {}),
        }
        for name, schema in parameter_schemas(each.query).items()
    ]


def _answer(answer: Answer, schemas: dict[type, Any]) -> dict[str, Any]:
    options = [schemas[type_] for type_ in answer.types]
    content = {"schema": options[0] if len(options) == 1 else {"anyOf": options}} if options else {}
    return {"description": answer.description, "content": {answer.media_type: content}}


def _public(class_name: str) -> str:
    return COMPONENT_NAMES.get(class_name, class_name)


def _finished(part: Any, levels: list[str]) -> Any:
    """The document with the levels in all places marked for them, and with references to public component names."""
    if isinstance(part, dict):
        made = {key: _finished(value, levels) for key, value in part.items() if key != LEVEL_MARK}
        if "$ref" in made:
            made["$ref"] = _REF.format(name=_public(made["$ref"].rpartition("/")[2]))
        return {**made, "enum": levels} if LEVEL_MARK in part else made
    return [_finished(each, levels) for each in part] if isinstance(part, list) else part
