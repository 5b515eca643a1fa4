"""The place that a document is about: `detect(text, places, document)`. SOURCES.md says where the names are from."""

from llm_scheduler.ingest.router.geo.detector import detect
from llm_scheduler.ingest.router.geo.places import Places

__all__ = ["Places", "detect"]
