"""Putting the route of a document together."""

from typing import Any

from ingest.router.priority import PriorityRules
from jobs.config import Config
from jobs.document import Route
from jobs.sealing import sealing_of


class Router:
    """Routes documents by the rules of a configuration."""

    def __init__(self, config: Config) -> None:
        rules = config.intelligent_routing.priority_rules
        enabled = config.intelligent_routing.enabled
        self._sealing = sealing_of(config.security)
        self._handler = config.default_handler
        self._priority = PriorityRules(
            config.queue.priority_levels,
            rules.urgent_keywords if enabled else [],
            rules.low_priority_keywords if enabled else [],
        )

    def route(self, document: Any) -> Route:
        """The route of a parsed document; None stands for one that couldn't be parsed.

        Sensitive fields are not looked at: the reasons of a route are read by whoever may ask for its status.
        """
        if self._sealing:
            document = self._sealing.without(document)
        priority, reason = self._priority.decide(document)
        return Route(priority=priority, queue=priority, handler=self._handler, reasons=[reason])
