"""A route in words: brief, for the results, and at full length, for `llmctl explain` and the batch command."""

from collections.abc import Iterator
from typing import Any

from llm_scheduler.ingest.router.signals import Clue, Industry, Signals
from llm_scheduler.jobs.document import Route


def signal_reasons(signals: Signals) -> list[str]:
    """The known signals, each with its best clue."""
    known = _known(signals, with_label=False)
    return [f"{reason}: {clues[0].kind} {_cut(clues[0].text)!r}" if clues else reason for reason, clues in known]


def reasons_with_clues(route: Route, signals: Signals) -> list[tuple[str, list[str]]]:
    """The reason for the priority, each known signal with all its clues, and each rule that applied."""
    known = [(reason, [_described(clue) for clue in clues]) for reason, clues in _known(signals, with_label=True)]
    first, *others = route.reasons
    return [(first, []), *known, *((reason, []) for reason in others[len(known) :])]


def _known(signals: Signals, *, with_label: bool) -> Iterator[tuple[str, list[Clue]]]:
    """(description, clues) of each known signal. `with_label`: an industry has its label beside its code."""
    geo, industry, language = signals.geo, signals.industry, signals.language
    if geo.country:
        place = f"country {geo.country}" + (f", {geo.city}" if geo.city else "")
        yield f"{place} ({geo.confidence:.0%})", geo.evidence
    if code := industry_code(industry):
        label = f" {industry.label}" if with_label and industry.section and industry.label else ""
        yield f"industry {code}{label} ({industry.confidence:.0%})", industry.evidence
    if language.code:
        yield f"language {language.code} ({language.confidence:.0%})", []


def json_answer(route: Route, signals: Signals) -> dict[str, Any]:
    """The answer to one line of the batch command and of `llmctl explain --json`."""
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
        "reasons": [
            ": ".join(filter(None, (reason, "; ".join(clues)))) for reason, clues in reasons_with_clues(route, signals)
        ],
    }


def industry_code(industry: Industry) -> str:
    """Section and division (`K64`), or the section alone (`K`), or the operator's own label; empty: unknown."""
    return f"{industry.section}{industry.division or ''}" if industry.section else industry.label or ""


def _described(clue: Clue) -> str:
    where = f"{clue.pointer or '/'}:{clue.offset}"
    return f"{clue.kind} {_cut(clue.text)!r} at {where} indicates {clue.says} (weight {clue.weight:g})"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
