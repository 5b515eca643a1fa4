"""Query parameters: known by name, checked by type. A refusal names the parameter, its value and what is allowed."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Never, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request

from llm_scheduler.api.http.problems import ProblemError

# Marks a parameter whose values are `queue.priority_levels`: only the configuration knows them.
LEVEL_MARK = "x-priority-level"
Level = Annotated[str, Meta(extra_json_schema={LEVEL_MARK: True})]

T = TypeVar("T", bound=msgspec.Struct)

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_FIELD_IN_ERROR = re.compile(r" - at `\$\.(\w+)")  # msgspec's way to name the field


def parse_query(request: Request, query: type[T], levels: Sequence[str]) -> T:
    """The query string of `request` as a `query`. Raises a 422 for an unknown, repeated or bad parameter."""
    schemas = parameter_schemas(query)
    found: dict[str, str | int | float] = {}
    for name, value in request.query_params.multi_items():
        if name not in schemas:
            allowed = ", ".join(schemas) if schemas else "none"
            raise ProblemError(
                422,
                f"{name[:100]!r} is not a parameter of {request.url.path}. Allowed: {allowed}.",
                parameter=name[:100],
                value=value[:100],
                allowed=list(schemas),
            )
        if name in found:
            refuse(name, value, "one value, not several")
        if schemas[name].get("format") == "date-time":
            value = value.replace(" ", "+")  # an unescaped + in a zone such as +01:00 arrives as a space
        found[name] = _value(name, value, schemas[name], levels)
    try:
        return msgspec.convert(found, query)
    except msgspec.ValidationError as error:
        place = _FIELD_IN_ERROR.search(str(error))
        name = place[1] if place else next(iter(found), "")
        if name not in found:
            raise ProblemError(422, f"The query is not complete: {error}.") from None
        refuse(name, request.query_params[name], allowed_values(schemas[name], levels))


def _value(name: str, value: str, schema: Mapping[str, Any], levels: Sequence[str]) -> str | int | float:
    """The value as JSON would have it. msgspec's own conversion from text also takes " 5 ", "+5", "TRUE" and "null"."""
    kind = schema.get("type")
    if LEVEL_MARK in schema and value not in levels:
        refuse(name, value, list(levels))
    if kind == "integer" and _WHOLE.fullmatch(value):
        return int(value)
    if kind == "number" and _NUMBER.fullmatch(value):
        return float(value)
    if kind in ("integer", "number"):
        refuse(name, value, allowed_values(schema, levels))
    return value


def allowed_values(schema: Mapping[str, Any], levels: Sequence[str]) -> str | list[str]:
    """What the JSON Schema of a parameter allows: a text or a list."""
    if LEVEL_MARK in schema:
        return list(levels)
    if "enum" in schema:
        return [str(each) for each in schema["enum"]]
    kind = schema.get("type")
    if kind in ("integer", "number"):
        noun = "a whole number" if kind == "integer" else "a number"
        return f"{noun} from {schema.get('minimum', 0)} to {schema.get('maximum', 'any')}"
    return str(schema.get("description") or "text")


def refuse(name: str, value: str, allowed: str | list[str]) -> Never:
    """Raise the 422 for a bad value."""
    text = allowed if isinstance(allowed, str) else ", ".join(allowed)
    raise ProblemError(
        422,
        f"{name}={value[:100]!r} is not allowed. Allowed: {text}.",
        parameter=name,
        value=value[:100],
        allowed=allowed,
    )


@cache
def parameter_schemas(query: type[msgspec.Struct]) -> Mapping[str, dict[str, Any]]:
    """The JSON Schema of each parameter, by name."""
    _, components = msgspec.json.schema_components([query])
    properties = components[query.__name__]["properties"]
    return {name: _inlined(schema, components) for name, schema in properties.items()}


def _inlined(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """`schema` without references, and without `null`, which a query string can't express."""
    made = dict(schema)
    if "anyOf" in made:
        options = [each for each in made.pop("anyOf") if each.get("type") != "null"]
        made = {**_inlined(options[0], components), **made} if len(options) == 1 else {**made, "anyOf": options}
    if "$ref" in made:
        made = {**components[made.pop("$ref").rpartition("/")[2]], **made}
    if made.get("default", ...) is None:
        del made["default"]
    return made
