"""The strict reading of a text as JSON (RFC 8259), with guards before anything recursive runs."""

import json
import math
import re
import sys
from dataclasses import dataclass
from typing import Any

import jiter
import msgspec

from llm_scheduler.jobs.codes import Code
from llm_scheduler.jobs.intake import binary, brackets
from llm_scheduler.jobs.intake.rejection import Refused, position_at

BOM = b"\xef\xbb\xbf"
WHITE = b" \t\r\n"
_STRING = r'"(?:[^"\\]|\\.)*+"?'  # the closing quote is optional, so that a broken string is looked at once only


@dataclass(frozen=True)
class Limits:
    """`max_bytes` of a text, and `max_depth` of its nesting."""

    max_bytes: int
    max_depth: int


def read(raw: bytes, limits: Limits) -> tuple[bytes, Any]:
    """`raw` as a document: its JSON text without surrounding white space, and the value it stands for.

    Integers are exact at any size. A UTF-8 byte-order mark is passed over, as RFC 8259 section 8.1 allows.
    Raises `Refused`.
    """
    if len(raw) > limits.max_bytes:
        raise Refused(Code.TOO_LARGE, f"{len(raw)} bytes; the limit is {limits.max_bytes}")
    text = body(raw)
    if not text:
        raise Refused(Code.EMPTY, "The file is empty." if not raw else "The file holds nothing but white space.")
    check_depth(raw, text, limits.max_depth)
    try:
        return text, _decode(text)
    except msgspec.DecodeError as error:
        raise _refusal(raw, text, str(error)) from None
    except UnicodeDecodeError:
        raise _refusal(raw, text, "not UTF-8") from None
    except RecursionError:
        raise Refused(Code.TOO_DEEP, "The JSON nests too deeply to be read.") from None


def is_strict(raw: bytes, limits: Limits) -> bool:
    """Whether `read` would take `raw`; without finding out why not, which may take longer."""
    text = body(raw)
    if not text or len(raw) > limits.max_bytes or brackets.overstep(text, limits.max_depth) is not None:
        return False
    try:
        value_of(text)
    except ValueError:
        return False
    return True


_decode = msgspec.json.Decoder().decode


def value_of(text: str | bytes) -> Any:
    """The value of strict JSON `text`, whose depth has been checked. Raises ValueError for anything else."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def document_of(text: str) -> dict[str, Any] | list[Any] | None:
    """The object or array that `text` strictly is; None for anything else. Its depth has been checked."""
    bare = text.strip()
    if not bare.startswith(("{", "[")):
        return None
    try:
        value: dict[str, Any] | list[Any] = value_of(bare)
    except ValueError:
        return None
    return value


def body(raw: bytes) -> bytes:
    """`raw` without a byte-order mark and surrounding white space: what a result shows as `document`."""
    return raw.removeprefix(BOM).strip(WHITE)


def check_depth(raw: bytes, text: bytes, limit: int) -> None:
    """Raises `Refused` when brackets nest deeper than `limit`. One pass, nothing recursive."""
    offset = brackets.overstep(text, limit)
    if offset is not None:
        place = position_at(raw, raw.index(text) + offset)
        raise Refused(Code.TOO_DEEP, f"The JSON nests deeper than {limit} levels.", place)


def has_twins(text: bytes, value: Any) -> bool:
    """Whether an object in strict JSON `text`, which stands for `value`, has a key more than once."""
    if len(text) > _LARGE:  # a second value beside the first may take ten times the text's memory
        return members(value) < sum(match.lastindex is not None for match in _KEY_OR_STRING.finditer(text))
    try:
        jiter.from_json(text, catch_duplicate_keys=True, cache_mode="none")
    except ValueError as error:
        if "duplicate key" in str(error):
            return True
    else:
        return False
    try:  # what jiter does not take: deeper than 200 levels, say
        json.loads(text, object_pairs_hook=_no_twins, parse_int=str, parse_float=str)
    except _Twins:
        return True
    return False


_LARGE = 1024 * 1024
_KEY_OR_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"\s*+(:)?', re.DOTALL)


def members(value: Any) -> int:
    """The number of members of all objects in `value`."""
    count = 0
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            count += len(each)
            pending += (inner for inner in each.values() if isinstance(inner, dict | list))
        elif isinstance(each, list):
            pending += (inner for inner in each if isinstance(inner, dict | list))
    return count


class _Twins(Exception):
    pass


def _no_twins(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _Twins


def _refusal(raw: bytes, text: bytes, message: str) -> Refused:
    kind = binary.kind_of(raw)
    if kind:
        return kind.refusal()
    nul = raw.find(b"\x00")
    if nul >= 0:
        return Refused(Code.BINARY, "The file holds NUL bytes, so it is not JSON text.", position_at(raw, nul))
    lead = raw.index(text)
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"0x{text[error.start]:02x}"
        place = position_at(raw, lead + error.start)
        return Refused(Code.ENCODING, f"The text is not UTF-8: byte {byte} stands where it can't.", place)
    reason, index = _where(decoded, message)
    at = position_at(raw, lead + len(decoded[:index].encode())) if index is not None else None
    return Refused(Code.INVALID_JSON, f"Not valid JSON: {reason}.", at)


def _where(text: str, message: str) -> tuple[str, int | None]:
    """What is wrong and at which character. The standard library's scanner tells places best, so it is asked where."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        early = error.pos >= len(text) or error.msg.startswith("Unterminated string")
        return (f"the text ends too early ({error.msg})" if early else error.msg), error.pos
    except (RecursionError, ValueError):
        pass
    # The standard library lets pass what RFC 8259 or I-JSON does not.
    for pattern, reason in _LENIENT.items() if "out of range" not in message else ():
        for match in pattern.finditer(text):
            if match["bad"]:
                return reason, match.start("bad")
    for match in _LONG_NUMBER.finditer(text):
        number = match["number"]
        unfit = _unfit(number) if number else None
        if unfit:
            return unfit, match.start("number")
    return message.removeprefix("JSON is malformed: ").rstrip("."), None


def _unfit(number: str) -> str | None:
    """What is wrong with a number that JSON's grammar allows, if anything is."""
    if number.lstrip("-").isdigit():
        most = sys.get_int_max_str_digits()
        return f"a number of more than {most} characters" if 0 < most < len(number) else None  # as msgspec counts
    return "a number out of range" if math.isinf(float(number)) else None


# Every pattern takes what it has looked at (`*+`), so that no text makes it look at the same characters again.
_LENIENT = {
    re.compile(rf"{_STRING}|(?P<bad>NaN|-?Infinity)", re.DOTALL): "NaN and Infinity are not JSON numbers",
    re.compile(
        r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
        r"|\\\\|(?P<bad>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    ): "half of a surrogate pair stands alone",
}
# Numbers that may be too long or too large. Short whole numbers and all that is no number are passed over in one go.
_LONG_NUMBER = re.compile(
    rf"{_STRING}|(?:[^\"0-9-]++|-?[0-9]{{1,299}}+(?![0-9.eE]))++"
    r"|(?P<number>-?[0-9]++(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+)",
    re.DOTALL,
)
