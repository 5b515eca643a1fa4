"""`llmctl explain`: where a document goes, and why."""

import os
import sys
from typing import Annotated, Any, NamedTuple

import typer

from llm_scheduler.api.cli.documents import find_document, read_original
from llm_scheduler.api.cli.output import fail, print_json, print_pairs
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.ingest.router import RouteDecision, Router
from llm_scheduler.ingest.router.explanation import json_answer, reasons_with_clues
from llm_scheduler.jobs import intake
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import is_id


class Original(NamedTuple):
    """The bytes of a document, and its path below its watch folder."""

    raw: bytes
    source: str


def explain(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="FILE|ID", help="A file (- is stdin), or a finished document's id.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole route as JSON.")] = False,
) -> None:
    """Shows each signal with its clues, their positions and weights, and each rule that applies."""
    config = config_of(context)
    original = _original(config, what)
    router = Router(config, everything=True)
    decision = router.decide(value_of(original, config), original.source, len(original.raw))
    if as_json:
        print_json(json_answer(decision.route, decision.signals))
    else:
        print_pairs(_pairs(decision))


def value_of(original: Original, config: Config) -> Any:
    """The value that ingest routes by; None if the text needs a repair first."""
    limits = intake.IntakeLimits.from_config(config.processing)
    return intake.Preview(original.raw, original.source, limits).value


def original_of(config: Config, document_id: str) -> Original:
    """The original of a finished document. If it is not on this machine, the command ends."""
    entry, place = find_document(config, document_id)
    if place is None or place.original is None:
        fail(f"The original of {entry.id} is not in the configured folders of this machine.")
    return Original(read_original(config, place.original), entry.source)


def _original(config: Config, what: str) -> Original:
    if what != "-" and not os.path.exists(what) and is_id(what.strip().upper()):
        return original_of(config, what)
    try:
        if what == "-":
            return Original(sys.stdin.buffer.read(), "-")
        with open(what, "rb") as file:
            return Original(file.read(), os.path.basename(what))
    except OSError as error:
        fail(f"{what}: {error.strerror}. Give a file, or the id of a finished document.")


def _pairs(decision: RouteDecision) -> list[tuple[str, Any]]:
    route, signals = decision.route, decision.signals
    geo, industry = signals.geo, signals.industry
    place = ", ".join(filter(None, (geo.city, geo.country)))
    business = " ".join(filter(None, (f"{industry.section or ''}{industry.division or ''}", industry.label)))
    pairs = [
        ("priority", route.priority),
        ("queue", route.queue),
        ("handler", route.handler),
        ("schema", route.schema),
        ("accept", ", ".join(route.accept)),
        ("tags", ", ".join(route.tags)),
        ("place", f"{place} ({geo.confidence:.0%})" if place else "unknown"),
        ("industry", f"{business} ({industry.confidence:.0%})" if business else "unknown"),
        ("language", signals.language.code or "unknown"),
    ]
    pairs = [(name, value) for name, value in pairs if value]
    reasons = reasons_with_clues(route, signals)
    lines = [line for reason, clues in reasons for line in (reason, *(f"  {clue}" for clue in clues))]
    return pairs + [("because" if index == 0 else "", line) for index, line in enumerate(lines)]
