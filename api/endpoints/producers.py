"""`GET /producers`: which producer writes how many documents, and how well."""

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request

from llm_scheduler.api.http.context import api_context
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.jobs.store import producers


class ProducersQuery(msgspec.Struct, frozen=True):
    days: Annotated[int, Meta(ge=1, le=3650, description="How many days (UTC), today included.")] = 1


class ProducerView(msgspec.Struct, frozen=True):
    """A producer's documents. `malformed` is the share that was not valid JSON as it arrived."""

    producer: str
    model: str
    documents: int
    malformed: float
    causes: dict[str, int]


class Producers(msgspec.Struct, frozen=True):
    days: int
    producers: list[ProducerView]


def list_producers(request: Request, query: ProducersQuery) -> Producers:
    """The producers of the last days, and how much of their output was not valid JSON.

    `days` in the answer is the number of days counted, at most `monitoring.metrics_retention_days`.
    """
    context = api_context(request)
    days = min(query.days, context.config.monitoring.metrics_retention_days)
    shares = producers.shares(context.redis, context.clock.now(), days)
    return Producers(days, [ProducerView(*share) for share in shares])


_ANSWERS = {200: Answer(Producers, "Every producer, the one with the most documents first.")}
OPERATIONS = (
    Operation("GET", "/producers", list_producers, "fleet", _ANSWERS, query=ProducersQuery, needs_redis=True),
)
