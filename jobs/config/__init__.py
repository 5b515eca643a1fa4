"""`scheduler_config.json`. `load(path)` reads and checks it once; everything else takes a `Config`, or a part of it."""

from llm_scheduler.jobs.config.loader import ConfigError, find, load
from llm_scheduler.jobs.config.model import (
    Api,
    Config,
    Directories,
    Intake,
    Logging,
    Processing,
    Routing,
    Rule,
    Security,
    Then,
)
from llm_scheduler.jobs.config.problem import ConfigProblem

__all__ = [
    "Api",
    "Config",
    "ConfigError",
    "ConfigProblem",
    "Directories",
    "Intake",
    "Logging",
    "Processing",
    "Routing",
    "Rule",
    "Security",
    "Then",
    "find",
    "load",
]
