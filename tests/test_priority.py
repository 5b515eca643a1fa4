"""The priority of a document, and that no document makes finding it slow."""

import re
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import QUIET

from llm_scheduler.ingest.router import Router
from llm_scheduler.ingest.router.priority import PriorityMatcher
from llm_scheduler.ingest.router.text import normalized
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.config.model import PriorityRules as Keywords
from llm_scheduler.jobs.config.model import Queue, Routing

LEVELS = ["high", "medium", "low"]
DEFAULT = Config(intelligent_routing=QUIET)


def decide(document: Any, levels: list[str] | None = None, **keywords: list[str]) -> tuple[str, str]:
    rules = Keywords(**keywords)
    return PriorityMatcher(levels or LEVELS, rules.urgent_keywords, rules.low_priority_keywords).find(document)


def level(document: Any, levels: list[str] | None = None, **keywords: list[str]) -> str:
    return decide(document, levels, **keywords)[0]


def with_level(word: object) -> dict[str, Any]:
    return {"metadata": {"priority": word}}


# metadata.priority


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *(("high", "high"), ("medium", "medium"), ("low", "low")),
        *(("urgent", "high"), ("critical", "high"), ("normal", "medium"), ("default", "medium"), ("test", "low")),
        *(("HIGH", "high"), ("Urgent", "high"), ("nOrMaL", "medium"), ("TEST", "low"), ("  low\n", "low")),
    ],
)
def test_metadata_priority(word: str, expected: str) -> None:
    found, reason = decide({"content": "nothing", **with_level(word)})
    assert found == expected
    assert reason == f"metadata.priority is {word.strip()!r}"


def test_metadata_wins_over_the_text() -> None:
    assert level({"content": "URGENT emergency", **with_level("low")}) == "low"
    assert level({"content": "just a test", **with_level("urgent")}) == "high"
    assert level({"content": "urgent", **with_level("normal")}) == "medium"


@pytest.mark.parametrize(
    "document",
    [
        *map(with_level, ("whatever", "", " ", 1, None, ["high"], {"high": "high"}, True)),
        *({"metadata": "high"}, {"metadata": ["high"]}, {"metadata": None}, {"priority": "low"}, {"metadata": {}}),
        *({}, [], "", 0, None, True, 1.5, {"x": with_level("high")}, [with_level("high")]),
    ],
)
def test_the_default_is_medium(document: Any) -> None:
    assert decide(document) == ("medium", "no rule applied: the default")


def test_keywords_decide_if_metadata_has_no_level() -> None:
    assert level({"content": "urgent", **with_level("whatever")}) == "high"
    assert level({"content": "urgent", **with_level(7)}) == "high"


def test_metadata_is_not_the_text() -> None:
    assert level({"metadata": {"source": "test", "note": "urgent"}, "content": "plain"}) == "medium"
    assert level({"metadata": "urgent"}) == "medium"
    assert level({"content": {"a": ["plain"]}, "metadata": {"note": "urgent"}}) == "medium", "at any position"
    assert level({"x": {"metadata": {"note": "urgent"}}}) == "high", "only the document's own metadata is left out"
    assert level([{"metadata": {"note": "urgent"}}]) == "high"


def test_keys_are_not_the_text() -> None:
    assert level({"urgent": "no", "test": 1}) == "medium"


# Keywords


@pytest.mark.parametrize(
    "text",
    [
        *("urgent", "URGENT", "Urgent!", "(urgent)", "so:urgent,", "an urgent thing", "urgent-ish", "'urgent'"),
        *("x\nurgent\n", "這是緊急通知", "緊急", "请立即处理", "至急お願いします", "URGENT緊急", "これはurgentです"),
        *("處理ASAP謝謝", "asap.", "emergency", "critical", "do it immediately", "urgent。", "“urgent”"),
        "https://x/urgent/y",
    ],
)
def test_urgent_keywords(text: str) -> None:
    found, reason = decide({"a": {"b": [1, text]}})
    assert found == "high"
    assert reason.startswith("urgent keyword '")
    assert reason.endswith("' in the text")


