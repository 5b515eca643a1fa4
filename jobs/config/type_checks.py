"""Checks the keys, types and bounds of a configuration against the JSON Schema of `Config`."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import jsonschema_rs
import msgspec

from llm_scheduler.jobs.config.mask import SECRET_KEYS
from llm_scheduler.jobs.config.model import Config
from llm_scheduler.jobs.config.problem import ConfigProblem, nearest

# No value under one of these keys is shown. `slack` and `api_keys` hold objects, but a file may put a secret there.
_HIDDEN_KEYS = (*SECRET_KEYS, "api_keys", "slack", "redis_url")
_URL_PASSWORD = re.compile(r"//[^/\s]*@")


@cache
def _schema() -> dict[str, Any]:
    return msgspec.json.schema(Config)


def type_problems(raw: dict[str, Any]) -> Iterator[ConfigProblem]:
    """Every unknown or missing key, wrong type and wrong value in a parsed file."""
    for error in jsonschema_rs.validator_for(_schema()).iter_errors(raw):
        kind = error.kind
        path = [str(part) for part in error.instance_path]
        node = _schema_at(error.schema_path[:-1])
        if isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
            known = sorted(node.get("properties", {}))
            for key in kind.unexpected:
                near = nearest(key, known)
                inner = error.instance.get(key) if isinstance(error.instance, dict) else None
                value = f"an unknown key (value {_shown([*path, key, near or key], inner)})"
                yield ConfigProblem(".".join([*path, key]), value, ", ".join(known), near)
        elif isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
            allowed = _allowed(node["properties"][kind.property])
            yield ConfigProblem(".".join([*path, kind.property]), "nothing", allowed)
        else:
            options = [option for option in node.get("enum", []) if isinstance(option, str)]
            near = nearest(error.instance, options) if isinstance(error.instance, str) else None
            yield ConfigProblem(".".join(path) or "(file)", _shown(path, error.instance), _allowed(node), near)


def _schema_at(path: list[str | int]) -> dict[str, Any]:
    node: Any = _schema()
    for part in path:
        node = node[part]
        while isinstance(node, dict) and "$ref" in node:
            node = _schema()["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node if isinstance(node, dict) else {}


def _shown(path: Sequence[str], value: Any) -> str:
    """`value` as a problem shows it: hidden under the key of a secret, even a misspelt one."""
    text = json.dumps(_masked(path, value), ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _masked(path: Sequence[str], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked([*path, key], inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(path, inner) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    if any(nearest(key.lower(), _HIDDEN_KEYS, 0.75) for key in path):
        return "(hidden)"
    return _URL_PASSWORD.sub("//(hidden)@", value) if isinstance(value, str) else value


_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "null": "null",
    "object": "an object",
    "array": "a list",
}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "minLength": "of length at least",
    "minItems": "with items, at least",
    "pattern": "matching",
}


def _allowed(node: dict[str, Any]) -> str:
    """The values that a node of the schema allows, in words."""
    if "anyOf" in node:
        return " or ".join(_allowed(option) for option in node["anyOf"])
    if "$ref" in node:
        return "an object"
    if "enum" in node:
        return " or ".join(json.dumps(value) for value in node["enum"])
    text = _TYPES.get(node.get("type", ""), "another value")
    if "enum" in node.get("items", {}):
        text += f" of {_allowed(node['items'])}"
    bounds = [f"{words} {node[key]}" for key, words in _BOUNDS.items() if key in node]
    return " ".join([text, " and ".join(bounds)]).strip()
