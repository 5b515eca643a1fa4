"""The OpenAPI document without its prose is part of the product: generated clients are built from it.

`data/openapi_components.json` holds the names of the components, their schemas, and for every operation its parameters,
request body and answers. A change there is a change for every client, so it must be deliberate.
"""

import json
from pathlib import Path
from typing import Any

from llm_scheduler.api.app import OPERATIONS
from llm_scheduler.api.http.openapi import document

PINNED = Path(__file__).parent / "data" / "openapi_components.json"
PROSE = ("description", "summary")


def without_prose(part: Any) -> Any:
    """`part` without texts for people; a schema's property that happens to be called `summary` stays."""
    if isinstance(part, dict):
        return {
            key: without_prose(value) for key, value in part.items() if not (key in PROSE and isinstance(value, str))
        }
    return [without_prose(each) for each in part] if isinstance(part, list) else part


def outline(made: dict[str, Any]) -> dict[str, Any]:
    """What is pinned of a document, as JSON reads it back."""
    schemas = made["components"]["schemas"]
    found = {
        "component_names": sorted(schemas),
        "components": {name: without_prose(schema) for name, schema in schemas.items()},
        "security_schemes": made["components"]["securitySchemes"],
        "operations": {
            f"{method.upper()} {path}": without_prose(operation)
            for path, methods in made["paths"].items()
            for method, operation in methods.items()
        },
    }
    read_back: dict[str, Any] = json.loads(json.dumps(found))
    return read_back


def test_components_and_operations_are_as_pinned() -> None:
    pinned = json.loads(PINNED.read_text())
    found = outline(document(OPERATIONS, ["high", "medium", "low"], secured=True))
    assert found["component_names"] == pinned["component_names"]
    for part in ("components", "operations"):
        assert sorted(found[part]) == sorted(pinned[part])
        for name, schema in pinned[part].items():
            assert found[part][name] == schema, name
    assert found == pinned