@pytest.mark.parametrize(
    "text", ["test", "a Test.", "TEST", "sample", "DEMO", "this draft", "測試", "這是測試文件", "测试", "草稿一份"]
)
def test_low_priority_keywords(text: str) -> None:
    found, reason = decide({"content": text})
    assert found == "low"
    assert reason.startswith("low-priority keyword '")


@pytest.mark.parametrize(
    "text",
    [
        *("latest", "contest", "testing", "tested", "tests", "attest", "democracy", "samples", "drafty"),
        *("demographic", "urgently", "insurgent", "resurgent", "criticality", "hypercritical", "asaph", "my_test"),
        *("test_1", "test1", "1test", "étest", "testé", "ßtest", "тest", "protéstest", "Latest News", "LATEST"),
        *("tốtest", "ńtest", "test\u0301", "latestnews", "t e s t", "urgen", "rgent", "", " ", "緊 急", "測 試"),
    ],
)
def test_only_whole_words(text: str) -> None:
    assert decide({"content": text}) == ("medium", "no rule applied: the default")


def test_two_strings_are_not_one_word() -> None:
    assert level(["te", "st"]) == "medium"
    assert level(["緊", "急"]) == "medium"
    assert level({"a": "la", "b": "test"}) == "low"


def test_urgent_wins_over_low() -> None:
    assert level({"content": "a test, but urgent"}) == "high"
    assert level({"content": "urgent, but a test"}) == "high"
    assert level(["test", "測試", "緊急"]) == "high"


def test_text_is_found_at_any_depth() -> None:
    assert level("urgent") == "high"
    assert level(["x", {"y": ["z", "urgent"]}]) == "high"
    assert level({"a": {"b": {"c": {"d": "a test"}}}}) == "low"
    deep: Any = "urgent"
    for number in range(5000):
        deep = [deep] if number % 2 else {"k": deep}
    assert level(deep) == "high", "no recursion"


def test_own_keywords() -> None:
    own = {"urgent_keywords": ["call me", "C++", "a.b", "停機", "  ", "x" * 300, "Ünal"], "low_priority_keywords": []}
    for text in ("Call  me", "callme", "c+", "axb", "a test", "ünalx"):
        assert level(text, **own) == "medium"
    for text in ("please CALL ME.", "in c++ now", "see A.B", "系統停機了", "x" * 300, "ÜNAL", "(ünal)"):
        assert level(text, **own) == "high", text
    assert level("urgent", urgent_keywords=[], low_priority_keywords=["urgent"]) == "low"
    assert level("urgent test", urgent_keywords=[], low_priority_keywords=[]) == "medium"


@pytest.mark.parametrize("text", ["te\u200bst", "ｔｅｓｔ", "\u202dtest\u202c", "a te\u00adst"])
def test_invisible_characters_hide_no_keyword(text: str) -> None:
    assert level(text) == "low"


def test_the_longest_keyword_is_the_reason() -> None:
    keywords = ["stop", "stop now"]
    assert decide("Stop now", urgent_keywords=keywords)[1] == "urgent keyword 'Stop now' in the text"


def test_every_case_of_every_letter_counts() -> None:
    """The quick search misses no keyword that the pattern finds."""
    for character in map(chr, range(sys.maxunicode + 1)):
        for other in {character.lower(), character.upper(), character.casefold()} - {character}:
            if re.fullmatch(re.escape(normalized(other)), normalized(character), re.IGNORECASE):
                assert level(f"一{character}一", urgent_keywords=[f"一{other}一"]) == "high", (character, other)
    for text in ("KRİTİK", "krıtık", "ﬅop ﬆop", "ſtop", "30 K"):
        for keyword in ("kritik", "ﬆop", "STOP", "30 k"):
            found = re.search(re.escape(normalized(keyword)), normalized(text), re.IGNORECASE)
            expected = "high" if found else "medium"
            assert level(f"一{text}一", urgent_keywords=[keyword]) == expected, (text, keyword)


