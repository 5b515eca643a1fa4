"""Is this text a document? Small named steps, each with a receipt for what it changed or a precise refusal.

`read(raw, limits)` runs them: strict first; what wraps the one value is taken off; what is broken is mended when that
is beyond doubt. `strict.read` is the first step alone.
"""

from jobs.intake.binary import is_text
from jobs.intake.pipeline import Mending, Reading, glance, guess, read
from jobs.intake.refusal import Refused
from jobs.intake.several import is_by_line, split
from jobs.intake.strict import Limits, body
from jobs.receipt import Envelope, Quality, Repair, Warned

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
