"""The signals of a document: place, industry and language, each found by a part of its own."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llm_scheduler.ingest.router.language import DEFAULT, Languages
from llm_scheduler.ingest.router.signals import Geo, Industry, Language, Signals
from llm_scheduler.ingest.router.text import Text
from llm_scheduler.jobs.config import Routing

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found", Geo, Industry, Language)


class Detectors:
    """What finds signals. Loading takes about a second and 150 MB in all; what is switched off is not loaded."""

    def __init__(self, settings: Routing, asked_for: Callable[[str], bool], model: Path | None = None) -> None:
        """`asked_for` says of a signal that the settings leave open whether it is to be found; `model` overrides
        `settings.industry_model`."""
        self._geo: Callable[[Text, Any, int], Geo] | None = None
        self._industry: Callable[[Text, int], Industry] | None = None
        self._languages: Languages | None = None
        self._model = model or _current(settings)
        self._loaded = _version(self._model)
        if not settings.enabled:
            return

        def wanted(setting: bool | None, signal: str) -> bool:
            return asked_for(signal) if setting is None else setting

        if wanted(settings.geo_detection, "geo"):
            self._geo = _geo()
        if wanted(settings.industry_classification, "industry"):
            self._industry = _industry(self._model)
        if wanted(settings.language_detection, "language"):
            self._languages = Languages(settings.languages or DEFAULT)

    def __bool__(self) -> bool:
        return bool(self._geo or self._industry or self._languages)

    def refresh(self) -> str | None:
        """Take up the industry model anew if its file has changed. Returns what happened, in words, if anything did.

        Where the new one can't be read the old one stays, and nothing is tried until the file changes again.
        """
        version = _version(self._model)
        if self._industry is None or version == self._loaded:
            return None
        self._loaded = version
        try:
            self._industry = _industry(self._model)
        except (OSError, ValueError) as error:
            return f"The industry model {self._model} can't be used, the one before it stays: {error}"
        return f"The industry model {self._model} was taken up"

    def signals(self, documents: Sequence[Any], texts: Sequence[Text], clues: int) -> list[Signals]:
        """The signals of parsed documents, with so many pieces of evidence each. What fails for one document is left
        unknown: routing it goes on."""
        geo, industry, languages = self._geo, self._industry, self._languages
        pairs = list(zip(documents, texts, strict=True))
        none = [None] * len(pairs)
        geos = [_safely(geo, text, document, clues) for document, text in pairs] if geo else none
        industries = [_safely(industry, text, clues) for text in texts] if industry else none
        codes = [_safely(languages.detect, text.whole) for text in texts] if languages else none
        return [
            Signals(geo=place or _NOWHERE, industry=business or _NOTHING, language=code or _NO_LANGUAGE)
            for place, business, code in zip(geos, industries, codes, strict=True)
        ]


_NOWHERE, _NOTHING, _NO_LANGUAGE = Geo(), Industry(), Language()


def _safely(detect: Callable[..., _Found], *arguments: Any) -> _Found | None:
    try:
        return detect(*arguments)
    except Exception:
        _log.warning("A document's place, industry or language could not be looked at", exc_info=True)
        return None


def _geo() -> Callable[[Text, Any, int], Geo]:
    from llm_scheduler.ingest.router.geo import Places, detect

    places = Places.load()
    return lambda text, document, clues: detect(text, places, document, clues)


def _industry(model: Path | None) -> Callable[[Text, int], Industry]:
    from llm_scheduler.ingest.router.industry import Classifier

    return Classifier.load(model).classify


def _version(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file is replaced; None while there is none."""
    try:
        status = os.stat(path) if path else None
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size) if status else None


def _current(settings: Routing) -> Path | None:
    return Path(settings.industry_model) if settings.industry_model else None
