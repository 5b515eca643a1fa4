"""The tools that people use on RQ, as they are, on our Redis: they see our queues, our workers and our jobs."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import KEYS, Fleet, wait_until
from redis import Redis

from llm_scheduler.jobs.process.connection import connect

BIN = Path(sys.executable).parent
# An environment of their own, which `make test` makes: see tests/tools.in.
TOOLS = Path(__file__).parents[1] / ".venv-tools" / "bin"
HANDLER = """import time, pathlib
def handle(document, context):
    while (pathlib.Path(__file__).parent / "slow").exists():
        time.sleep(0.02)
    return 1
"""


@pytest.fixture
def busy(fleet: Fleet) -> Iterator[Fleet]:
    """A worker with a document in hand, and jobs that wait behind it."""
    (fleet.folder / "slow_handler.py").write_text(HANDLER)
    (fleet.folder / "slow").touch()
    fleet.configure(handlers={"default": "slow_handler:handle"})
    fleet.start("ingest", "collector", "high", env={"PYTHONPATH": str(fleet.folder)})
    fleet.drop("first.json", b'{"metadata": {"priority": "high"}}')
    with connect(fleet.server.url) as redis:
        wait_until(lambda: _state(redis) == "busy", "a busy worker")
        for number in range(3):
            fleet.drop(f"{number}.json", b'{"n": %d, "metadata": {"priority": "high"}}' % number)
        wait_until(lambda: redis.llen(KEYS.queue("high")) >= 1, "jobs that wait")
    yield fleet
    (fleet.folder / "slow").unlink()


def _state(redis: Redis) -> str:
    for name in redis.smembers(KEYS.workers):
        state = redis.hget(name, "state")
        if isinstance(state, bytes):
            return state.decode()
    return ""


@contextmanager
def running(*command: str) -> Iterator[httpx.Client]:
    """A tool that answers over HTTP; `{port}` in its arguments is where."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([part.format(port=port) for part in command], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            wait_until(lambda: _answers(client) or process.poll() is not None, "a tool that answers")
            assert process.poll() is None, process.communicate()[0]
            yield client
    finally:
        process.kill()
        process.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        client.get("/")
    except httpx.TransportError:
        return False
    return True


def test_rq_info(busy: Fleet) -> None:
    told = subprocess.run(
        [BIN / "rq", "info", "--url", busy.server.url, "--raw"], capture_output=True, text=True, check=True
    ).stdout
    assert "queue high" in told
    assert "worker high-" in told
    assert "busy" in told


@pytest.mark.slow
def test_rq_dashboard(busy: Fleet) -> None:
    with running(
        str(TOOLS / "rq-dashboard"), "--bind", "127.0.0.1", "--port", "{port}", "--redis-url", busy.server.url
    ) as client:
        queues = client.get("/0/data/queues.json").json()["queues"]
        assert {"name": "high", "count": 3} in [{key: each[key] for key in ("name", "count")} for each in queues]
        workers = client.get("/0/data/workers.json").json()["workers"]
        assert [(each["state"], each["queues"]) for each in workers] == [("busy", ["high"])]
        jobs = client.get("/0/data/jobs/high/queued/8/asc/1.json").json()["jobs"]
        assert len(jobs) == 3
        detail = client.get(f"/0/data/job/{jobs[0]['id']}.json")
        assert detail.status_code == 200
        assert client.get("/0/view/jobs/high/queued/8/asc/1").status_code == 200


def test_rq_exporter(busy: Fleet) -> None:
    with running(str(TOOLS / "rq-exporter"), "--port", "{port}", "--redis-url", busy.server.url) as client:
        told = client.get("/").text
        assert 'rq_jobs{queue="high",status="queued"} 3.0' in told
        assert 'state="busy"' in told
