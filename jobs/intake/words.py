"""The after-check of a repair: the words that went in are the words that came out."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from llm_scheduler.jobs.intake.values import parts

# A run of letters or digits; each character of a script without spaces by itself.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]+"
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_COMMENT = re.compile(
    r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?:(?<=[\s,{}\[\]"'\d])|^)(?://[^\n]*|\#[^\n]*)|/\*.*?\*/""",
    re.DOTALL | re.MULTILINE,
)
_SAME = {"none": "null", "undefined": "null"}


def unescape(text: str) -> str:
    r"""`text` with escapes as what they stand for: `\n` as a space, `\u4e2d` as its character."""

    def plain(found: re.Match[str]) -> str:
        if found[1] or found[2]:
            return chr(int(found[1] or found[2], 16))
        return " " if found[3] in "nrtbf" else str(found[3])

    text = _ESCAPE.sub(plain, text) if "\\" in text else text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def without_comments(text: str) -> str:
    """`text` without `//`, `#` and `/* */` comments outside of strings."""
    if "//" not in text and "#" not in text and "/*" not in text:
        return text
    return _COMMENT.sub(lambda found: found[1] or " ", text)


def coverage(text: str, published: str) -> tuple[float, float]:
    """(share of the words of `text` that are in the JSON text `published`, share of its words that are in `text`).

    The second is 0 when `published` has no words.
    """
    came = _words(unescape(without_comments(text)))
    went = _words(unescape(published))
    common = (came & went).total()
    return (common / came.total() if came else 1.0), (common / went.total() if went else 0.0)


def has_any(value: Any) -> bool:
    """Whether anything is written in `value`: a key, or a value with a letter or a digit in it."""
    return any(_WORD.search(text) for part in parts(value) for text in _written(part))


def _written(part: Any) -> Iterable[str]:
    """The keys of an object, the text of a scalar; a list's own are its elements'."""
    if isinstance(part, dict):
        return part
    return () if isinstance(part, list) else (str(part),)


def _words(text: str) -> Counter[str]:
    found = (word.lower() for word in _WORD.findall(text))
    return Counter(_SAME.get(word, word) for word in found)
