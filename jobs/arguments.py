"""What a daemon may be told on its command line."""

import argparse
from collections.abc import Sequence

from jobs import __version__


def read(program: str, does: str, argv: Sequence[str] | None = None, *, queue: bool = False) -> argparse.Namespace:
    """`--config FILE` as `config` and, where there is one, `queue`: as it was written, `high` or `high.2`.

    Answers --help and --version and exits; exits with 2 and the usage on stderr when told anything else.
    """
    parser = argparse.ArgumentParser(prog=program, description=does, allow_abbrev=False)
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration; else $LLM_CONFIG, ./scheduler_config.json, or the defaults"
    )
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    if queue:
        parser.add_argument("queue", metavar="QUEUE", help="a priority level; high.2 is a second worker of high")
    return parser.parse_args(argv)
