"""The LLM JSON scheduler, under its one import name. What a handler needs is here.

`jobs`, `ingest` and `api` beside this file are links to the project's folders; in a wheel they are real folders.
"""

from llm_scheduler.jobs import __version__
from llm_scheduler.jobs.handler import BatchContext, Context, Reject

__all__ = ["BatchContext", "Context", "Reject", "__version__"]
