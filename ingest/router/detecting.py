"""The signals of a document: place, industry and language, each found by a part of its own."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ingest.router.language import DEFAULT, Languages
from ingest.router.signals import Geo, Industry, Language, Signals
from ingest.router.text import Text
from jobs.config import Routing

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found", Geo, Industry, Language)


class Detectors:
    """What finds signals. Loading takes about a second and 150 MB in all; what is switched off is not loaded."""

    def __init__(self, settings: Routing, model: Path | None = None) -> None:
        """`model` overrides `settings.industry_model`."""
        self._geo: Callable[[Text, Any], Geo] | None = None
        self._industry: Callable[[Text], Industry] | None = None
        self._languages: Languages | None = None
        self._model = model or _current(settings)
        self._loaded = _version(self._model)
        if not settings.enabled:
            return
        if settings.geo_detection:
            self._geo = _geo()
        if settings.industry_classification:
            self._industry = _industry(self._model)
        if settings.language_detection:
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

    def signals(self, document: Any, text: Text) -> Signals:
        """The signals of a parsed document. What fails for one document is left unknown: routing it goes on."""
        if not text.parts:
            return Signals()
        geo, industry, languages = self._geo, self._industry, self._languages
        return Signals(
            geo=_safely(lambda: geo(text, document), Geo()) if geo else Geo(),
            industry=_safely(lambda: industry(text), Industry()) if industry else Industry(),
            language=_safely(lambda: languages.detect(text.whole), Language()) if languages else Language(),
        )


def _safely(detect: Callable[[], _Found], unknown: _Found) -> _Found:
    try:
        return detect()
    except Exception:
        _log.warning("A document's %s could not be looked at", type(unknown).__name__.lower(), exc_info=True)
        return unknown


def _geo() -> Callable[[Text, Any], Geo]:
    from ingest.router.geo import Places, detect

    places = Places.load()
    return lambda text, document: detect(text, places, document)


def _industry(model: Path | None) -> Callable[[Text], Industry]:
    from ingest.router.industry import Classifier

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
