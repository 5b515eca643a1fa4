"""The language of a text: by its script if only one expected language uses it, else by py3langid.

Scripts are Unicode blocks. Kana tells Japanese from Chinese. The two Chinese scripts are told apart by the characters
that only one of GB 2312 (China's standard set, simplified) and Big5 (Taiwan's, traditional) contains.
"""

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from llm_scheduler.ingest.router.signals import Language

SAMPLE_CHARACTERS = 120  # of a text; more hardly change the answer
_COMMON = "ar bg cs da de el en es fa fi fr he hi hu id it ja ko nl no pl pt ro ru sv th tr uk ur vi zh-Hans zh-Hant"
_OTHERS = "sr mk be kk mn ps ug af bs ca cy et eu ga gl hr is lt lv ms sk sl sq sw tl"
COMMON_LANGUAGES = tuple(_COMMON.split())  # those expected by default
KNOWN_LANGUAGES = (*COMMON_LANGUAGES, *_OTHERS.split())
_MIN_CONFIDENCE = 0.3  # of the model; below it the language is unknown

_KANA = re.compile(r"[\u3040-\u30fa\u30fc-\u30ff\uff66-\uff9f]")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
# Scripts by the known language that uses it alone, or by a group of `_GROUPS`.
_SCRIPTS = {
    "ko": re.compile(r"[\uac00-\ud7af\u1100-\u11ff]"),
    "th": re.compile(r"[\u0e00-\u0e7f]"),
    "el": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"),
    "he": re.compile(r"[\u0590-\u05ff]"),
    "hi": re.compile(r"[\u0900-\u097f]"),
    "arabic": re.compile(r"[\u0600-\u06ff]"),
    "cyrillic": re.compile(r"[\u0400-\u04ff]"),
}
_GROUPS = {
    "cyrillic": {"ru", "uk", "bg", "sr", "mk", "be", "kk", "mn"},
    "arabic": {"ar", "fa", "ur", "ps", "ug"},
}
_GROUPS["latin"] = set(KNOWN_LANGUAGES).difference(("zh-Hans", "zh-Hant", "ja"), _SCRIPTS, *_GROUPS.values())
_LETTER = re.compile(r"[^\W\d_]")


class LanguageDetector:
    """Finds the language of texts among the expected ones. Raises ValueError for an unknown code."""

    def __init__(self, expected: Sequence[str] = COMMON_LANGUAGES) -> None:
        self._expected = frozenset(expected)
        self._models: dict[str, Any] = {}  # by group; the code itself for a group with one expected language
        if unknown := self._expected - set(KNOWN_LANGUAGES):
            raise ValueError(f"no language is called {', '.join(sorted(unknown))}")

    def detect(self, text: str) -> Language:
        """The language of `text`; without a code if it has no letters, or several languages are equally likely."""
        sample = text[:SAMPLE_CHARACTERS]
        if sample.isascii():
            return self._most_likely("latin", sample) if _LATIN.search(sample) else Language()
        letters = len(_LETTER.findall(sample))
        if not letters:
            return Language()
        if (latin := len(_LATIN.findall(sample))) and 2 * latin > letters:
            return self._most_likely("latin", sample)
        found = self._by_script(sample, letters)
        return found if found.code is None or found.code in self._expected else Language()

    def _by_script(self, text: str, letters: int) -> Language:
        han, kana = len(_HAN.findall(text)), len(_KANA.findall(text))
        if 2 * (han + kana) >= letters:
            if 20 * kana >= han:
                return Language(code="ja", confidence=0.99 if kana > 1 else 0.8)
            return _chinese(text)
        counts = {script: len(pattern.findall(text)) for script, pattern in _SCRIPTS.items()}
        script = max(counts, key=counts.__getitem__)
        if not counts[script]:
            return self._most_likely("latin", text)
        return self._most_likely(script, text) if script in _GROUPS else Language(code=script, confidence=0.99)

    def _most_likely(self, group: str, text: str) -> Language:
        """The most likely of the expected languages of a group."""
        model = self._models.get(group)
        if model is None:
            model = self._models[group] = self._model(group)
        if isinstance(model, str):
            return Language(code=model or None, confidence=0.9 if model else 0.0)
        code, confidence = model.classify(text)
        sure = float(confidence)
        if math.isnan(sure) or sure < _MIN_CONFIDENCE:
            return Language(confidence=0.0 if math.isnan(sure) else round(sure, 2))
        return Language(code=str(code).replace("nb", "no"), confidence=round(sure, 2))

    def _model(self, group: str) -> Any:
        """py3langid for the expected languages of a group; the code if there is only one, "" if there is none."""
        codes = sorted(self._expected & _GROUPS[group])
        if len(codes) < 2:
            return codes[0] if codes else ""
        import numpy as np  # these two take 0.3 s and 18 MB: only where the language is needed
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        model.set_languages(codes)
        # In row order and single precision it takes a sixth of the time: the rows of one text are far apart.
        model.nb_ptc = np.ascontiguousarray(model.nb_ptc, dtype=np.float32)
        return model


def _chinese(text: str) -> Language:
    simplified, traditional = _own_characters()
    hans = sum(letter in simplified for letter in text)
    hant = sum(letter in traditional for letter in text)
    if hans == hant == 0:
        return Language(code="zh-Hans", confidence=0.5)  # written alike in both; most writers use this one
    code, count = ("zh-Hans", hans) if hans >= hant else ("zh-Hant", hant)
    return Language(code=code, confidence=round(0.5 + 0.49 * count / (hans + hant), 2))


@cache
def _own_characters() -> tuple[frozenset[str], frozenset[str]]:
    """The characters that only simplified Chinese has, and those that only traditional Chinese has."""
    letters = [chr(code) for code in range(0x4E00, 0xA000)]
    simplified, traditional = (
        frozenset(letter for letter in letters if letter.encode(charset, "ignore")) for charset in ("gb2312", "big5")
    )
    return simplified - traditional, traditional - simplified
