"""The project's handler in the measurements: the same classification as the peers do."""

from typing import Any

from benchmarks.peers.work import classify
from llm_scheduler.jobs.handler import Context


def handle(document: Any, context: Context) -> dict[str, Any]:
    return classify(document)