# Levels


@pytest.mark.parametrize(
    ("levels", "high", "medium", "low"),
    [
        (["only"], "only", "only", "only"),
        (["fast", "slow"], "fast", "fast", "slow"),
        (["a", "b", "c", "d", "e"], "a", "c", "e"),
        (["now", "high", "medium", "low", "idle"], "high", "medium", "low"),
        (["low", "high"], "high", "low", "low"),
    ],
)
def test_other_levels(levels: list[str], high: str, medium: str, low: str) -> None:
    assert level(with_level("urgent"), levels) == level(with_level("HIGH"), levels) == level("urgent", levels) == high
    assert level(with_level("normal"), levels) == level({}, levels) == medium
    assert level(with_level("test"), levels) == level(with_level("low"), levels) == level("a test", levels) == low
    for each in levels:
        assert level(with_level(each.upper()), levels) == each


def test_a_level_with_the_name_of_a_synonym_wins() -> None:
    levels = ["high", "normal", "test", "low"]
    assert level(with_level("normal"), levels) == "normal"
    assert level(with_level("Test"), levels) == "test"


# The router


def test_the_router_gives_queue_handler_and_reason() -> None:
    route = Router(DEFAULT).decide({"content": "urgent"}).route
    assert (route.priority, route.queue, route.handler) == ("high", "high", "default")
    assert route.reasons == ["urgent keyword 'urgent' in the text"]
    assert Router(DEFAULT).decide(None).priority == "medium"


def test_without_intelligent_routing_only_metadata_counts() -> None:
    router = Router(Config(intelligent_routing=Routing(enabled=False)))
    assert router.decide({"content": "urgent"}).priority == "medium"
    assert router.decide(with_level("test")).priority == "low"


def test_the_router_knows_the_configured_levels() -> None:
    router = Router(Config(queue=Queue(priority_levels=["one", "two"]), intelligent_routing=QUIET))
    assert router.decide(with_level("low")).route.queue == "two"


def test_a_reason_quotes_little() -> None:
    _, reason = decide(with_level("high" + " " * 10_000))
    assert len(reason) < 100


# Speed: ingest has one thread, so a slow document delays all others

MEGABYTES = 10_000_000


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: {"content": "latest " * (MEGABYTES // 7)}, id="near misses"),
        pytest.param(lambda: {"content": "x" * MEGABYTES}, id="one word"),
        pytest.param(lambda: {"content": "測" * (MEGABYTES // 3)}, id="CJK"),
        pytest.param(lambda: {"content": "urgen " * (MEGABYTES // 6)}, id="prefixes"),
        pytest.param(lambda: [["urgen"] * 10 for _ in range(MEGABYTES // 80)], id="many short strings"),
        pytest.param(lambda: [""] * (MEGABYTES // 3), id="empty strings"),
        pytest.param(lambda: [0] * (MEGABYTES // 2), id="numbers"),
        pytest.param(lambda: [[] for _ in range(MEGABYTES // 3)], id="empty arrays"),
        pytest.param(lambda: {str(number): None for number in range(MEGABYTES // 14)}, id="many keys"),
        pytest.param(lambda: {"metadata": {"priority": "x" * MEGABYTES}}, id="long priority"),
    ],
)
def test_ten_megabytes_are_fast(make: Callable[[], Any]) -> None:
    router, document = Router(DEFAULT), make()
    began = time.process_time()
    assert router.decide(document).route.priority == "medium"
    spent = time.process_time() - began
    print(f"{spent * 1000:.1f} ms")
    assert spent < 0.25


def test_an_early_keyword_in_a_long_text_counts() -> None:
    assert level({"content": "x " * 40_000 + "urgent " + "x " * 1_000_000}) == "high"
