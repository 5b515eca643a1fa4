"""The rules of `routes`, compiled: which of them apply to a document, and how they change its route."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from llm_scheduler.jobs.config.model import Rule
from llm_scheduler.jobs.document import Route

DOCUMENT = "document"
_OPERATIONS = 200_000  # the budget of one rule for one document, a few milliseconds; bounds `reduce` over a long list


class Rules:
    """Compiled rules. `llm_scheduler.jobs.config` has checked their conditions."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self.set_priority = any(rule.then.priority for rule in rules)  # whether any rule may set the priority
        if not rules:
            return
        from datalogic_py import DataHandle, Engine  # 14 ms and 3 MB: only where there are rules

        engine = Engine(config={"ops_budget": _OPERATIONS})
        self._handle, self._truthy = DataHandle, engine.truthy
        self._session = engine.session()
        self._compiled = [engine.compile(rule.when) for rule in rules]
        facts = [compiled.facts() for compiled in self._compiled]
        # The engine receives only what some rule reads: a document may have megabytes, and rules read a few fields.
        self._reads_all = any(not each["reads_complete"] or [] in each["reads"] for each in facts)
        paths = [path for each in facts for path in each["reads"] if path]
        self._reads = {path[0] for path in paths}
        inner = {tuple(path[1:2]) for path in paths if path[0] == DOCUMENT}
        self._reads_document = None if () in inner else {key for (key,) in inner}

    def __bool__(self) -> bool:
        return bool(self._rules)

    def read(self, signal: str) -> bool:
        """Whether any rule reads this signal."""
        return bool(self._rules) and (self._reads_all or signal in self._reads)

    def apply(self, route: Route, document: Any, facts: Mapping[str, Any]) -> Route:
        """`route`, changed by the rules that apply. A later rule overrides an earlier one; tags add up.

        `facts`: what conditions may read besides the document, by name. Needs at least one rule.
        """
        # All conditions in one call, which takes a quarter of the time; results behind a `stop` are ignored.
        answers = self._session.evaluate_many(self._compiled, self._handle(self._variables(document, facts)))
        for rule, answer in zip(self._rules, answers, strict=True):
            if answer in ("false", "null"):
                continue
            if not isinstance(answer, str):
                route = _with_reason(route, f"rule {rule.name!r} failed: {answer.message[:100]}")
            elif answer == "true" or self._truthy(answer):
                route = _changed(route, rule)
                if rule.stop:
                    break
        return route

    def _variables(self, document: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What conditions may read: the document's own keys, the facts, which win over them, and the whole document."""
        members = document if isinstance(document, dict) else {}
        if self._reads_all:
            return {**members, **facts, DOCUMENT: document}
        variables = {**_only(members, self._reads), **_only(facts, self._reads)}
        if DOCUMENT in self._reads:
            keys = self._reads_document
            variables[DOCUMENT] = document if keys is None or not members else _only(members, keys)
        return variables


def _only(members: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: members[key] for key in keys if key in members}


def _changed(route: Route, rule: Rule) -> Route:
    then = rule.then
    queue = then.queue or then.priority
    targets = {"priority": then.priority, "queue": queue, "handler": then.handler, "schema": then.schema}
    changes: dict[str, Any] = {key: value for key, value in targets.items() if value is not None}
    parts = [f"{key} {value}" for key, value in changes.items() if key != "queue" or then.queue]
    if then.accept is not None:
        changes["accept"] = list(then.accept)
        parts.append(f"accept {'/'.join(then.accept)}")
    if then.tags:
        changes["tags"] = list(dict.fromkeys([*route.tags, *then.tags]))
        parts.append(f"tags {', '.join(then.tags)}")
    changed = msgspec.structs.replace(route, **changes)
    return _with_reason(changed, f"rule {rule.name!r}: {', '.join(parts) or 'nothing to change'}")


def _with_reason(route: Route, reason: str) -> Route:
    return msgspec.structs.replace(route, reasons=[*route.reasons, reason])
