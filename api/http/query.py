"""Query parameters: taken by name, checked by type, and refused with the parameter, its value and what is allowed."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Never, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request

from llm_scheduler.api.http.problems import ProblemError

# A parameter that is one of `queue.priority_levels`, which only the configuration tells.
LEVELS = "x-priority-level"
Level = Annotated[str, Meta(extra_json_schema={LEVELS: True})]

T = TypeVar("T", bound=msgspec.Struct)

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_PLACE = re.compile(r" - at `\$\.(\w+)")


def asked(request: Request, query: type[T], levels: Sequence[str]) -> T:
    """The query of `request` as a `query`: its parameters only, each once. Raises a 422."""
    schemas = _schemas(query)
    found: dict[str, str | int | float | bool] = {}
    for name, value in request.query_params.multi_items():
        if name not in schemas:
            words = ", ".join(schemas) if schemas else "none"
            raise ProblemError(
                422,
                f"{name[:100]!r} is not a parameter of {request.url.path}. Allowed: {words}.",
                parameter=name[:100],
                value=value[:100],
                allowed=list(schemas),
            )
        if name in found:
            refuse(name, value, "one value, not several")
        if schemas[name].get("format") == "date-time":
            value = value.replace(" ", "+")  # which nobody escapes in +01:00
        found[name] = _value(name, value, schemas[name], levels)
    try:
        return msgspec.convert(found, query)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        name = place[1] if place else next(iter(found), "")
        if name not in found:
            raise ProblemError(422, f"The query is not complete: {error}.") from None
        refuse(name, request.query_params[name], described(schemas[name], levels))


def _value(name: str, value: str, schema: dict[str, Any], levels: Sequence[str]) -> str | int | float | bool:
    """The value as JSON would have it. Not as msgspec guesses it from text: it takes " 5 ", "+5", "TRUE" and "null"."""
    kind = schema.get("type")
    if LEVELS in schema and value not in levels:
        refuse(name, value, list(levels))
    if kind == "integer" and _WHOLE.fullmatch(value):
        return int(value)
    if kind == "number" and _NUMBER.fullmatch(value):
        return float(value)
    if kind == "boolean" and value in ("true", "false"):
        return value == "true"
    if kind in ("integer", "number", "boolean"):
        refuse(name, value, described(schema, levels))
    return value


def described(schema: dict[str, Any], levels: Sequence[str]) -> str | list[str]:
    """What a JSON Schema of one parameter allows, in words or as a list."""
    if LEVELS in schema:
        return list(levels)
    if "enum" in schema:
        return [str(each) for each in schema["enum"]]
    kind = schema.get("type")
    if kind == "integer":
        return f"a whole number from {schema.get('minimum', 0)} to {schema.get('maximum', 'any')}"
    if kind == "number":
        return f"a number from {schema.get('minimum', 0)} to {schema.get('maximum', 'any')}"
    if kind == "boolean":
        return ["true", "false"]
    return str(schema.get("description") or "text")


def refuse(name: str, value: str, allowed: str | list[str]) -> Never:
    """Raise the problem for a bad value."""
    words = allowed if isinstance(allowed, str) else ", ".join(allowed)
    raise ProblemError(
        422,
        f"{name}={value[:100]!r} is not allowed. Allowed: {words}.",
        parameter=name,
        value=value[:100],
        allowed=allowed,
    )


@cache
def _schemas(query: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """The JSON Schema of each parameter."""
    _, components = msgspec.json.schema_components([query])
    properties = components[query.__name__]["properties"]
    return {name: plain(schema, components) for name, schema in properties.items()}


def plain(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """`schema` without references and without `null`, which a query can't say."""
    made = dict(schema)
    if "anyOf" in made:
        options = [each for each in made.pop("anyOf") if each.get("type") != "null"]
        made = {**plain(options[0], components), **made} if len(options) == 1 else {**made, "anyOf": options}
    if "$ref" in made:
        made = {**components[made.pop("$ref").rpartition("/")[2]], **made}
    if made.get("default", ...) is None:
        del made["default"]
    return made
