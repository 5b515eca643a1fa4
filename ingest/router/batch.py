"""`python -m llm_scheduler.ingest.router.batch < in.jsonl > out.jsonl`: the route of each line, in order.

Each input line is `{"text": ...}` or `{"document": ...}`; each output line is the whole route, with null for what is
unknown. Any other line gets `{"error": ...}`, which keeps the order, and the exit status is then 1.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from llm_scheduler.ingest.router.explanation import json_answer
from llm_scheduler.ingest.router.router import RouteDecision, Router
from llm_scheduler.jobs.config import Config, ConfigError, load
from llm_scheduler.jobs.exit_codes import ExitCode

_GROUP = 64  # lines that are routed together


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 1 if any line was wrong, 78 if the configuration is not valid."""
    parser = argparse.ArgumentParser(prog="python -m llm_scheduler.ingest.router.batch", description=__doc__)
    parser.add_argument("--config", metavar="FILE", type=Path, help="the configuration; the defaults without it")
    parser.add_argument("--model", metavar="FILE", type=Path, help="an industry model made by `llmctl router train`")
    options = parser.parse_args(arguments)
    try:
        router = Router(load(options.config) if options.config else Config(), options.model, everything=True)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return ExitCode.CONFIGURATION
    except (OSError, ValueError) as error:
        print(f"{options.model}: {error}", file=sys.stderr)
        return ExitCode.NOT_WELL
    encode = msgspec.json.Encoder().encode
    status = ExitCode.OK
    for answer in _answers(router, sys.stdin.buffer):
        if "error" in answer:
            status = ExitCode.NOT_WELL
        sys.stdout.buffer.write(encode(answer) + b"\n")
    sys.stdout.buffer.flush()
    return status


def _answers(router: Router, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())  # the last may be empty
    while group := list(islice(numbered, _GROUP)):
        answers = [_decision(router, number, line) for number, line in group]
        router.complete([each for each in answers if isinstance(each, RouteDecision)])
        for each in answers:
            yield json_answer(each.route, each.signals) if isinstance(each, RouteDecision) else each


def _decision(router: Router, number: int, line: bytes) -> RouteDecision | dict[str, Any]:
    """The decision about a line, or what is wrong with it."""
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return {"error": f"line {number} is not JSON: {error}"}
    if not isinstance(value, dict) or not ({"text", "document"} & value.keys()):
        return {"error": f'line {number} is neither {{"text": ...}} nor {{"document": ...}}'}
    return router.decide(value["document"] if "document" in value else value["text"], "", len(line))


if __name__ == "__main__":
    sys.exit(main())
