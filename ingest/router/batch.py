"""`python -m llm_scheduler.ingest.router.batch < in.jsonl > out.jsonl`: the route of each line, in order.

A line in is `{"text": ...}` or `{"document": ...}`; a line out is the whole route. What is not known is null. A line
that is neither is answered by `{"error": ...}`, so that the order holds, and the exit status is then 1.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from llm_scheduler.ingest.router.router import Asked, Routed, Router, reasons_of
from llm_scheduler.jobs.config import Config, ConfigError, load

EXIT_REFUSED = 1
_GROUP = 64  # lines that are routed together


def lines(router: Router, raws: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """What is said of each line."""
    numbered = ((number, raw) for number, raw in enumerate(raws, 1) if raw.strip())  # the last may be empty
    while group := list(islice(numbered, _GROUP)):
        asked = [_asked(number, raw) for number, raw in group]
        routed = iter(router.explained([each for each in asked if isinstance(each, Asked)]))
        for each in asked:
            yield shown(next(routed)) if isinstance(each, Asked) else each


def _asked(number: int, raw: bytes) -> Asked | dict[str, Any]:
    """What a line asks, or what is wrong with it."""
    try:
        asked = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return {"error": f"line {number} is not JSON: {error}"}
    if not isinstance(asked, dict) or not ({"text", "document"} & asked.keys()):
        return {"error": f'line {number} is neither {{"text": ...}} nor {{"document": ...}}'}
    return Asked(asked["document"] if "document" in asked else asked["text"], "", len(raw))


def shown(routed: Routed) -> dict[str, Any]:
    """A route as a line of the answer, and as `llmctl explain --json` shows it."""
    route, signals = routed.route, routed.signals
    return {
        "priority": route.priority,
        "queue": route.queue,
        "handler": route.handler,
        "schema": route.schema or None,
        "tags": route.tags,
        "geo": signals.geo,
        "industry": signals.industry,
        "language": signals.language.code,
        "language_confidence": signals.language.confidence,
        "reasons": said_of(routed),
    }


def said_of(routed: Routed) -> list[str]:
    """The reasons at full length: what the priority rests on, every clue, and each rule that applied."""
    brief = reasons_of(routed.signals)
    reasons = routed.route.reasons
    return [*reasons[:1], *reasons_of(routed.signals, at_length=True), *reasons[1 + len(brief) :]]


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 1 when a line was refused, 78 for a configuration that can't be used."""
    parser = argparse.ArgumentParser(prog="python -m llm_scheduler.ingest.router.batch", description=__doc__)
    parser.add_argument("--config", metavar="FILE", type=Path, help="the configuration; without it the defaults")
    parser.add_argument("--model", metavar="FILE", type=Path, help="an industry model made by `llmctl router train`")
    asked = parser.parse_args(arguments)
    try:
        router = Router(load(asked.config) if asked.config else Config(), asked.model, everything=True)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 78
    except (OSError, ValueError) as error:
        print(f"{asked.model}: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return _answer(router, sys.stdin.buffer, sys.stdout.buffer)


def _answer(router: Router, source: BinaryIO, target: BinaryIO) -> int:
    encode = msgspec.json.Encoder().encode
    refused = False
    for line in lines(router, source):
        refused = refused or "error" in line
        target.write(encode(line) + b"\n")
    target.flush()
    return EXIT_REFUSED if refused else 0


if __name__ == "__main__":
    sys.exit(main())
