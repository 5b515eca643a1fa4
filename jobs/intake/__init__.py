"""Is this text a document? Small named steps, each with a receipt for what it changed or a precise refusal.

`read(raw, limits)` runs them: strict first; what wraps the one value is taken off; what is broken is mended when that
is beyond doubt. `strict.read` is the first step alone.
"""

from llm_scheduler.jobs.intake.binary import is_text
from llm_scheduler.jobs.intake.pipeline import Mending, Reading, glance, guess, read
from llm_scheduler.jobs.intake.rejection import Refused
from llm_scheduler.jobs.intake.split import is_by_line, split
from llm_scheduler.jobs.intake.strict import Limits, body
from llm_scheduler.jobs.receipt import Envelope, Quality, Repair, Warned

__all__ = [
    "Envelope",
    "Limits",
    "Mending",
    "Quality",
    "Reading",
    "Refused",
    "Repair",
    "Warned",
    "body",
    "glance",
    "guess",
    "is_by_line",
    "is_text",
    "read",
    "split",
]
