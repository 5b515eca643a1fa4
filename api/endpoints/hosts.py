"""`GET /hosts`."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.http.context import api_context, json_answer
from llm_scheduler.api.http.operation import Answer, EmptyQuery, Operation
from llm_scheduler.api.state.host_view import HostView, hosts
from llm_scheduler.api.state.processes import read_processes


class Hosts(msgspec.Struct, frozen=True):
    hosts: list[HostView]


def list_hosts(request: Request, query: EmptyQuery) -> Response:
    """The hosts on which workers and daemons run, with their load."""
    return json_answer(Hosts(hosts(read_processes(api_context(request).redis))))


_ANSWERS = {200: Answer(Hosts, "Every host that runs a worker or a daemon.")}
OPERATIONS = (Operation("GET", "/hosts", list_hosts, "fleet", _ANSWERS, needs_redis=True),)
