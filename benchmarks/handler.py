"""The project's handler in these measurements: the work that the peers do, without the files."""

from typing import Any

from benchmarks.peers.work import classify
from llm_scheduler.jobs.handler import Context


def handle(document: Any, context: Context) -> dict[str, Any]:
    return classify(document)
