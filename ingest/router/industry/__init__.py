"""The line of business that a document is about: a section of ISIC Rev. 4, or a label of the operator's own."""

from llm_scheduler.ingest.router.industry.classifier import Classifier
from llm_scheduler.ingest.router.industry.linear_model import Model, ModelError
from llm_scheduler.ingest.router.industry.trainer import Row, Score, Scores, TrainingError, evaluate, read_rows, train

__all__ = [
    "Classifier",
    "Model",
    "ModelError",
    "Row",
    "Score",
    "Scores",
    "TrainingError",
    "evaluate",
    "read_rows",
    "train",
]
