"""Putting the route of a document together: its priority, its signals, and what the rules make of them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from llm_scheduler.ingest.router.detectors import Detectors
from llm_scheduler.ingest.router.priority import PriorityRules
from llm_scheduler.ingest.router.rules import Facts, Rules
from llm_scheduler.ingest.router.signals import Evidence, Industry, Signals
from llm_scheduler.ingest.router.text import Text
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.config.route_rules import SIGNALS
from llm_scheduler.jobs.document import Route
from llm_scheduler.jobs.sealing import sealing_of

CLUES = 8  # that each signal tells of, where somebody wants to know why


class Asked(NamedTuple):
    """A document to be routed: its parsed value, its path below the watch folder, and the bytes of its original."""

    document: Any
    source: str = ""
    size: int = 0


class Routed(msgspec.Struct, frozen=True, kw_only=True):
    """A route and all that it rests on."""

    route: Route
    signals: Signals


class Router:
    """Routes documents by the rules of a configuration: the same document, the same route."""

    def __init__(self, config: Config, model: Path | None = None, *, everything: bool = False) -> None:
        """`model` is an industry model to use instead of the configured one. With `everything` a signal is found also
        when no rule asks for it, unless it is switched off."""
        routing = config.intelligent_routing
        self._sealing = sealing_of(config.security)
        self._handler = config.default_handler
        self._priority = PriorityRules(
            config.queue.priority_levels,
            routing.priority_rules.urgent_keywords if routing.enabled else [],
            routing.priority_rules.low_priority_keywords if routing.enabled else [],
        )
        self._rules = Rules(config.routes)
        own = bool(model or routing.industry_model)  # who has a model of their own wants to hear what it says
        self._detectors = Detectors(
            routing, lambda signal: everything or self._rules.ask_for(signal) or (own and signal == "industry"), model
        )

    def route(self, document: Any, source: str = "", size: int = 0) -> Route:
        """The route of a parsed document; None stands for one that couldn't be parsed.

        `source` is its path below the watch folder, `size` that of its original in bytes. Sensitive fields are not
        looked at: the reasons of a route are read by whoever may ask for its status.
        """
        return self.routes([Asked(document, source, size)])[0]

    def routes(self, asked: Sequence[Asked]) -> list[Route]:
        """The route of each. A group takes two thirds of the time of one by one: each detector finds its tables in the
        processor's cache."""
        return [routed.route for routed in self._routed(asked, clues=1)]

    def explain(self, document: Any, source: str = "", size: int = 0) -> Routed:
        """The same as `route`, with the signals and their clues."""
        return self.explained([Asked(document, source, size)])[0]

    def explained(self, asked: Sequence[Asked]) -> list[Routed]:
        """The same as `routes`, with the signals and their clues."""
        return self._routed(asked, CLUES)

    def refresh(self) -> str | None:
        """Take up what has changed on disk; says what happened, if anything did."""
        return self._detectors.refresh()

    def early(self, document: Any, source: str = "", size: int = 0) -> Route | None:
        """The route, where there is nothing to gain from working it out in a group, or only it tells the priority;
        None where `level` is to be asked first, and `routes` later for those that are taken."""
        if self._detectors and not self._rules.decide_priority:
            return None
        return self.route(document, source, size)

    def level(self, document: Any, source: str = "", size: int = 0) -> str:
        """The priority that `route` would give, as cheaply as it can be had."""
        route = self.early(document, source, size)
        if route is not None:
            return route.priority
        return self._priority.decide(self._sealing.without(document) if self._sealing else document)[0]

    def _routed(self, asked: Sequence[Asked], clues: int) -> list[Routed]:
        if self._sealing:
            asked = [each._replace(document=self._sealing.without(each.document)) for each in asked]
        texts = [Text.of(each.document) for each in asked]
        found = self._detectors.signals([each.document for each in asked], texts, clues)
        return [
            self._put_together(each, text, signals) for each, text, signals in zip(asked, texts, found, strict=True)
        ]

    def _put_together(self, asked: Asked, text: Text, signals: Signals) -> Routed:
        priority, reason = self._priority.decide(asked.document, text)
        route = Route(
            priority=priority,
            queue=priority,
            handler=self._handler,
            reasons=[reason, *reasons_of(signals)],
            country=signals.geo.country or "",
            city=signals.geo.city or "",
            industry=_named(signals.industry),
            language=signals.language.code or "",
        )
        if self._rules:
            route = self._rules.apply(route, asked.document, _facts(signals, priority, asked.source, asked.size))
        return Routed(route=route, signals=signals)


def reasons_of(signals: Signals, *, at_length: bool = False) -> list[str]:
    """What is known of a document and what for, in words. `at_length`: with every clue, its place and its weight."""
    said = []
    geo, industry, language = signals.geo, signals.industry, signals.language
    if geo.country:
        place = f"country {geo.country}" + (f", {geo.city}" if geo.city else "")
        said.append(f"{place} ({geo.confidence:.0%}){_clues(geo.evidence, at_length=at_length)}")
    if name := industry.label or industry.section:
        letter = f" {industry.section}{industry.division or ''}" if industry.section else ""
        short = name if at_length or not letter else ""
        what = " ".join(filter(None, (f"industry{letter}", short)))
        said.append(f"{what} ({industry.confidence:.0%}){_clues(industry.evidence, at_length=at_length)}")
    if language.code:
        said.append(f"language {language.code} ({language.confidence:.0%})")
    return said


def _clues(evidence: list[Evidence], *, at_length: bool) -> str:
    if not evidence:
        return ""
    if not at_length:
        return f": {evidence[0].kind} {_cut(evidence[0].text)!r}"
    told = (
        f"{clue.kind} {_cut(clue.text)!r} at {clue.pointer or '/'}:{clue.offset} speaks for {clue.says} "
        f"(weight {clue.weight:g})"
        for clue in evidence
    )
    return ": " + "; ".join(told)


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def _named(industry: Industry) -> str:
    """An industry in one word: `K64`, `K`, or the operator's own label."""
    return f"{industry.section}{industry.division or ''}" if industry.section else industry.label or ""


def _facts(signals: Signals, priority: str, source: str, size: int) -> Facts:
    return Facts(
        geo={name: getattr(signals.geo, name) for name in SIGNALS["geo"]},
        industry={name: getattr(signals.industry, name) for name in SIGNALS["industry"]},
        language=signals.language.code,
        priority=priority,
        size=size,
        source=source,
        file=os.path.basename(source),
    )
