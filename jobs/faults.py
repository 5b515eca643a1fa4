"""Fault points: named places at which a test can have the process killed, exactly there and without sleeping.

`LLM_FAULTS="commit.result_in_place:3"` kills the process (SIGKILL) the third time it passes that point. Without the
variable a fault point is a call of an empty function. Points are passed down as a parameter, never looked up.
"""

import os
import signal
from collections.abc import Callable, Mapping

FaultPoint = Callable[[str], None]


def no_faults(name: str) -> None:
    """Production: nothing ever happens."""


def from_environment(environ: Mapping[str, str]) -> FaultPoint:
    """The fault point function that `LLM_FAULTS` (`name:count,...`) asks for."""
    wanted = environ.get("LLM_FAULTS")
    if not wanted:
        return no_faults
    left = {name: int(count or 1) for name, _, count in (part.partition(":") for part in wanted.split(","))}

    def pass_by(name: str) -> None:
        if name in left:
            left[name] -= 1
            if left[name] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return pass_by
