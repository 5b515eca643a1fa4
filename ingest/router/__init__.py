"""The router: where a document goes, and why. It depends on the document and the configuration alone."""

from llm_scheduler.ingest.router.router import RouteDecision, Router

__all__ = ["RouteDecision", "Router"]
