"""The language of a text: by its script where that is enough, else by py3langid among the languages that are expected.

The scripts: Unicode's blocks. Chinese is told from Japanese by kana, and its two ways of writing from one another by
the characters that only one of them has: those of Big5 (Taiwan's standard set, traditional) and of GB 2312 (China's,
simplified) that the other set lacks.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from llm_scheduler.ingest.router.signals import Language

LOOKED_AT = 120  # characters; more of them hardly change the answer
DEFAULT = (
    *("ar", "bg", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko", "nl"),
    *("no", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "ur", "vi", "zh-Hans", "zh-Hant"),
)
_LEAST = 0.3  # of the model's confidence; below it nobody knows

_KANA = re.compile(r"[\u3040-\u30fa\u30fc-\u30ff\uff66-\uff9f]")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
# Scripts that one of the known languages has to itself, or shares with few.
_SCRIPTS = {
    "ko": re.compile(r"[\uac00-\ud7af\u1100-\u11ff]"),
    "th": re.compile(r"[\u0e00-\u0e7f]"),
    "el": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"),
    "he": re.compile(r"[\u0590-\u05ff]"),
    "hi": re.compile(r"[\u0900-\u097f]"),
    "ar": re.compile(r"[\u0600-\u06ff]"),
    "ru": re.compile(r"[\u0400-\u04ff]"),
}
_CYRILLIC = ("ru", "uk", "bg", "sr", "mk", "be", "kk", "mn")
_ARABIC = ("ar", "fa", "ur", "ps", "ug")
_LETTER = re.compile(r"[^\W\d_]")


class Languages:
    """Tells the languages that may be expected from one another. Raises ValueError for a code that is none of those
    it knows."""

    def __init__(self, expected: Sequence[str] = DEFAULT) -> None:
        self._expected = frozenset(expected)
        self._model: Any = None
        self._groups: dict[str, Any] = {}
        if unknown := self._expected - set(known()):
            raise ValueError(f"no language is called {', '.join(sorted(unknown))}")

    def detect(self, text: str) -> Language:
        """The language of `text`; without a code when it has no letters or the languages are too close."""
        looked_at = text[:LOOKED_AT]
        if looked_at.isascii():
            return self._among("latin", looked_at) if _LATIN.search(looked_at) else Language()
        letters = len(_LETTER.findall(looked_at))
        if not letters:
            return Language()
        if (latin := len(_LATIN.findall(looked_at))) and 2 * latin > letters:
            return self._among("latin", looked_at)
        found = self._by_script(looked_at, letters)
        return found if found.code is None or found.code in self._expected else Language()

    def _by_script(self, text: str, letters: int) -> Language:
        han, kana = len(_HAN.findall(text)), len(_KANA.findall(text))
        if 2 * (han + kana) >= letters:
            if 20 * kana >= han:
                return Language(code="ja", confidence=0.99 if kana > 1 else 0.8)
            return _chinese(text)
        counts = {code: len(pattern.findall(text)) for code, pattern in _SCRIPTS.items()}
        code = max(counts, key=lambda each: counts[each])
        if not counts[code]:
            return self._among("latin", text)
        group = {"ru": "cyrillic", "ar": "arabic"}.get(code)
        return self._among(group, text) if group else Language(code=code, confidence=0.99)

    def _among(self, group: str, text: str) -> Language:
        """The likeliest of the expected languages of one script."""
        model = self._groups.get(group)
        if model is None:
            model = self._groups[group] = self._restricted(group)
        if isinstance(model, str):
            return Language(code=model or None, confidence=0.9 if model else 0.0)
        code, confidence = model.classify(text)
        sure = float(confidence)
        if math.isnan(sure) or sure < _LEAST:
            return Language(confidence=0.0 if math.isnan(sure) else round(sure, 2))
        return Language(code=str(code).replace("nb", "no"), confidence=round(sure, 2))

    def _restricted(self, group: str) -> Any:
        """py3langid for the languages of a script; the only one where there is but one, "" where there is none."""
        others = {"zh-Hans", "zh-Hant", "ja", *(set(_SCRIPTS) - {"ru", "ar"})}
        members = {"cyrillic": set(_CYRILLIC), "arabic": set(_ARABIC)}
        members["latin"] = set(known()) - others - members["cyrillic"] - members["arabic"]
        codes = sorted(self._expected & members[group])
        if len(codes) < 2:
            return codes[0] if codes else ""
        import numpy as np  # 0.1 s, for which nobody should wait who looks for no language

        model = _load()
        model.set_languages(codes)
        # Row by row and in single precision, a look takes a sixth of the time: the rows of a text are far apart.
        model.nb_ptc = np.ascontiguousarray(model.nb_ptc, dtype=np.float32)
        return model


def known() -> tuple[str, ...]:
    """All codes that may be expected."""
    extra = (
        "sr",
        "mk",
        "be",
        "kk",
        "mn",
        "ps",
        "ug",
        "af",
        "bs",
        "ca",
        "cy",
        "et",
        "eu",
        "ga",
        "gl",
        "hr",
        "is",
        "lt",
        "lv",
    )
    return (*DEFAULT, *extra, "ms", "sk", "sl", "sq", "sw", "tl")


def _load() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # 0.2 s and 18 MB

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _chinese(text: str) -> Language:
    simplified, traditional = _written_two_ways()
    hans = sum(letter in simplified for letter in text)
    hant = sum(letter in traditional for letter in text)
    if hans == hant == 0:
        return Language(code="zh-Hans", confidence=0.5)  # both write it alike; most who write Chinese write this
    code, count = ("zh-Hans", hans) if hans >= hant else ("zh-Hant", hant)
    return Language(code=code, confidence=round(0.5 + 0.49 * count / (hans + hant), 2))


@cache
def _written_two_ways() -> tuple[frozenset[str], frozenset[str]]:
    """The characters of simplified and of traditional Chinese that the other one has not."""
    letters = [chr(code) for code in range(0x4E00, 0xA000)]
    simplified, traditional = (frozenset(filter(_is_in(charset), letters)) for charset in ("gb2312", "big5"))
    return simplified - traditional, traditional - simplified


def _is_in(charset: str) -> Callable[[str], bool]:
    return lambda letter: bool(letter.encode(charset, "ignore"))
