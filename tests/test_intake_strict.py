"""The strict step: a text is a document, untouched, or it is refused with a code and a place."""

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import IntakeLimits, IntakeRejection
from llm_scheduler.jobs.intake.strict import read

LIMITS = IntakeLimits(max_bytes=16 * 1024 * 1024, max_depth=200)
FULL = LIMITS.max_bytes


def refused(raw: bytes, limits: IntakeLimits = LIMITS) -> IntakeRejection:
    with pytest.raises(IntakeRejection) as caught:
        read(raw, limits)
    return caught.value


def place(raw: bytes) -> tuple[str, int, int, int]:
    refusal = refused(raw)
    assert refusal.position is not None
    return (refusal.code.value, refusal.position.line, refusal.position.column, refusal.position.offset)


# What is a document

strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | strings,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(strings, inner, max_size=5),
    max_leaves=30,
)
white = st.text("\t\n\r ", max_size=3)


@st.composite
def texts(draw: st.DrawFn, value: Any) -> str:
    """`value` written in any way that JSON allows: white space, escapes, and both cases of their digits."""
    if isinstance(value, dict):
        members = [f"{draw(texts(key))}:{draw(texts(inner))}" for key, inner in value.items()]
        text = "{" + (",".join(members) or draw(white)) + "}"
    elif isinstance(value, list):
        text = "[" + (",".join(draw(texts(inner)) for inner in value) or draw(white)) + "]"
    elif isinstance(value, str):
        text = '"' + "".join(draw(written(character)) for character in value) + '"'
    else:
        text = json.dumps(value)
    return draw(white) + text + draw(white)


def written(character: str) -> st.SearchStrategy[str]:
    units = character.encode("utf-16-be")
    escaped = "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
    ways = [json.dumps(character, ensure_ascii=False)[1:-1], escaped, escaped.upper().replace("\\U", "\\u")]
    return st.sampled_from([*ways, "\\/"] if character == "/" else ways)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_value_in_any_legal_writing_comes_back_with_its_text(data: st.DataObject) -> None:
    value = data.draw(values)
    raw = data.draw(texts(value)).encode()
    text, found = read(raw, LIMITS)
    assert text == raw.strip(b" \t\r\n")
    assert found == value
    assert read(b"\xef\xbb\xbf" + raw, LIMITS) == (text, value), "a byte-order mark is passed over"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_whatever_arrives_is_read_or_refused(raw: bytes) -> None:
    found: bytes | IntakeRejection
    try:
        found, _ = read(raw, LIMITS)
    except IntakeRejection as refusal:
        found = refusal
    if isinstance(found, bytes):
        json.loads(found)
        return
    assert found.message
    assert found.position is None or 0 <= found.position.offset <= len(raw)


def test_integers_of_any_size_are_exact() -> None:
    number = 10**4299 + 7
    assert read(b"[%d, -%d]" % (number, number // 10), LIMITS)[1] == [number, -(number // 10)]
    assert read(b"18446744073709551617", LIMITS)[1] == 2**64 + 1


def test_the_order_of_keys_stays() -> None:
    assert list(read(b'{"b":1,"a":2,"c":3}', LIMITS)[1]) == ["b", "a", "c"]


# What is none


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"a": 1,\n "b": tru}', ("invalid_json", 2, 7, 15)),
        (b'{"a": 1', ("invalid_json", 1, 8, 7)),
        (b'{"a": 1} x', ("invalid_json", 1, 10, 9)),
        (b'{"a": 1}{"a": 2}', ("invalid_json", 1, 9, 8)),
        (b"{'a': 1}", ("invalid_json", 1, 2, 1)),
        (b'{"a": 1,}', ("invalid_json", 1, 9, 8)),
        (b"[1, NaN]", ("invalid_json", 1, 5, 4)),
        (b'["NaN", -Infinity]', ("invalid_json", 1, 9, 8)),
        (b"[1e5, 1e400]", ("invalid_json", 1, 7, 6)),
        (b"[1, " + b"9" * 400 + b".0]", ("invalid_json", 1, 5, 4)),
        (b'["' + b"9" * 5000 + b'", ' + b"9" * 5000 + b"]", ("invalid_json", 1, 5006, 5005)),
        (b'["\\ud83d\\ude00", "\\ud83d"]', ("invalid_json", 1, 19, 18)),
        (b'["\\\\ud800", "\\udc00"]', ("invalid_json", 1, 14, 13)),
        ('\ufeff {"中": x}'.encode(), ("invalid_json", 1, 9, 12)),
        ('{"中文": "\r\n"}'.encode(), ("invalid_json", 1, 9, 12)),
        (b"[1, \xff]", ("encoding", 1, 5, 4)),
        (b'["\xed\xa0\x80"]', ("encoding", 1, 3, 2)),
        (b"[1]\x00", ("binary", 1, 4, 3)),
        (b"[" * 201 + b"]" * 201, ("too_deep", 1, 201, 200)),
        (b"\n" + b'{"a[[[":' * 201 + b"1" + b"}" * 201, ("too_deep", 2, 1601, 1601)),
        (b" " + b"[[]," * 300, ("too_deep", 1, 799, 798)),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else "",
)
def test_a_refusal_says_where(raw: bytes, expected: tuple[str, int, int, int]) -> None:
    assert place(raw) == expected


