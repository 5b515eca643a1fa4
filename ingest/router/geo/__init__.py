"""Where in the world a document belongs: `detect(text, places, document)`.

The names come from an artefact that `make artefacts` makes; SOURCES.md says from what.
"""

from llm_scheduler.ingest.router.geo.detector import detect
from llm_scheduler.ingest.router.geo.places import Places

__all__ = ["Places", "detect"]
