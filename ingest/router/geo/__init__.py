"""Where in the world a document belongs: `detect(text, places, document)`.

The names come from an artefact that `python -m ingest.router.geo.build OUT` makes; SOURCES.md says from what.
"""

from ingest.router.geo.detecting import detect
from ingest.router.geo.places import Places

__all__ = ["Places", "detect"]
