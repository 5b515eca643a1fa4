"""Putting the route of a document together."""

from typing import Any

from ingest.router.priority import PriorityRules
from jobs.config import Config
from jobs.document import Route


class Router:
    """Routes documents by the rules of a configuration."""

    def __init__(self, config: Config) -> None:
        rules = config.intelligent_routing.priority_rules
        enabled = config.intelligent_routing.enabled
        self._handler = config.default_handler
        self._priority = PriorityRules(
            config.queue.priority_levels,
            rules.urgent_keywords if enabled else [],
            rules.low_priority_keywords if enabled else [],
        )

    def route(self, document: Any) -> Route:
        """The route of a parsed document; None stands for one that couldn't be parsed."""
        priority, reason = self._priority.decide(document)
        return Route(priority=priority, queue=priority, handler=self._handler, reasons=[reason])
