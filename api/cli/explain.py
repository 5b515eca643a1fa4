"""`llmctl explain`: where a document goes, and why."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from llm_scheduler.ingest.router import Routed
    from llm_scheduler.jobs.config import Config


class Original(NamedTuple):
    """The bytes of a document, and what it is called below its watch folder."""

    raw: bytes
    source: str


def explain(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="FILE|ID", help="A file (- is stdin), or a finished document's id.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole route as JSON.")] = False,
) -> None:
    """Say where a document goes, and why.

    Each signal with its clues, their places and weights, and each rule that applies.
    """
    from llm_scheduler.api.cli.output import console, print_json, print_pairs
    from llm_scheduler.ingest.router import Router
    from llm_scheduler.ingest.router.batch import shown

    config = settings(context).config
    original = _original(config, what)
    routed = Router(config, everything=True).explain(value_of(original, config), original.source, len(original.raw))
    if as_json:
        print_json(shown(routed))
    else:
        print_pairs(_pairs(routed), console())


def value_of(original: Original, config: Config) -> Any:
    """The value that ingest routes by: None where the text would have to be mended first."""
    from llm_scheduler.jobs import intake

    limits = intake.Limits(config.processing.max_document_bytes, config.processing.max_depth)
    complete, value = intake.glance(original.raw, original.source, limits)
    return value if complete else intake.guess(original.raw, limits)


def original_of(config: Config, document_id: str) -> Original:
    """The original of a finished document. Ends the command where it is not at hand."""
    from llm_scheduler.api.cli.tasks import finished
    from llm_scheduler.ingest.spool.originals import read_original
    from llm_scheduler.jobs.sealing import Seal, WrongKey

    entry, place = finished(config, document_id)
    if place is None or place.original is None:
        fail(f"The original of {entry.id} is not in the configured folders of this machine.", ExitCode.NOT_WELL)
    keys = config.security.encryption_keys
    try:
        return Original(read_original(place.original, Seal(keys) if keys else None), entry.source)
    except (OSError, WrongKey) as error:
        fail(f"{place.original}: {error}", ExitCode.NOT_WELL)


def _original(config: Config, what: str) -> Original:
    from llm_scheduler.jobs.document import is_id

    if what != "-" and not os.path.exists(what) and is_id(what.strip().upper()):
        return original_of(config, what)
    try:
        if what == "-":
            return Original(sys.stdin.buffer.read(), "-")
        with open(what, "rb") as file:
            return Original(file.read(), os.path.basename(what))
    except OSError as error:
        fail(f"{what}: {error.strerror}. Give a file, or the id of a finished document.", ExitCode.NOT_WELL)


def _pairs(routed: Routed) -> list[tuple[str, Any]]:
    from llm_scheduler.ingest.router.batch import said_of

    route, geo, industry = routed.route, routed.signals.geo, routed.signals.industry
    place = ", ".join(filter(None, (geo.city, geo.country)))
    business = " ".join(filter(None, (f"{industry.section or ''}{industry.division or ''}", industry.label)))
    pairs = [
        ("priority", route.priority),
        ("queue", route.queue),
        ("handler", route.handler),
        ("schema", route.schema),
        ("accept", ", ".join(route.accept)),
        ("tags", ", ".join(route.tags)),
        ("place", f"{place} ({geo.confidence:.0%})" if place else "not known"),
        ("industry", f"{business} ({industry.confidence:.0%})" if business else "not known"),
        ("language", routed.signals.language.code or "not known"),
    ]
    pairs = [(name, value) for name, value in pairs if value]
    lines = [line for reason in said_of(routed) for line in _lines(reason)]
    return pairs + [("because" if index == 0 else "", line) for index, line in enumerate(lines)]


def _lines(reason: str) -> list[str]:
    """A reason, and below it its clues, one a line."""
    head, *clues = reason.split("; ")
    first, colon, clue = head.partition(": ")
    if not clues and not colon:
        return [head]
    return [first, *(f"  {each}" for each in (clue, *clues))] if " speaks for " in head else [reason]
