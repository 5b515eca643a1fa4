"""From the bytes of a file to documents.

`read` turns one text into a document: by the strict step, else unwrapped, else repaired when the meaning is beyond
doubt. Every change has a receipt; a text that is no document raises `IntakeRejection`. `split` finds the documents in
a file of several. `Preview` is what ingest learns from a file before a worker reads it.
"""

from llm_scheduler.jobs.intake.draft import ReadDocument
from llm_scheduler.jobs.intake.limits import IntakeLimits, SizeLimit, size_limit
from llm_scheduler.jobs.intake.pipeline import read
from llm_scheduler.jobs.intake.preview import Preview, parts_of
from llm_scheduler.jobs.intake.rejection import IntakeRejection
from llm_scheduler.jobs.intake.split import LINE_SUFFIXES, is_by_line, split
from llm_scheduler.jobs.intake.strict import body
from llm_scheduler.jobs.receipt import Quality

__all__ = [
    "LINE_SUFFIXES",
    "IntakeLimits",
    "IntakeRejection",
    "Preview",
    "Quality",
    "ReadDocument",
    "SizeLimit",
    "body",
    "is_by_line",
    "parts_of",
    "read",
    "size_limit",
    "split",
]
