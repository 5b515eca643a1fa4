"""Checks the rules of `routes` before any document is routed. Each `when` is JSONLogic (https://jsonlogic.com)."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from llm_scheduler.jobs.config.model import Config, Rule
from llm_scheduler.jobs.config.problem import ConfigProblem, nearest

# What a rule may read besides the document's own keys, and the keys of each.
SIGNALS: dict[str, tuple[str, ...]] = {
    "geo": ("country", "city", "latitude", "longitude", "confidence"),
    "industry": ("section", "division", "label", "confidence"),
    "language": (),
    "priority": (),
    "size": (),
    "source": (),
    "file": (),
}
_MAX_PARTS = 1000  # of one condition; the longest that people write have about fifty


def rule_problems(config: Config) -> Iterator[ConfigProblem]:
    """Everything that is wrong with the rules of `config`."""
    if not config.routes:
        return
    from datalogic_py import Engine  # imported late: 14 ms and 3 MB, which only a configuration with rules needs

    engine = Engine()
    seen: dict[str, int] = {}
    for index, rule in enumerate(config.routes):
        if rule.name in seen:
            allowed = f"a name of its own (routes.{seen[rule.name]} has it)"
            yield ConfigProblem(f"routes.{index}.name", json.dumps(rule.name), allowed)
        seen.setdefault(rule.name, index)
        yield from _condition_problems(engine, index, rule)
        yield from _target_problems(config, index, rule)


def _condition_problems(engine: Any, index: int, rule: Rule) -> Iterator[ConfigProblem]:
    key = f"routes.{index}.when"
    if _count_parts(rule.when) > _MAX_PARTS:
        yield ConfigProblem(key, f"the condition of {rule.name!r}", f"a rule of at most {_MAX_PARTS} parts")
        return
    errors = [found for found in engine.check(rule.when) if found["severity"] == "error"]
    for error in errors:
        near = nearest(error["operator"] or "", (operator["name"] for operator in engine.operators()), 0.5)
        place = key + error["pointer"].replace("/", ".")
        yield ConfigProblem(place, f"{error['message']} (rule {rule.name!r})", "JSONLogic", near)
    if errors:
        return
    facts = engine.compile(rule.when).facts()
    if not facts["deterministic"]:
        allowed = "operators whose answer depends on the document alone, so that a route can be explained later"
        yield ConfigProblem(key, f"{', '.join(facts['operators'])} (rule {rule.name!r})", allowed)
    for path in facts["reads"]:
        known = SIGNALS.get(path[0], ())
        if len(path) > 1 and known and path[1] not in known:
            allowed = f"one of {', '.join(f'{path[0]}.{part}' for part in known)}"
            yield ConfigProblem(key, f"{'.'.join(path)} (rule {rule.name!r})", allowed, nearest(path[1], known, 0.5))


def _target_problems(config: Config, index: int, rule: Rule) -> Iterator[ConfigProblem]:
    for name, known, where in (
        ("priority", config.queue.priority_levels, "queue.priority_levels"),
        ("queue", config.queue.priority_levels, "queue.priority_levels"),
        ("handler", sorted(config.handlers), "handlers"),
        ("schema", sorted(config.intake.schemas), "intake.schemas"),
    ):
        value = getattr(rule.then, name)
        if value is not None and value not in known:
            yield unknown_name(f"routes.{index}.then.{name}", value, known, where)


def unknown_name(key: str, value: str, known: Sequence[str], where: str) -> ConfigProblem:
    """The problem of a name that is not among the names `known`, which are defined in the key `where`."""
    allowed = f"a name in {where} ({', '.join(known) or 'it is empty'})"
    return ConfigProblem(key, json.dumps(value), allowed, nearest(value, known))


def _count_parts(condition: Any) -> int:
    inner = condition.values() if isinstance(condition, dict) else condition if isinstance(condition, list) else ()
    return 1 + sum(_count_parts(part) for part in inner)
