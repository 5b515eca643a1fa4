"""The scripts in which names are written, and their variants: bare Latin letters, both Chinese scripts."""

import unicodedata
from collections.abc import Callable
from importlib import import_module

_LETTERS = str.maketrans({"ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe", "İ": "i", "þ": "th"})


def _any_in(first: str, last: str) -> Callable[[str], bool]:
    return lambda text: any(first <= sign <= last for sign in text)


is_cyrillic = _any_in("\u0400", "\u052f")
is_arabic = _any_in("\u0600", "\u06ff")
is_hebrew = _any_in("\u0590", "\u05ff")
_has_kana = _any_in("\u3040", "\u30ff")
_has_hangul = _any_in("\uac00", "\ud7af")
_has_ideograph = _any_in("\u3400", "\u9fff")


def is_latin(name: str) -> bool:
    return all(sign < "\u0250" or "\u1e00" <= sign <= "\u1eff" or not sign.isalpha() for sign in name)


def is_kana_or_hangul(name: str) -> bool:
    return _has_kana(name) or _has_hangul(name)


def is_han(name: str) -> bool:
    """Whether a name is written in Chinese characters, without kana or hangul."""
    return _has_ideograph(name) and not is_kana_or_hangul(name)


def bare_letters(name: str) -> str:
    """A Latin name without accents."""
    apart = unicodedata.normalize("NFD", name.translate(_LETTERS))
    return "".join(sign for sign in apart if not unicodedata.combining(sign))


def han_variants() -> Callable[[str], list[str]]:
    """A function that returns a name in both Chinese scripts. A name without Chinese characters stays as it is."""
    converters = [import_module("opencc").OpenCC(way) for way in ("s2t", "t2s", "s2tw")]

    def variants(name: str) -> list[str]:
        if not _has_ideograph(name):
            return [name]
        forms = {name, *(converter.convert(name) for converter in converters)}
        forms |= {form.replace("県", end) for form in forms for end in "縣县"}
        forms |= {form.replace("臺", "台") for form in forms}
        return sorted(forms | {form.replace("台灣", "臺灣") for form in forms})

    return variants
