"""The schema gate: JSON Schemas by name, compiled once, that fetch nothing from anywhere."""

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any, NoReturn

import jsonschema_rs

_MOST = 20  # problems of one document that are named
_LONGEST = 300  # characters of one


class SchemaProblem(Exception):
    """A schema that can't be used; the message says which file and why."""


def load_schemas(files: Mapping[str, str]) -> dict[str, "Schema"]:
    """The schemas in `files` (name to path). Raises `SchemaProblem`."""
    return {name: Schema.load(name, path) for name, path in files.items()}


class Schema:
    """A compiled JSON Schema (https://json-schema.org, drafts 4 to 2020-12)."""

    def __init__(self, name: str, schema: Any) -> None:
        """Raises `SchemaProblem` for what is no schema, or refers to anything outside of itself."""
        self.name = name
        try:
            self._validator = jsonschema_rs.validator_for(schema, retriever=_refuse)
        except (ValueError, TypeError) as error:
            raise SchemaProblem(f"{name}: {str(error).splitlines()[0]}") from None

    @classmethod
    def load(cls, name: str, path: str) -> "Schema":
        """The schema in a file. Raises `SchemaProblem`."""
        try:
            with open(path, encoding="utf-8-sig") as file:
                schema = json.load(file)
        except OSError as error:
            raise SchemaProblem(f"{name}: {path} can't be read: {error.strerror}") from None
        except ValueError as error:
            raise SchemaProblem(f"{name}: {path} is not JSON: {error}") from None
        if not isinstance(schema, dict | bool):
            raise SchemaProblem(f"{name}: {path} is not a JSON Schema but {type(schema).__name__}")
        return cls(name, schema)

    def problems(self, value: Any) -> list[str]:
        """What of `value` does not fit, each with its place as a JSON pointer (RFC 6901); empty when all of it does."""
        try:
            errors = self._validator.iter_errors(value)
            first = islice(errors, _MOST)
            return [f"{_pointer(error.instance_path)}: {error.message[:_LONGEST]}" for error in first]
        except (ValueError, TypeError, OverflowError) as error:
            return [f"/: it can't be checked: {error}"]


def _pointer(path: list[str | int]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path) or "/"


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"a schema may refer only to itself, not to {uri}")
