"""Fault points: named places at which a test kills the process.

`LLM_FAULTS="commit.result_in_place:3"` kills the process (SIGKILL) the third time it passes that point. Without the
variable a fault point is a call of an empty function. The function is passed down as a parameter.
"""

import os
import signal
from collections.abc import Callable, Mapping

FaultPoint = Callable[[str], None]


def no_faults(name: str) -> None:
    """In production nothing happens."""


def from_environment(environ: Mapping[str, str]) -> FaultPoint:
    """The function for the points of `LLM_FAULTS` (`name:count,...`)."""
    points = environ.get("LLM_FAULTS")
    if not points:
        return no_faults
    left = {name: int(count or 1) for name, _, count in (part.partition(":") for part in points.split(","))}

    def pass_by(name: str) -> None:
        if name in left:
            left[name] -= 1
            if left[name] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return pass_by
