"""Checks the rules of `routes` before anything is routed by them: each `when` is JSONLogic (https://jsonlogic.com)."""

import difflib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from llm_scheduler.jobs.config.model import Config, Rule
from llm_scheduler.jobs.config.problem import Problem

# What a rule may ask for beside the document's own keys.
SIGNALS: dict[str, tuple[str, ...]] = {
    "geo": ("country", "city", "latitude", "longitude", "confidence"),
    "industry": ("section", "division", "label", "confidence"),
    "language": (),
    "priority": (),
    "size": (),
    "source": (),
    "file": (),
}
_NODES = 1000  # of one rule; the longest that people write have some fifty


def rule_problems(config: Config) -> Iterator[Problem]:
    """Everything that is wrong with the rules of `config`, each with its place."""
    if not config.routes:
        return
    from datalogic_py import Engine  # 14 ms and 3 MB, which only those pay who have rules

    engine = Engine()
    seen: dict[str, int] = {}
    for index, rule in enumerate(config.routes):
        if rule.name in seen:
            yield Problem(
                f"routes.{index}.name", json.dumps(rule.name), f"a name of its own (routes.{seen[rule.name]} has it)"
            )
        seen.setdefault(rule.name, index)
        yield from _condition_problems(engine, index, rule)
        yield from _target_problems(config, index, rule)


def _condition_problems(engine: Any, index: int, rule: Rule) -> Iterator[Problem]:
    key = f"routes.{index}.when"
    if _nodes(rule.when) > _NODES:
        yield Problem(key, f"the condition of {rule.name!r}", f"a rule of at most {_NODES} parts")
        return
    wrong = [found for found in engine.check(rule.when) if found["severity"] == "error"]
    for found in wrong:
        place = key + found["pointer"].replace("/", ".")
        known = [operator["name"] for operator in engine.operators()]
        near = difflib.get_close_matches(found["operator"] or "", known, n=1, cutoff=0.5)
        yield Problem(place, f"{found['message']} (rule {rule.name!r})", "JSONLogic", near[0] if near else None)
    if wrong:
        return
    facts = engine.compile(rule.when).facts()
    if not facts["deterministic"]:
        allowed = "operators whose answer depends on the document alone, so that a route can be explained later"
        yield Problem(key, f"{', '.join(facts['operators'])} (rule {rule.name!r})", allowed)
    for path in facts["reads"]:
        known_parts = SIGNALS.get(path[0], ())
        if len(path) > 1 and known_parts and path[1] not in known_parts:
            near = difflib.get_close_matches(path[1], known_parts, n=1, cutoff=0.5)
            allowed = f"one of {', '.join(f'{path[0]}.{part}' for part in known_parts)}"
            yield Problem(key, f"{'.'.join(path)} (rule {rule.name!r})", allowed, near[0] if near else None)


def _target_problems(config: Config, index: int, rule: Rule) -> Iterator[Problem]:
    then = rule.then
    for name, known, what in (
        ("priority", config.queue.priority_levels, "queue.priority_levels"),
        ("queue", config.queue.priority_levels, "queue.priority_levels"),
        ("handler", sorted(config.handlers), "handlers"),
        ("schema", sorted(config.intake.schemas), "intake.schemas"),
    ):
        value = getattr(then, name)
        if value is not None and value not in known:
            yield _unknown(f"routes.{index}.then.{name}", value, known, what)


def _unknown(key: str, value: str, known: Sequence[str], what: str) -> Problem:
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
    return Problem(
        key, json.dumps(value), f"a name in {what} ({', '.join(known) or 'it is empty'})", near[0] if near else None
    )


def _nodes(rule: Any) -> int:
    inner = rule.values() if isinstance(rule, dict) else rule if isinstance(rule, list) else ()
    return 1 + sum(_nodes(part) for part in inner)
