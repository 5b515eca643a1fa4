"""The sections and divisions of ISIC Rev. 4, from `taxonomy.toml`."""

import tomllib
from pathlib import Path

_TABLE = tomllib.loads(Path(__file__).with_name("taxonomy.toml").read_text("utf-8"))
SECTIONS: dict[str, str] = {letter: section["title"] for letter, section in _TABLE.items()}
# The section of each division.
DIVISIONS = {code: letter for letter, section in _TABLE.items() for code in section["divisions"].split()}


def section_of(code: str) -> str | None:
    """The section of `code`: a division's two digits, or a section's letter itself; None: no such code."""
    return code if code in SECTIONS else DIVISIONS.get(code)
