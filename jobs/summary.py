"""The built-in handler: a small summary of any document."""

import math
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
    values = list(_walk(document))
    texts = [value for _, value in values if isinstance(value, str)]
    whole = " ".join(texts)
    characters = sum(map(len, texts))
    cjk = len(_CJK.findall(whole))
    words = _WORD.findall(_CJK.sub(" ", whole) if cjk else whole)
    return {
        "shape": _shape(document),
        "keys": list(document)[:50] if isinstance(document, dict) else [],
        "items": len(document) if isinstance(document, dict | list) else 0,
        "values": len(values),
        "depth": max(depth for depth, _ in values),
        "strings": len(texts),
        "characters": characters,
        "words": cjk + len(words),
        "tokens_estimate": cjk + math.ceil((characters - cjk) / _CHARACTERS_PER_TOKEN),
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
