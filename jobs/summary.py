"""The built-in handler: a small summary of any document."""

import re
from collections.abc import Iterator
from typing import Any

from llm_scheduler.jobs.handler import Context

# In scripts without spaces each character counts as a word, and as about one token.
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_WORD = re.compile(r"[^\W_]+")
_CHARACTERS_PER_TOKEN = 4  # an estimate for text in an alphabet, with current tokenizers


def summarise(document: Any, context: Context) -> dict[str, Any]:
    """Shape, statistics and a token estimate.

    Keys: shape, keys, items, values, depth, strings, characters, words, tokens_estimate, bytes.
    """
    strings = 0
    characters = 0
    words = 0
    cjk = 0
    values = 0
    deepest = 0
    for depth, value in _walk(document):
        values += 1
        deepest = max(deepest, depth)
        if isinstance(value, str):
            strings += 1
            characters += len(value)
            wide = len(_CJK.findall(value))
            cjk += wide
            words += wide + len(_WORD.findall(_CJK.sub(" ", value) if wide else value))
    return {
        "shape": _shape(document),
        "keys": list(document)[:50] if isinstance(document, dict) else [],
        "items": len(document) if isinstance(document, dict | list) else 0,
        "values": values,
        "depth": deepest,
        "strings": strings,
        "characters": characters,
        "words": words,
        "tokens_estimate": cjk + -(-(characters - cjk) // _CHARACTERS_PER_TOKEN),
        "bytes": len(context.text),
    }


def _shape(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _walk(document: Any) -> Iterator[tuple[int, Any]]:
    """Every value with its depth, without recursion."""
    pending = [(0, document)]
    while pending:
        depth, value = pending.pop()
        yield depth, value
        if isinstance(value, dict):
            pending.extend((depth + 1, inner) for inner in value.values())
        elif isinstance(value, list):
            pending.extend((depth + 1, inner) for inner in value)
