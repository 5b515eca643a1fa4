"""The built-in handler: any shape, any language, no surprises."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_scheduler.jobs.handler import Context
from llm_scheduler.jobs.summary import summarise
from llm_scheduler.jobs.worker.result_json import encode_result

CONTEXT = Context("id", "a.json", "high", "high", "default", 1, 1.0, b"12345")


@pytest.mark.parametrize(
    ("document", "shape", "items"),
    [
        ({"a": 1}, "object", 1),
        ([1, 2], "array", 2),
        ("x", "string", 0),
        (True, "boolean", 0),
        (None, "null", 0),
        (1, "number", 0),
        (1.5, "number", 0),
        (2**80, "number", 0),
    ],
)
def test_shapes(document: Any, shape: str, items: int) -> None:
    summary = summarise(document, CONTEXT)
    assert (summary["shape"], summary["items"], summary["bytes"]) == (shape, items, 5)


def test_words_and_tokens_in_english_and_chinese() -> None:
    summary = summarise({"t": "two words", "u": ["緊急處理", "mixed 中文 text"]}, CONTEXT)
    assert summary["words"] == 2 + 4 + 4
    assert summary["characters"] == 9 + 4 + 13
    assert summary["tokens_estimate"] == 6 + 5
    assert (summary["strings"], summary["values"], summary["depth"], summary["keys"]) == (3, 5, 2, ["t", "u"])


inner = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(inner, lambda kids: st.lists(kids) | st.dictionaries(st.text(), kids), max_leaves=20)


@settings(max_examples=100, deadline=None)
@given(values)
def test_any_document_has_a_summary(document: Any) -> None:
    summary = summarise(document, CONTEXT)
    assert summary["values"] >= 1
    assert all(isinstance(value, int | str | list) for value in summary.values())


def test_a_deep_document_needs_no_recursion() -> None:
    document: Any = 1
    for _ in range(5000):
        document = [document]
    assert summarise(document, CONTEXT)["depth"] == 5000


def test_only_the_first_keys_are_told() -> None:
    assert len(summarise({str(number): number for number in range(500)}, CONTEXT)["keys"]) == 50
    encode_result(summarise({"中": "文"}, CONTEXT))
