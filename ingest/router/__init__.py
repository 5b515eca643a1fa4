"""The router: where a document goes, and why. A pure function of the document and the configuration."""

from ingest.router.routing import Router

__all__ = ["Router"]
