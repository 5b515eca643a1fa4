"""JSON Schemas that documents are checked against. They are compiled once and never fetch other schemas."""

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any, NoReturn

import jsonschema_rs

_MAX_PROBLEMS = 20  # reported for one document
_MAX_MESSAGE = 300  # characters of one problem


class SchemaProblem(Exception):
    """A schema cannot be used. The message names the file and the reason."""


def load_schemas(files: Mapping[str, str]) -> dict[str, "Schema"]:
    """The schemas in `files` (name to path). Raises `SchemaProblem`."""
    return {name: Schema.load(name, path) for name, path in files.items()}


class Schema:
    """A compiled JSON Schema (https://json-schema.org, drafts 4 to 2020-12)."""

    def __init__(self, name: str, schema: Any) -> None:
        """Raises `SchemaProblem` for an invalid schema, and for one that refers to another document."""
        try:
            self._validator = jsonschema_rs.validator_for(schema, retriever=_reject_reference)
        except (ValueError, TypeError) as error:
            raise SchemaProblem(f"{name}: {str(error).splitlines()[0]}") from None

    @classmethod
    def load(cls, name: str, path: str) -> "Schema":
        """The schema in a file. Raises `SchemaProblem`."""
        try:
            with open(path, encoding="utf-8-sig") as file:
                schema = json.load(file)
        except OSError as error:
            raise SchemaProblem(f"{name}: {path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise SchemaProblem(f"{name}: {path} is not JSON: {error}") from None
        if not isinstance(schema, dict | bool):
            raise SchemaProblem(f"{name}: {path} is not a JSON Schema but {type(schema).__name__}")
        return cls(name, schema)

    def problems(self, value: Any) -> list[str]:
        """Each violation by `value`, with its place as a JSON pointer (RFC 6901); empty if `value` is valid."""
        try:
            first = islice(self._validator.iter_errors(value), _MAX_PROBLEMS)
            return [f"{_pointer(error.instance_path)}: {error.message[:_MAX_MESSAGE]}" for error in first]
        except (ValueError, TypeError, OverflowError) as error:
            return [f"/: it cannot be checked: {error}"]


def _pointer(path: list[str | int]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path) or "/"


def _reject_reference(uri: str) -> NoReturn:
    raise ValueError(f"a schema may refer only to itself, not to {uri}")
