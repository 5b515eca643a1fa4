"""The line of business that a document is about: a section of ISIC Rev. 4, or a label of the operator's own."""

from ingest.router.industry.classifier import Classifier
from ingest.router.industry.model import Model, ModelError
from ingest.router.industry.training import Row, Score, Scores, TrainingError, evaluate, read_rows, train

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
