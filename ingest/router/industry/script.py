"""Chinese and Japanese characters in one form: what a model learns in one script holds in the others."""

import re
import tomllib
from pathlib import Path

_FORMS: str = tomllib.loads(Path(__file__).with_name("characters.toml").read_text("utf-8"))["forms"]
# {code: simplified character}, for each traditional and Japanese form that differs from it.
_SIMPLIFIED = {ord(char): forms[1] for forms in _FORMS.split() for char in forms if char not in ("-", forms[1])}
CJK = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_HAS_CJK = re.compile(f"[{CJK}]")


def has_cjk(text: str) -> bool:
    """Whether any character of `text` is Chinese or Japanese."""
    return not text.isascii() and _HAS_CJK.search(text) is not None


def simplified(text: str) -> str:
    """`text` with its Chinese characters in simplified form; all others, and the length, stay."""
    return text.translate(_SIMPLIFIED)
