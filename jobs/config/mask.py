"""The configuration without secrets, to be shown."""

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from llm_scheduler.jobs.config.model import Config

MASK = "***"
SECRET_KEYS = ("password", "admin", "readonly", "jwt_secret", "encryption_key", "webhook_url")


def masked(config: Config) -> dict[str, Any]:
    """The configuration as built-in types, with `***` for each secret."""
    hidden: dict[str, Any] = _hide(msgspec.to_builtins(config))
    return hidden


def _hide(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _hide(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_hide(inner, key) for inner in value]
    if isinstance(value, str) and value:
        if key in SECRET_KEYS:
            return MASK
        if key == "redis_url":
            return _hide_in_url(value)
    return value


def _hide_in_url(url: str) -> str:
    """The address without its passwords, before the host and in the query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    place = parts.netloc
    if "@" in place:
        user, _, host = place.rpartition("@")
        name, colon, _ = user.partition(":")
        place = f"{name}{colon}{MASK if colon else ''}@{host}"
    query = urlencode(
        [(name, MASK if name.endswith("password") else value) for name, value in parse_qsl(parts.query)], safe="*/"
    )
    return urlunsplit((parts.scheme, place, parts.path, query, ""))
