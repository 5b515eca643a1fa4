"""`scheduler_config.json`. `load(path)` reads and checks it once; everything else takes a `Config`, or a part of it."""

from llm_scheduler.jobs.config.loader import ConfigError, find, load
from llm_scheduler.jobs.config.model import Config, Directories, Intake, Processing, Security

__all__ = ["Config", "ConfigError", "Directories", "Intake", "Processing", "Security", "find", "load"]
