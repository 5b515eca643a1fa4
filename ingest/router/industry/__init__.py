"""The industry that a document is about: a section of ISIC Rev. 4, or one of the operator's own labels."""

from llm_scheduler.ingest.router.industry.classifier import Classifier

__all__ = ["Classifier"]
