"""Finds the sensitive values in a JSON text.

The text is scanned token by token, not parsed. So a replacement is exact to the byte, all other text stays as it was
written, and a duplicate key is found twice.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]|[^\s{}\[\],:"]++', re.DOTALL)
_OPEN, _CLOSE = b"{[", b"}]"

_Step = str | int


class Fields:
    """Names (at any depth) and JSON pointers (RFC 6901: whole paths, `/patient/contacts/0/phone`). Case is ignored."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._pointers = frozenset(_path(field) for field in fields if field.startswith("/"))
        self._names = frozenset(field.casefold() for field in fields if not field.startswith("/"))
        self._clues = [name.encode() for name in self._names]
        self._clues += [pointer[-1].encode() for pointer in self._pointers if not pointer[-1].isdigit()]
        self._has_indexes = any(pointer[-1].isdigit() for pointer in self._pointers)

    def spans(self, text: bytes) -> Iterator[tuple[int, int]]:
        """The (start, end) of each sensitive value in the valid JSON `text`; of nested ones only the outermost."""
        if not self._may_hold(text):
            return
        path: list[_Step] = []
        at_key = False
        begin, depth = 0, 0  # of the sensitive object or list around the current token
        for match in _TOKEN.finditer(text):
            mark = text[match.start()]
            if depth:
                depth += (mark in _OPEN) - (mark in _CLOSE)
                if not depth:
                    yield begin, match.end()
            elif mark == b":"[0]:
                at_key = False
            elif mark == b","[0]:
                at_key = isinstance(path[-1], str)
                if isinstance(path[-1], int):
                    path[-1] += 1
            elif mark in _CLOSE:
                path.pop()
            elif at_key:
                path[-1] = _key(match[0])
            elif self._is_sensitive(path):
                begin = match.start()
                if mark in _OPEN:
                    depth = 1
                else:
                    yield begin, match.end()
            elif mark in _OPEN:
                path.append("" if mark == b"{"[0] else 0)
                at_key = mark == b"{"[0]

    def without(self, value: Any, path: Sequence[_Step] = ()) -> Any:
        """`value`, a parsed document (or its part at `path`), without its sensitive members."""
        if isinstance(value, dict):
            members = ((key, member, [*path, key.casefold()]) for key, member in value.items())
            return {key: self.without(member, at) for key, member, at in members if not self._is_sensitive(at)}
        if isinstance(value, list):
            items = ((member, [*path, index]) for index, member in enumerate(value))
            return [self.without(member, at) for member, at in items if not self._is_sensitive(at)]
        return value

    def _is_sensitive(self, path: Sequence[_Step]) -> bool:
        if path and path[-1] in self._names:
            return True
        return bool(self._pointers) and tuple(map(str, path)) in self._pointers

    def _may_hold(self, text: bytes) -> bool:
        """Whether `text` may have a sensitive field. A fast check that rules out most texts without one."""
        if self._has_indexes or b"\\u" in text:  # a key may be written with such escapes
            return True
        folded = text.lower() if text.isascii() else text.decode("utf-8", "surrogatepass").casefold().encode()
        return any(clue in folded for clue in self._clues)


def strings(text: bytes) -> Iterator[tuple[int, int]]:
    """The (start, end) of each string in a JSON text, keys included."""
    return (match.span() for match in _TOKEN.finditer(text) if text[match.start()] == b'"'[0])


def scalars(text: bytes) -> Iterator[bytes]:
    """The strings, numbers and literals of a JSON text, as they are written."""
    return (match[0] for match in _TOKEN.finditer(text) if text[match.start()] not in b"{}[],:")


def replace(text: bytes, spans: Iterator[tuple[int, int]], change: Callable[[bytes], bytes]) -> bytes:
    """`text` with each of `spans` replaced by `change` of it; the same object if there are none."""
    pieces: list[bytes] = []
    end = 0
    for begin, after in spans:
        pieces += (text[end:begin], change(text[begin:after]))
        end = after
    return b"".join([*pieces, text[end:]]) if pieces else text


def _key(token: bytes) -> str:
    """The key, with its case removed."""
    key = msgspec.json.decode(token, type=str) if b"\\" in token else token[1:-1].decode()
    return key.casefold()


def _path(pointer: str) -> tuple[str, ...]:
    return tuple(step.replace("~1", "/").replace("~0", "~").casefold() for step in pointer[1:].split("/"))
