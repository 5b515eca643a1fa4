"""`scheduler_config.json`: read once, checked whole, passed down.

`load(path)` is the one way in. Everything else in the project takes a `Config` (or a part of one) as a parameter.
"""

from llm_scheduler.jobs.config.loader import ConfigError, check, find, load
from llm_scheduler.jobs.config.model import (
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
from llm_scheduler.jobs.config.problem import Problem

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
