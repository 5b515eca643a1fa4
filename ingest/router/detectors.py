"""The detectors of a document's signals: place, industry and language."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llm_scheduler.ingest.router.language import COMMON_LANGUAGES, LanguageDetector
from llm_scheduler.ingest.router.signals import Geo, Industry, Language, Signals
from llm_scheduler.ingest.router.text import Text
from llm_scheduler.jobs.config.model import Routing

_log = logging.getLogger(__name__)
_Signal = TypeVar("_Signal", Geo, Industry, Language)
_NO_PLACE, _NO_INDUSTRY, _NO_LANGUAGE = Geo(), Industry(), Language()


class Detectors:
    """The detectors that are switched on. All three take about a second to load, and 150 MB."""

    def __init__(self, settings: Routing, needs: Callable[[str], bool], model: Path | None = None) -> None:
        """`needs(signal)` decides where the settings leave a signal open. `model` overrides
        `settings.industry_model`. Raises OSError or ValueError if the model cannot be loaded."""
        self._geo: Callable[[Text, Any, int], Geo] | None = None
        self._industry: Callable[[Text, int], Industry] | None = None
        self._language: Callable[[str], Language] | None = None
        self._model = model or (Path(settings.industry_model) if settings.industry_model else None)
        self._version = _version(self._model)
        if not settings.enabled:
            return

        def is_on(setting: bool | None, signal: str) -> bool:
            return needs(signal) if setting is None else setting

        if is_on(settings.geo_detection, "geo"):
            from llm_scheduler.ingest.router.geo import Places, detect

            places = Places.load()
            self._geo = lambda text, document, clues: detect(text, places, document, clues)
        if is_on(settings.industry_classification, "industry"):
            self._industry = _industry(self._model)
        if is_on(settings.language_detection, "language"):
            self._language = LanguageDetector(settings.languages or COMMON_LANGUAGES).detect

    def __bool__(self) -> bool:
        return bool(self._geo or self._industry or self._language)

    def refresh(self) -> str | None:
        """Load the industry model again if its file has changed. Returns a message if it did.

        If the new file cannot be loaded, the previous model stays in use until the file changes again.
        """
        version = _version(self._model)
        if self._industry is None or version == self._version:
            return None
        self._version = version
        try:
            self._industry = _industry(self._model)
        except (OSError, ValueError) as error:
            return f"Could not load the industry model {self._model}; the previous one stays in use: {error}"
        return f"Loaded the new industry model {self._model}"

    def signals(self, documents: Sequence[Any], texts: Sequence[Text], clues: int) -> list[Signals]:
        """The signals of parsed documents, each with at most `clues` clues. A signal whose detector fails for a
        document stays unknown there."""
        geo, industry, language = self._geo, self._industry, self._language
        none = [None] * len(texts)
        places = [_safely(geo, *pair, clues) for pair in zip(texts, documents, strict=True)] if geo else none
        industries = [_safely(industry, text, clues) for text in texts] if industry else none
        languages = [_safely(language, text.whole) for text in texts] if language else none
        return [
            Signals(geo=where or _NO_PLACE, industry=what or _NO_INDUSTRY, language=tongue or _NO_LANGUAGE)
            for where, what, tongue in zip(places, industries, languages, strict=True)
        ]


def _safely(detect: Callable[..., _Signal], *arguments: Any) -> _Signal | None:
    try:
        return detect(*arguments)
    except Exception:
        _log.warning("A detector failed: this document's place, industry or language stays unknown", exc_info=True)
        return None


def _industry(model: Path | None) -> Callable[[Text, int], Industry]:
    from llm_scheduler.ingest.router.industry.classifier import Classifier

    return Classifier.load(model).classify


def _version(path: Path | None) -> tuple[int, int, int] | None:
    """A value that changes when the file is replaced; None while there is no file."""
    try:
        status = os.stat(path) if path else None
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size) if status else None