@settings(max_examples=200, deadline=None)
@given(values, st.integers(1, 6))
def test_depth_is_counted_exactly(value: Any, limit: int) -> None:
    def depth(inner: Any) -> int:
        if isinstance(inner, dict):
            return 1 + max(map(depth, inner.values()), default=0)
        return 1 + max(map(depth, inner), default=0) if isinstance(inner, list) else 0

    raw = msgspec.json.encode(value)
    limits = IntakeLimits(FULL, limit)
    if depth(value) > limit:
        assert refused(raw, limits).code is Code.TOO_DEEP
    else:
        assert read(raw, limits)[1] == value


def test_brackets_in_strings_do_not_count() -> None:
    raw = b'["' + b"[" * 500 + b'\\"' + b"{" * 500 + b'"]'
    assert read(raw, IntakeLimits(FULL, 1))[0] == raw


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        (b"", "empty", "empty"),
        (b" \r\n\t", "empty", "white space"),
        (b"\xef\xbb\xbf", "empty", ""),
        (b"\x89PNG\r\n\x1a\n\x00", "binary", "PNG"),
        (b"%PDF-1.7 x", "binary", "PDF"),
        (b"PK\x03\x04\x14", "binary", "ZIP"),
        (b"\x1f\x8b\x08", "binary", "gzip"),
        ('{"a": 1}'.encode("utf-16-le"), "binary", "NUL"),
        ("{'é': 1}".encode("latin-1"), "encoding", "0xe9"),
        ('["中文"]'.encode("big5"), "encoding", "UTF-8"),
    ],
)
def test_what_is_no_text_is_called_by_its_name(raw: bytes, code: str, words: str) -> None:
    refusal = refused(raw)
    assert refusal.code.value == code
    assert words in refusal.message


def test_the_size_is_looked_at_first() -> None:
    assert refused(b"\x00" * 11, IntakeLimits(10, 5)).code is Code.TOO_LARGE
    assert read(b"[123456]", IntakeLimits(8, 5))[1] == [123456]


HOSTILE = {
    "brackets": b"[" * FULL,
    "braces": b"{" * FULL,
    "objects in objects": (b'{"a":' * (FULL // 5)),
    "pairs": b"[]" * (FULL // 2),
    "closing brackets": b"]" * FULL,
    "quotes": b'"' * FULL,
    "brackets, then quotes": b"[]" * 300 + b'"' * (FULL - 600),
    "backslashes": b"\\" * FULL,
    "backslashes in a string": b'"' + b"\\" * (FULL - 1),
    "escaped quotes without an end": b"[" + b"9" * 5000 + b"," + b'"' + b'\\"' * 1_000_000,
    "the same, deep": b"[" * 201 + b'\\"' * 1_000_000,
    "a string without an end": b'"' + b"a" * (FULL - 1),
    "a number of a million digits": b"9" * 10**6,
    "a negative one": b"-" + b"9" * 10**6,
    "an exponent of a million digits": b"1e" + b"9" * 10**6,
    "a fraction of a million digits, too large": b"1" * 400 + b"." + b"9" * 10**6,
    "numbers with a bad one at the end": b"[" + b"12345678," * (FULL // 9 - 1) + b"1e400]",
    "commas": b"," * 100_000,
    "commas in an array": b"[" + b"," * 100_000 + b"]",
    "lines": b"[" + b"\n" * (FULL - 2) + b"x",
    "NULs": b"\x00" * FULL,
    "spaces": b" " * FULL,
    "half surrogates": b'["' + b"\\u0041" * (FULL // 6 - 10) + b'\\ud800"]',
    "bytes of no character": b'["' + b"\xff" * (FULL - 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_holds_intake_up(name: str) -> None:
    began = time.process_time()
    refusal = refused(HOSTILE[name])
    seconds = time.process_time() - began
    assert seconds < 2, f"{name} took {seconds:.1f} s"
    assert len(refusal.message) < 300
