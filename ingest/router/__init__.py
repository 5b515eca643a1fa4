"""The router: where a document goes, and why. A pure function of the document and the configuration."""

from llm_scheduler.ingest.router.router import Asked, Routed, Router, reasons_of

__all__ = ["Asked", "Routed", "Router", "reasons_of"]
