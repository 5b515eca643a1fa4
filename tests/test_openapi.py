"""The document of the API against the API: what it says is what is done, whatever is sent."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from conftest import Server, serve
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from test_api import configuration

from llm_scheduler.api.app import OPERATIONS, make_app
from llm_scheduler.api.http.openapi import document
from llm_scheduler.api.http.uploads import LINES_TYPES
from llm_scheduler.jobs.clock import SystemClock
from llm_scheduler.jobs.document import Status, new_id
from llm_scheduler.jobs.process.connection import connect
from llm_scheduler.jobs.store import ledger

LEVELS = ["high", "medium", "low"]
EXAMPLES = int(os.environ.get("LLM_TEST_REQUESTS", "5"))  # of each operation; `make test-long` asks for more


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The API with a ledger that has some documents of each status."""
    folder = tmp_path_factory.mktemp("openapi")
    server = Server(Path(folder)).start()
    config = configuration(folder / "spool", server.url)
    with connect(server.url) as redis:
        for number, status in enumerate([*Status, *Status]):
            fields: ledger.Fields = {
                "priority": "high",
                "queue": "high",
                "handler": "default",
                "source": f"some/{number}.json",
            }
            ledger.move(redis, status, 1e9, [(new_id(1e9 + number), fields)])
        with serve(make_app(config, redis, SystemClock())) as http:
            yield http
    server.kill()


def one_key_a_request(case: Case) -> None:
    """An Idempotency-Key that was used for something else is refused, as it has to be: so no two share one."""
    if case.headers:
        case.headers.pop("Idempotency-Key", None)


@schemathesis.serializer(*LINES_TYPES)
def lines(context: schemathesis.SerializationContext, value: object) -> bytes:
    return json.dumps(value).encode()


# What is not ready answers 503, which is what this takes for a fault; it has tests of its own.
asked = schemathesis.openapi.from_dict(document(OPERATIONS, LEVELS, secured=False)).exclude(path=["/ready"])


@asked.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_the_document_says(case: Case, live: httpx.Client) -> None:
    one_key_a_request(case)
    if case.path == "/events":
        case.query = {**(case.query or {}), "seconds": 0}
    if case.path == "/jobs/{id}/wait":
        case.query = {**(case.query or {}), "timeout": 0}
    case.call_and_validate(base_url=str(live.base_url), timeout=20)


def test_the_document_is_one_of_openapi(live: httpx.Client) -> None:
    told = live.get("/openapi.json").json()
    assert told["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, methods in told["paths"].items() for method in methods}
    assert described == {(each.method, each.path) for each in OPERATIONS}
    names = [each["operationId"] for methods in told["paths"].values() for each in methods.values()]
    assert len(names) == len(set(names)), "generated clients know an operation by its id"
    assert all(each["summary"] for methods in told["paths"].values() for each in methods.values())
    assert told["paths"]["/jobs"]["get"]["parameters"][1]["schema"]["enum"] == LEVELS


def test_the_page_needs_no_other_host(live: httpx.Client) -> None:
    page = live.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http" not in page.text.replace("http-equiv", "")
    for part in ("/docs/swagger.js", "/docs/swagger.css", "/docs/start.js"):
        assert f'"{part}"' in page.text
        assert live.get(part).status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
