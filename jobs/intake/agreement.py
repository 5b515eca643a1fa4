"""Repair by three libraries. A result counts only if two of them reach it independently.

Measured: each library alone turned more than half of 282 answers without JSON into data.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import json_repair
import jsonmend
import msgspec
from parse_broken_json import ParseResult, parse_broken_json_result

from llm_scheduler.jobs.intake.values import is_same
from llm_scheduler.jobs.time_limit import OutOfTime, TimeLimit

_FIRST = "parse-broken-json"
_OTHERS: dict[str, Callable[..., Any]] = {"jsonmend": jsonmend.loads, "json-repair": json_repair.loads}
_SECONDS = 0.6  # for each library
_SLUG = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class AgreedRepair:
    """The result that two libraries agree on. `text` is its JSON, with numbers as they were written.

    `tools`: (name, release) of both. `complete`: the text did not end too early. `changes`: (index, name) of each
    change.
    """

    value: Any
    text: bytes
    tools: tuple[tuple[str, str], ...]
    complete: bool
    changes: tuple[tuple[int, str], ...]


def agree(text: str) -> AgreedRepair | None:
    """The result of two of the three libraries for `text`; None if no two agree.

    parse-broken-json must be one of them: only it lists its changes, and what the other two agree on without it was
    wrong more often than right. Main thread only.
    """
    first = _attempt(lambda: parse_broken_json_result(text, multiple="first", parse_float=Decimal))
    if not isinstance(first, ParseResult) or not first.found:
        return None
    for tool, loads in _OTHERS.items():
        value = _attempt(partial(loads, text, skip_json_loads=True))
        if value is not _NOTHING and is_same(first.value, value):
            return _agreed(first, ((_FIRST, _version(_FIRST)), (tool, _version(tool))))
    return None


def _agreed(result: ParseResult, tools: tuple[tuple[str, str], ...]) -> AgreedRepair | None:
    try:
        text = encode(result.value)
    except (ValueError, TypeError, RecursionError):
        return None
    changes = tuple((each.position, _SLUG.sub("_", each.message.lower()).strip("_")) for each in result.repairs)
    return AgreedRepair(result.value, text, tools, result.complete, changes)


_NOTHING = object()


def _attempt(attempt: Callable[[], Any]) -> Any:
    """The result of `attempt`; `_NOTHING` when it takes too long or raises any exception."""
    try:
        with TimeLimit(_SECONDS):
            return attempt()
    except (Exception, OutOfTime):
        return _NOTHING


_version = cache(version)
_encoder = msgspec.json.Encoder(decimal_format="number")


def encode(value: Any) -> bytes:
    """`value` as JSON text, a Decimal with its original digits. Raises ValueError for a lone surrogate."""
    text = _encoder.encode(value)
    text.decode()
    return text
