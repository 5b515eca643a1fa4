"""`GET /workers`."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.http.context import api_context, json_answer
from llm_scheduler.api.http.operation import Answer, EmptyQuery, Operation
from llm_scheduler.api.state import Count
from llm_scheduler.api.state.processes import LiveWorker, read_workers
from llm_scheduler.jobs import __version__


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """A live worker, as of its last heartbeat.

    `rss` is the memory of its process in bytes and `cpu` its processor time in percent of one core; both are updated
    every 15 s. `version_skew`: it runs another version than this API. `current_job` is an RQ job's id.
    """

    name: str
    host: str
    pid: int | None
    queue: str
    state: str
    current_job: str | None
    last_heartbeat: str | None
    birth: str | None
    jobs_done: Count
    working_seconds: float
    rss: Count | None
    cpu: float | None
    version: str | None
    version_skew: bool


class Workers(msgspec.Struct, frozen=True):
    workers: list[WorkerView]


def list_workers(request: Request, query: EmptyQuery) -> Response:
    """The live workers."""
    return json_answer(Workers([_view(worker) for worker in read_workers(api_context(request).redis)]))


def _view(worker: LiveWorker) -> WorkerView:
    fields = msgspec.structs.asdict(worker)
    del fields["vitals"]
    fields["version"] = worker.version or None
    return WorkerView(**fields, version_skew=worker.version != __version__)


OPERATIONS = (
    Operation("GET", "/workers", list_workers, "fleet", {200: Answer(Workers, "Every live worker.")}, needs_redis=True),
)
