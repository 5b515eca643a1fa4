"""Is this text a document? Small named steps, each a function, each with a precise refusal.

`read(raw, limits)` runs them. Strict only: nothing is guessed or mended here.
"""

from jobs.intake.refusal import Refused
from jobs.intake.strict import Limits, body, read

__all__ = ["Limits", "Refused", "body", "read"]
