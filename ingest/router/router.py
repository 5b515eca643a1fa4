"""The route of a document: its priority and its signals, changed by the configured rules."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_scheduler.ingest.router.detectors import Detectors
from llm_scheduler.ingest.router.explanation import industry_code, signal_reasons
from llm_scheduler.ingest.router.priority import PriorityMatcher
from llm_scheduler.ingest.router.rules import Rules
from llm_scheduler.ingest.router.signals import MAX_CLUES, Signals
from llm_scheduler.ingest.router.text import Text
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.config.route_rules import SIGNALS
from llm_scheduler.jobs.document import Route
from llm_scheduler.jobs.sealing import sealing_of


@dataclass(slots=True, eq=False)
class RouteDecision:
    """The router's answer for one document, each part worked out once.

    `priority` is known at once. `route` and `signals` follow when they are first read, or for many documents
    together in `Router.complete`.
    """

    document: Any  # without its sensitive fields
    source: str
    size: int
    priority: str
    reason: str
    _complete: "Callable[[Sequence[RouteDecision]], None]"
    _text: Text | None = None
    _answer: tuple[Route, Signals] | None = None

    def text(self) -> Text:
        if self._text is None:
            self._text = Text.from_document(self.document)
        return self._text

    @property
    def route(self) -> Route:
        return self._completed()[0]

    @property
    def signals(self) -> Signals:
        return self._completed()[1]

    def _completed(self) -> tuple[Route, Signals]:
        if self._answer is None:
            self._complete([self])
        assert self._answer is not None
        return self._answer


class Router:
    """Routes documents by a configuration. The same document always gets the same route."""

    def __init__(self, config: Config, model: Path | None = None, *, everything: bool = False) -> None:
        """`model` is an industry model to use instead of the configured one. With `everything`, each signal that is
        not switched off is found, even if no rule reads it, with up to MAX_CLUES clues instead of one.

        Raises OSError or ValueError if the model cannot be loaded.
        """
        routing = config.intelligent_routing
        self._sealing = sealing_of(config.security)
        self._handler = config.default_handler
        self._priority = PriorityMatcher(
            config.queue.priority_levels,
            routing.priority_rules.urgent_keywords if routing.enabled else [],
            routing.priority_rules.low_priority_keywords if routing.enabled else [],
        )
        self._rules = Rules(config.routes)
        self._clues = MAX_CLUES if everything else 1
        own_model = bool(model or routing.industry_model)  # is used even if no rule reads the industry

        def needs(signal: str) -> bool:
            return everything or self._rules.read(signal) or (own_model and signal == "industry")

        self._detectors = Detectors(routing, needs, model)

    def decide(self, document: Any, source: str = "", size: int = 0) -> RouteDecision:
        """Where a parsed document goes; None stands for one that could not be parsed.

        `source` is its path below the watch folder, `size` the length of its original in bytes. Sensitive fields are
        left out, because everyone who may ask for a document's status may read the reasons for its route.
        """
        if self._sealing:
            document = self._sealing.without(document)
        decision = RouteDecision(document, source, size, "", "", self.complete)
        decision.priority, decision.reason = self._priority.find(document, decision.text)
        if self._rules.set_priority:
            decision.priority = decision.route.priority
        return decision

    def complete(self, decisions: Sequence[RouteDecision]) -> None:
        """Find the route and the signals of several documents, where they are not known yet. Together they take two
        thirds of the time: each detector finds its tables in the processor's cache."""
        pending = [each for each in decisions if each._answer is None]
        found = [Signals()] * len(pending)
        if self._detectors:
            found = self._detectors.signals(
                [each.document for each in pending], [each.text() for each in pending], self._clues
            )
        for decision, signals in zip(pending, found, strict=True):
            decision._answer = self._route(decision, signals), signals
            decision._text = None  # it may be long, and is not needed again

    def refresh(self) -> str | None:
        """Load the industry model again if its file has changed. Returns a message if it did."""
        return self._detectors.refresh()

    def _route(self, decision: RouteDecision, signals: Signals) -> Route:
        priority = decision.priority
        route = Route(
            priority=priority,
            queue=priority,
            handler=self._handler,
            reasons=[decision.reason, *signal_reasons(signals)],
            country=signals.geo.country or "",
            city=signals.geo.city or "",
            industry=industry_code(signals.industry),
            language=signals.language.code or "",
        )
        if not self._rules:
            return route
        facts = {
            "geo": {name: getattr(signals.geo, name) for name in SIGNALS["geo"]},
            "industry": {name: getattr(signals.industry, name) for name in SIGNALS["industry"]},
            "language": signals.language.code,
            "priority": priority,
            "size": decision.size,
            "source": decision.source,
            "file": os.path.basename(decision.source),
        }
        return self._rules.apply(route, decision.document, facts)
