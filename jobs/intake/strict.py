"""The strict step: JSON by RFC 8259. Size and nesting are checked before any parser that recurses runs."""

import codecs
import json
import math
import re
import sys
from typing import Any

import jiter
import msgspec

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import binary, brackets
from llm_scheduler.jobs.intake.limits import IntakeLimits
from llm_scheduler.jobs.intake.rejection import IntakeRejection, position_after
from llm_scheduler.jobs.intake.values import count_members


def read(raw: bytes, limits: IntakeLimits) -> tuple[bytes, Any]:
    """The JSON text of `raw` without surrounding white space, and its value. Raises `IntakeRejection`.

    Integers of any size are exact. A UTF-8 byte-order mark is skipped, as RFC 8259 section 8.1 allows.
    """
    if len(raw) > limits.max_bytes:
        raise IntakeRejection(Code.TOO_LARGE, f"{len(raw)} bytes; the limit is {limits.max_bytes}")
    text = body(raw)
    if not text:
        message = "The file holds nothing but white space." if raw else "The file is empty."
        raise IntakeRejection(Code.EMPTY, message)
    check_depth(raw, text, limits.max_depth)
    try:
        return text, _decode(text)
    except msgspec.DecodeError as error:
        raise _rejection(raw, text, str(error)) from None
    except UnicodeDecodeError:
        raise _rejection(raw, text, "not UTF-8") from None
    except RecursionError:
        raise IntakeRejection(Code.TOO_DEEP, "The JSON nests too deeply to be read.") from None


def is_strict(raw: bytes, limits: IntakeLimits) -> bool:
    """Whether `read` accepts `raw`. Faster than `read` for other texts: it does not look for the reason."""
    text = body(raw)
    return len(raw) <= limits.max_bytes and brackets.overstep(text, limits.max_depth) is None and is_json(text)


_decode = msgspec.json.Decoder().decode


def value_of(text: str | bytes) -> Any:
    """The value of strict JSON `text`, whose depth has been checked. Raises ValueError for any other text."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def is_json(text: str | bytes) -> bool:
    """Whether `text`, whose depth has been checked, is strict JSON."""
    try:
        value_of(text)
    except ValueError:
        return False
    return True


def document_of(text: str) -> dict[str, Any] | list[Any] | None:
    """The object or array that `text`, whose depth has been checked, strictly is. None for any other text."""
    bare = text.strip()
    if not bare.startswith(("{", "[")):
        return None
    try:
        value: dict[str, Any] | list[Any] = value_of(bare)
    except ValueError:
        return None
    return value


def body(raw: bytes) -> bytes:
    """`raw` without a byte-order mark and surrounding white space: the `document` of a result."""
    return raw.removeprefix(codecs.BOM_UTF8).strip(b" \t\r\n")


def check_depth(raw: bytes, text: bytes, limit: int) -> None:
    """Raises `IntakeRejection` when `text`, a part of `raw`, nests deeper than `limit`. One pass without recursion."""
    offset = brackets.overstep(text, limit)
    if offset is not None:
        position = position_after(raw[: raw.index(text) + offset])
        raise IntakeRejection(Code.TOO_DEEP, f"The JSON nests deeper than {limit} levels.", position)


def has_duplicate_keys(text: bytes, value: Any) -> bool:
    """Whether an object in strict JSON `text`, whose value is `value`, has a key more than once."""
    if len(text) > _LARGE:  # parsing it again may take ten times the memory of the text
        return count_members(value) < sum(match.lastindex is not None for match in _KEY_OR_STRING.finditer(text))
    try:
        jiter.from_json(text, catch_duplicate_keys=True, cache_mode="none")
    except ValueError as error:
        if "duplicate key" in str(error):
            return True
    else:
        return False
    try:  # jiter rejects some strict JSON, such as more than 200 levels
        json.loads(text, object_pairs_hook=_check_keys, parse_int=str, parse_float=str)
    except KeyError:
        return True
    return False


_LARGE = 1024 * 1024  # bytes
_KEY_OR_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"\s*+(:)?', re.DOTALL)


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    """Raises KeyError for a duplicate key."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise KeyError


def _rejection(raw: bytes, text: bytes, message: str) -> IntakeRejection:
    """Why `text`, the body of `raw`, is not JSON. `message` is the parser's own reason."""
    if kind := binary.format_of(raw):
        return kind.rejection()
    nul = raw.find(b"\x00")
    if nul >= 0:
        message = "The file holds NUL bytes, so it is not JSON text."
        return IntakeRejection(Code.BINARY, message, position_after(raw[:nul]))
    lead = raw.index(text)
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"The text is not UTF-8: byte 0x{text[error.start]:02x} is not valid here."
        return IntakeRejection(Code.ENCODING, message, position_after(raw[: lead + error.start]))
    reason, index = _reason(decoded, message)
    position = position_after(raw[: lead + len(decoded[:index].encode())]) if index is not None else None
    return IntakeRejection(Code.INVALID_JSON, f"Not valid JSON: {reason}.", position)


def _reason(text: str, message: str) -> tuple[str, int | None]:
    """What is wrong with `text`, and at which character. The standard library's parser reports the best position."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        early = error.pos >= len(text) or error.msg.startswith("Unterminated string")
        return (f"the text ends too early ({error.msg})" if early else error.msg), error.pos
    except (RecursionError, ValueError):
        pass
    # What the standard library accepts against RFC 8259 or I-JSON.
    for pattern, reason in _LENIENT.items() if "out of range" not in message else ():
        for match in pattern.finditer(text):
            if match["bad"]:
                return reason, match.start("bad")
    for match in _LONG_NUMBER.finditer(text):
        number = match["number"]
        reason = _number_fault(number) if number else ""
        if reason:
            return reason, match.start("number")
    return message.removeprefix("JSON is malformed: ").rstrip("."), None


def _number_fault(number: str) -> str:
    """What is wrong with a number that the grammar of JSON allows; empty when it is fine."""
    if number.lstrip("-").isdigit():
        longest = sys.get_int_max_str_digits()  # msgspec counts the sign too
        return f"a number of more than {longest} characters" if 0 < longest < len(number) else ""
    return "a number out of range" if math.isinf(float(number)) else ""


# The patterns are possessive (`*+`): no text makes them look at the same characters again.
_LENIENT = {
    re.compile(rf"{brackets.STRING}|(?P<bad>NaN|-?Infinity)", re.DOTALL): "NaN and Infinity are not JSON numbers",
    re.compile(
        r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
        r"|\\\\|(?P<bad>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    ): "half of a surrogate pair stands alone",
}
# Numbers that may be too long or too large. Short integers and everything else are skipped in one step.
_LONG_NUMBER = re.compile(
    rf"{brackets.STRING}|(?:[^\"0-9-]++|-?[0-9]{{1,299}}+(?![0-9.eE]))++"
    r"|(?P<number>-?[0-9]++(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+)",
    re.DOTALL,
)
