"""The domain of the LLM JSON scheduler, and all that a worker host runs.

Imports neither `ingest` nor `api`: a worker host needs this package and Redis, nothing else.
"""

__version__ = "0.1.0"
