"""`scheduler_config.json`: read once, checked whole, passed down.

`load(path)` is the one way in. Everything else in the project takes a `Config` (or a part of one) as a parameter.
"""

from jobs.config.model import (
    Api,
    Config,
    Directories,
    Intake,
    Logging,
    Monitoring,
    Processing,
    Queue,
    Routing,
    Rule,
    Security,
    Then,
)
from jobs.config.problem import Problem
from jobs.config.reading import ConfigError, check, find, load

__all__ = [
    "Api",
    "Config",
    "ConfigError",
    "Directories",
    "Intake",
    "Logging",
    "Monitoring",
    "Problem",
    "Processing",
    "Queue",
    "Routing",
    "Rule",
    "Security",
    "Then",
    "check",
    "find",
    "load",
]
