"""The whole router with all signals: place, industry and language in a result, and hostile texts."""

import json
import time
from typing import Any

import pytest
from conftest import Fleet

from llm_scheduler.ingest.router import Router
from llm_scheduler.jobs.config import Config, Security
from llm_scheduler.jobs.config.model import Routing, Rule, Then
from llm_scheduler.jobs.sealing import new_key

TAIWAN = "台灣積體電路製造股份有限公司總部位於新竹，生產晶片。"
CHENNAI = "A holding company for a small finance bank that offers microfinance. It is based in Chennai, India."


@pytest.fixture(scope="module")
def router() -> Router:
    return Router(Config(), everything=True)


def test_a_result_has_the_signals_of_its_document(fleet: Fleet) -> None:
    fleet.settings["intelligent_routing"] = {"industry_classification": True, "language_detection": True}
    fleet.configure(
        routes=[{"name": "home", "when": {"==": [{"var": "geo.country"}, "TW"]}, "then": {"priority": "high"}}]
    )
    fleet.drop("tw.json", json.dumps({"about": TAIWAN}))
    fleet.drop("in.json", json.dumps({"about": CHENNAI}))
    fleet.drop("none.json", '{"n": [1, 2]}')
    fleet.start()
    fleet.wait_finished(3)
    routes = {result["source"]: result["route"] for result in fleet.results()}
    taiwan = routes["tw.json"]
    assert (taiwan["priority"], taiwan["country"], taiwan["city"], taiwan["industry"], taiwan["language"]) == (
        ("high", "TW", "Hsinchu", "C26", "zh-Hant")
    )
    assert any(reason.startswith("country TW, Hsinchu (") for reason in taiwan["reasons"])
    assert "rule 'home': priority high" in taiwan["reasons"]
    assert (routes["in.json"]["country"], routes["in.json"]["industry"], routes["in.json"]["language"]) == (
        ("IN", "K64", "en")
    )
    assert "country" not in routes["none.json"]
    assert routes["none.json"]["reasons"] == ["no rule applied: the default"]


def test_signals_are_found_if_a_rule_reads_them_or_the_configuration_says_so() -> None:
    document = {"a": CHENNAI}

    def found(rule: dict[str, Any] | None = None, **settings: bool) -> tuple[str, str, str]:
        rules = [Rule(name="a", when=rule, then=Then(tags=["a"]))] if rule else []
        route = Router(Config(intelligent_routing=Routing(**settings), routes=rules)).decide(document).route
        return route.country, route.industry, route.language

    assert found() == ("", "", "")
    assert found({"==": [{"var": "a"}, 1]}) == ("", "", "")
    assert found({"==": [{"var": "geo.country"}, "IN"]}) == ("IN", "", "")
    assert found({"==": [{"var": "language"}, "en"]}) == ("", "", "en")
    assert found({"var": {"cat": ["a", "b"]}}) == ("IN", "K64", "en"), "it may read any of them"
    assert found(industry_classification=True) == ("", "K64", "")
    assert found({"==": [{"var": "geo.country"}, "IN"]}, geo_detection=False) == ("", "", "")
    assert found(enabled=False, geo_detection=True) == ("", "", "")


def test_one_by_one_or_in_a_group_the_route_is_the_same(router: Router) -> None:
    documents: list[Any] = [{"a": TAIWAN}, {"a": CHENNAI}, None, 1, [], {"a": ["x", {"b": "Paris, Texas"}]}]
    decisions = [router.decide(document, "a/b.json", 7) for document in documents]
    router.complete(decisions)
    assert [each.route for each in decisions] == [router.decide(each, "a/b.json", 7).route for each in documents]
    router.complete([])
    assert [each.route.country for each in decisions] == ["TW", "IN", "", "", "", "US"]
    assert max(len(each.signals.geo.evidence) for each in decisions) > 1


def test_sensitive_fields_are_ignored() -> None:
    security = Security(encryption_enabled=True, encryption_key=new_key(), encrypt_sensitive_fields=["address"])
    shut = Router(Config(security=security), everything=True)
    assert shut.decide({"address": "12 Main Street, Austin, TX", "text": "fine"}).route.country == ""


@pytest.mark.parametrize(
    "text",
    {
        "place names": "Paris London 東京 北京 München ",
        "one place name": "Springfield, ",
        "right to left": "\u202eברלין\u202c \u200fدبي\u200f ",
        "joiners": "Ber\u200dlin Pa\u200bris ",
        "look-alikes": "Веrlin Раris Τokyo ",  # Cyrillic and Greek letters
        "numbers": "+49 30 1234567, +1 (212) 555-0100; ",
        "hosts": "www.a.de b@c.co.jp https://d.fr/x ",
        "business": "bank insurance 銀行 manufacturing of steel ",
        "accents": "é̂̃̄̅̆ ",
        "one word": "a" * 1000,
        "phrases": "headquartered in based in 總部位於 ",
    }.items(),
    ids=lambda pair: pair[0],
)
def test_ten_megabytes_of_anything_are_fast(router: Router, text: tuple[str, str]) -> None:
    """A quiet machine takes a quarter of the bound; a quadratic cost would take minutes."""
    whole = text[1] * (10_000_000 // len(text[1]))
    document = [whole[start : start + 10_000] for start in range(0, len(whole), 10_000)]
    for each in (whole, document):
        began = time.process_time()
        assert router.decide(each).route
        assert time.process_time() - began < 2


def test_other_signals_are_found_if_a_detector_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("no")

    rule = Rule(name="a", then=Then(tags=["yes"]))
    faulty = Router(Config(routes=[rule]), everything=True)
    monkeypatch.setattr(faulty._detectors, "_geo", broken)
    route = faulty.decide({"a": CHENNAI}).route
    assert (route.country, route.language, route.tags) == ("", "en", ["yes"])
    assert "A detector failed" in caplog.text
