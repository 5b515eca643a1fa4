"""The command line of a daemon."""

import argparse
from collections.abc import Sequence

from llm_scheduler.jobs import __version__


def read(
    program: str,
    purpose: str,
    argv: Sequence[str] | None = None,
    *,
    queue: bool = False,
    port: bool = False,
) -> argparse.Namespace:
    """`config` from `--config FILE`; if wanted, `queue` as written (`high`, `high.2`) and `port`. None if not given.

    Exits after --help and --version; exits with status 2 and the usage on stderr when the command line is wrong.
    """
    parser = argparse.ArgumentParser(prog=program, description=purpose, allow_abbrev=False)
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration; else $LLM_CONFIG, ./scheduler_config.json, or the defaults"
    )
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    if port:
        parser.add_argument("--port", type=_port, help="listen on this port instead of the configuration's")
    if queue:
        parser.add_argument("queue", metavar="QUEUE", help="a priority level; high.2 is a second worker of high")
    return parser.parse_args(argv)


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a whole number from 1 to 65535 is")
    return number
