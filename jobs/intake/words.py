"""The final check of a repair: the words of the text must be the words of the document."""

import re
from collections import Counter

# A run of letters or digits. In scripts without spaces every character is a word.
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
    r"""`text` with its escapes decoded: `\n` becomes a space, `\u4e2d` its character."""

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
    """Compare the words of `text` with those of the JSON text `published`.

    Returns (share of the words of `text` that were kept, share of the words of `published` that were in `text`). The
    second is 0 when `published` has no words.
    """
    original = _words(unescape(without_comments(text)))
    result = _words(unescape(published))
    common = (original & result).total()
    return (common / original.total() if original else 1.0), (common / result.total() if result else 0.0)


def has_any(published: str) -> bool:
    """Whether any key or scalar of the JSON text `published` has a letter or a digit."""
    return _WORD.search(unescape(published)) is not None


def _words(text: str) -> Counter[str]:
    found = (word.lower() for word in _WORD.findall(text))
    return Counter(_SAME.get(word, word) for word in found)
