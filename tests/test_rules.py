"""Rules of `routes`: errors name their place, rules apply in order, and workers follow the route."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import QUIET, Fleet

from llm_scheduler.ingest.router import Router
from llm_scheduler.jobs.config import Config, ConfigError, Security, load
from llm_scheduler.jobs.config.model import Rule, Then
from llm_scheduler.jobs.sealing import new_key


def router(*rules: Rule, **parts: Any) -> Router:
    return Router(Config(intelligent_routing=QUIET, routes=list(rules), **parts))


def problems(tmp_path: Path, *rules: dict[str, Any]) -> list[tuple[str, str]]:
    path = tmp_path / "c.json"
    schema = tmp_path / "s.json"
    schema.write_text("{}")
    whole = {
        "routes": list(rules),
        "handlers": {"default": "a:b", "invoices": "a:c"},
        "intake": {"schemas": {"invoice": str(schema)}},
    }
    path.write_text(json.dumps(whole))
    try:
        load(path, {})
    except ConfigError as error:
        return [(problem.key, str(problem)) for problem in error.problems]
    return []


def equal(name: str, value: Any) -> dict[str, Any]:
    return {"==": [{"var": name}, value]}


@pytest.mark.parametrize(
    ("rule", "key", "said"),
    [
        ({"name": "a", "when": {"=": [1, 1]}}, "routes.0.when", "unknown operator `=`"),
        ({"name": "a", "when": {"and": [True, {"=>": [1, 2]}]}}, "routes.0.when.and.1", "Did you mean"),
        ({"name": "a", "when": {"==": [{"now": []}, 1]}}, "routes.0.when", "depends on the document alone"),
        ({"name": "a", "when": equal("geo.contry", "DE")}, "routes.0.when", "Did you mean 'country'?"),
        ({"name": "a", "when": "geo"}, "routes.0.when", "an object or true or false"),
        ({"name": "a", "then": {"priority": "hihg"}}, "routes.0.then.priority", "Did you mean 'high'?"),
        ({"name": "a", "then": {"queue": "x"}}, "routes.0.then.queue", "high, medium, low"),
        ({"name": "a", "then": {"handler": "invoice"}}, "routes.0.then.handler", "Did you mean 'invoices'?"),
        ({"name": "a", "then": {"schema": "bill"}}, "routes.0.then.schema", "intake.schemas (invoice)"),
        ({"name": "a", "then": {"accept": ["good"]}}, "routes.0.then.accept", 'or "valid"'),
        ({"name": "a", "then": {"tag": []}}, "routes.0.then.tag", "Did you mean 'tags'?"),
        ({"when": True}, "routes.0.name", "nothing is not allowed here. Allowed: a string"),
        ({"name": "a", "when": {"or": [1] * 2000}}, "routes.0.when", "at most 1000 parts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_error_for_a_wrong_rule_names_its_place(tmp_path: Path, rule: dict[str, Any], key: str, said: str) -> None:
    found = problems(tmp_path, rule)
    assert [place for place, _ in found] == [key], found
    assert said in found[0][1]


def test_two_rules_with_one_name_are_an_error(tmp_path: Path) -> None:
    assert [key for key, _ in problems(tmp_path, {"name": "a"}, {"name": "b"}, {"name": "a"})] == ["routes.2.name"]


def test_right_rules_are_accepted(tmp_path: Path) -> None:
    whole = {
        "name": "invoices of Taiwan",
        "when": {"and": [equal("geo.country", "TW"), {"in": ["invoice", {"lower": {"var": "document.kind"}}]}]},
        "then": {"priority": "high", "handler": "invoices", "schema": "invoice", "accept": ["valid"], "tags": ["tw"]},
        "stop": True,
    }
    assert problems(tmp_path, whole) == []


def test_rules_apply_in_order_later_ones_override_and_tags_add_up() -> None:
    asked = router(
        Rule(name="big", when={">": [{"var": "size"}, 10]}, then=Then(priority="low", tags=["big", "x"])),
        Rule(name="kind", when=equal("kind", "invoice"), then=Then(handler="invoices", tags=["x", "bill"])),
        Rule(name="never", when=equal("kind", "other"), then=Then(handler="other")),
        Rule(name="last", when=equal("document.kind", "invoice"), then=Then(priority="high", queue="low"), stop=True),
        Rule(name="behind", then=Then(priority="medium")),
    )
    route = asked.decide({"kind": "invoice"}, "a/b.json", 11).route
    assert (route.priority, route.queue, route.handler, route.tags) == ("high", "low", "invoices", ["big", "x", "bill"])
    assert route.reasons == [
        "no rule applied: the default",
        "rule 'big': priority low, tags big, x",
        "rule 'kind': handler invoices, tags x, bill",
        "rule 'last': priority high, queue low",
    ]
    assert asked.decide({"kind": "invoice"}, "a/b.json", 11).priority == "high"
    assert asked.decide({"kind": "else"}, "", 1).priority == "medium"


@pytest.mark.parametrize(
    ("when", "applies"),
    [
        (equal("file", "b.json"), True),
        (equal("source", "a/b.json"), True),
        ({"starts_with": [{"var": "source"}, "a/"]}, True),
        (equal("priority", "high"), True),
        (equal("document.size", "own"), True),
        (equal("size", 7), True),
        (equal("metadata.source", "gpt"), True),
        (equal("geo.country", None), True),
        ({"var": "language"}, False),
        ({"some": [{"var": "items"}, {">": [{"var": "n"}, 1]}]}, True),
        ({"==": [{"var": {"cat": ["ki", "nd"]}}, "invoice"]}, True),
        ({"var": ""}, True),
        ({"missing": ["kind", "nothing"]}, True),
        ({"+": [{"var": "kind"}, 1]}, False),
        ({"throw": "x"}, False),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_what_a_condition_may_read(when: dict[str, Any], applies: bool) -> None:
    document = {
        "kind": "invoice",
        "size": "own",
        "items": [{"n": 1}, {"n": 2}],
        "metadata": {"source": "gpt", "priority": "urgent"},
    }
    route = router(Rule(name="a", when=when, then=Then(tags=["yes"]))).decide(document, "a/b.json", 7).route
    assert (route.tags == ["yes"]) is applies, route.reasons


@pytest.mark.parametrize("document", [None, 1, "text", [1, 2], {"document": 3}, {"a": 10**400}])
def test_rules_work_with_any_document(document: Any) -> None:
    route = router(Rule(name="a", when=equal("kind", 1)), Rule(name="b", then=Then(tags=["b"]))).decide(document).route
    assert route.tags == ["b"]


def test_a_failed_condition_is_a_reason_and_the_next_rule_applies() -> None:
    asked = router(Rule(name="a", when={"+": [{"var": "kind"}, 1]}), Rule(name="b", then=Then(tags=["b"])))
    route = asked.decide({"kind": "x"}).route
    assert route.tags == ["b"]
    assert route.reasons[1].startswith("rule 'a' failed: ")


def test_no_document_makes_a_rule_take_long() -> None:
    squares = {"reduce": [{"var": "n"}, {"+": [{"var": "accumulator"}, {"reduce": [{"var": "n"}, 1, 0]}]}, 0]}
    asked = router(Rule(name="squares", when=squares), Rule(name="b", then=Then(tags=["b"])))
    began = time.process_time()
    route = asked.decide({"n": list(range(100_000))}).route
    assert time.process_time() - began < 1
    assert route.tags == ["b"]
    assert "budget" in route.reasons[1]


def test_rules_do_not_see_sensitive_fields() -> None:
    security = Security(encryption_enabled=True, encryption_key=new_key(), encrypt_sensitive_fields=["ssn"])
    rule = Rule(name="a", when={"!!": {"var": "ssn"}}, then=Then(tags=["seen"]))
    assert router(rule).decide({"ssn": "1"}).route.tags == ["seen"]
    assert router(rule, security=security).decide({"ssn": "1"}).route.tags == []


def test_the_whole_path_follows_the_rules(fleet: Fleet) -> None:
    (fleet.folder / "kinds.py").write_text(
        "def invoices(document, context):\n    return {'by': context.handler, 'tags': context.tags}\n"
    )
    (fleet.folder / "invoice.json").write_text(json.dumps({"required": ["total"]}))
    fleet.configure(
        handlers={"default": "kinds:invoices", "invoices": "kinds:invoices"},
        intake={"schemas": {"invoice": str(fleet.folder / "invoice.json")}},
        routes=[
            {
                "name": "invoices",
                "when": equal("kind", "invoice"),
                "then": {"priority": "high", "handler": "invoices", "schema": "invoice", "tags": ["money"]},
            },
            {"name": "strict", "when": {"starts_with": [{"var": "file"}, "strict"]}, "then": {"accept": ["valid"]}},
            {"name": "any", "when": equal("file", "cut.json"), "then": {"accept": ["valid", "repaired", "truncated"]}},
        ],
    )
    fleet.drop("good.json", '{"kind": "invoice", "total": 1}')
    fleet.drop("no total.json", '{"kind": "invoice"}')
    fleet.drop("other.json", '{"kind": "other"}')
    fleet.drop("strict.json", '{"kind": "other",}')
    fleet.drop("loose.json", '{"kind": "other",}')
    fleet.drop("cut.json", '{"kind": "other", "list": ["a", "b')
    fleet.start(env={"PYTHONPATH": str(fleet.folder)})
    fleet.wait_finished(6)
    results = {result["source"]: result for result in fleet.results()}
    assert sorted(results) == ["cut.json", "good.json", "loose.json", "other.json"]
    good = results["good.json"]
    assert (good["priority"], good["result"], good["route"]["tags"]) == (
        "high",
        {"by": "invoices", "tags": ["money"]},
        ["money"],
    )
    assert good["route"]["schema"] == "invoice"
    assert "rule 'invoices': priority high, handler invoices, schema invoice, tags money" in good["route"]["reasons"]
    assert (results["other.json"]["priority"], results["other.json"]["result"]) == (
        "medium",
        {"by": "default", "tags": []},
    )
    assert results["cut.json"]["quality"] == "truncated"
    assert {report["source"]: report["code"] for report in fleet.reports()} == {
        "no total.json": "schema",
        "strict.json": "not_accepted",
    }
