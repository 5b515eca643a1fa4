"""One API process under load by wrk, beside a bare Starlette "hello" and rq-dashboard's list.

Rounds are interleaved; rates are compared within a round. wrk, the API and the server share the cores: the figures
are those of the whole machine, not of one process alone.
"""

import asyncio
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from redis import Redis

from benchmarks.contenders import ROOT
from benchmarks.server import Server, free_port, wait_until
from benchmarks.spool import Spool
from llm_scheduler.jobs.document import Status, new_id
from llm_scheduler.jobs.store import ledger

DOCUMENTS = 1_000_000
SECONDS = 5
CONNECTIONS = 8
FOLLOWERS = 200
TOOLS = ROOT / ".venv-tools" / "bin"

_HELLO = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def hello(request):
    return JSONResponse({"hello": "world"})

app = Starlette(routes=[Route("/", hello)])
"""
# A different page for each request, so that no two share an answer.
_PAGES = """
local cursors = {%s}
local place = 0
request = function()
  place = place %% #cursors + 1
  return wrk.format("GET", "/jobs?limit=50&cursor=" .. cursors[place])
end
"""
_POST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"content": "' .. string.rep("x", 1800) .. '"}'
"""


class Load(msgspec.Struct, frozen=True):
    """One run of wrk: requests per second, the 99th percentile in milliseconds, and how many answers were errors."""

    name: str
    rate: float
    p99_ms: float
    refused: int


class EventDelivery(msgspec.Struct, frozen=True):
    """`followers` clients of /events each received `transitions` transitions, the last after `seconds`."""

    followers: int
    transitions: int
    seconds: float


class HttpResults(msgspec.Struct, frozen=True):
    """All measurements of the API, with `documents` in the ledger."""

    documents: int
    connections: int
    rounds: list[list[Load]]
    posts: list[Load]
    metrics_ms: list[float]
    followed: EventDelivery


def http(documents: int, seconds: float, rounds: int, folder: Path) -> HttpResults:
    """Fill a ledger, start the API and its peers, and load them in turn. Needs wrk and .venv-tools."""
    home = folder / f"http-{time.time_ns()}"
    home.mkdir()
    server = Server(home / "server")
    try:
        ids = fill(server.client, documents)
        _enqueue(server.client)
        (home / "hello.py").write_text(_HELLO)
        (home / "pages.lua").write_text(_PAGES % ",".join(f'"{each}"' for each in random.sample(ids, 200)))
        (home / "post.lua").write_text(_POST)
        ports = [free_port() for _ in range(3)]
        config = _configure(home, server.url, ports[0])
        python = [sys.executable, "-P", "-m"]
        hello_command = [sys.executable, "-m", "uvicorn", "hello:app", "--port", str(ports[1]), "--no-access-log"]
        dashboard_command = [str(TOOLS / "rq-dashboard"), "--bind", "127.0.0.1", "--port", str(ports[2])]
        with (
            _running([*python, "llm_scheduler.api.server", "--config", str(config)], ports[0], home) as api,
            _running(hello_command, ports[1], home) as hello,
            _running([*dashboard_command, "--redis-url", server.url], ports[2], ROOT) as dashboard,
        ):
            turns = (
                ("hello", f"{hello}/", None),
                ("GET /jobs?limit=50", f"{api}/jobs?limit=50", None),
                ("GET /jobs, each another page", api, home / "pages.lua"),
                ("rq-dashboard's jobs", f"{dashboard}/0/data/jobs/high/queued/50/asc/1.json", None),
            )
            measured = [
                [_wrk(name, url, seconds, CONNECTIONS, script) for name, url, script in turns] for _ in range(rounds)
            ]
            metrics = [_request_ms(f"{api}/metrics") for _ in range(20)]
            followed = asyncio.run(_follow_events(api, server.client))
            posts = [
                _wrk(f"POST /jobs, {count} clients", f"{api}/jobs", seconds, count, home / "post.lua")
                for count in (1, 8, 32)
            ]
        return HttpResults(documents, CONNECTIONS, measured, posts, metrics, followed)
    finally:
        server.stop()


def fill(redis: Redis, documents: int) -> list[str]:
    """Fill a ledger with `documents`, most of them done. Returns a thousand of their ids."""
    chance = random.Random(1)
    began = time.time() - documents / 100
    ids: list[str] = []
    for first in range(0, documents, 2000):
        by_status: dict[Status, list[tuple[str, ledger.Fields]]] = {}
        for number in range(first, min(documents, first + 2000)):
            at = began + number / 100
            level = chance.choice(("high", "medium", "low"))
            status = chance.choices((Status.DONE, Status.REJECTED, Status.QUEUED), (96, 3, 1))[0]
            document_id = new_id(at)
            fields: ledger.Fields = {
                "priority": level,
                "queue": level,
                "handler": "default",
                "source": f"folder{number % 50}/document-{number}.json",
                "size": 1900,
                "received_at": int(at * 1000),
                "reasons": [f"priority {level}: no rule applies"],
            }
            by_status.setdefault(status, []).append((document_id, fields))
            if number % max(1, documents // 1000) == 0:
                ids.append(document_id)
        for status, entries in by_status.items():
            ledger.move(redis, status, began, entries)
    return ids


def _enqueue(redis: Redis) -> None:
    """Plain RQ jobs for rq-dashboard to list."""
    from rq import Queue

    queue = Queue("high", connection=redis)
    for number in range(200):
        queue.enqueue("builtins.print", number)


def _configure(home: Path, url: str, port: int) -> Path:
    """Make the folders of the API, and its configuration."""
    directories = Spool(home / "spool").directories
    for each in directories.values():
        os.makedirs(each, exist_ok=True)
    settings = {
        "directories": directories,
        "queue": {"type": "redis", "redis_url": url, "max_queue_size": 10_000_000},
        "api": {"port": port, "workers": 1, "access_log": False},
    }
    path = home / "config.json"
    path.write_text(json.dumps(settings))
    return path


@contextmanager
def _running(program: Sequence[str], port: int, folder: Path) -> Iterator[str]:
    """The URL of a server that runs during the block."""
    process = subprocess.Popen(program, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), f"an answer from {program[0]}", 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wrk(name: str, url: str, seconds: float, connections: int, script: Path | None) -> Load:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--latency"]
    if script:
        command += ["-s", str(script)]
    printed = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", printed)
    percentile = re.search(r"99%\s+([0-9.]+)(us|ms|s)", printed)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    if rate is None or percentile is None:
        raise RuntimeError(f"no figures in wrk's output for {name}:\n{printed}")
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[percentile[2]]
    return Load(name, float(rate[1]), float(percentile[1]) * scale, int(refused[1]) if refused else 0)


def _request_ms(url: str) -> float:
    """Milliseconds from the request to the last byte of the answer."""
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=30) as answer:
        answer.read()
    return (time.perf_counter() - began) * 1000


async def _follow_events(api: str, redis: Redis) -> EventDelivery:
    """Connect all followers, then change the status of documents, and wait until each follower has all changes."""
    port = int(api.rpartition(":")[2])
    connections = [await asyncio.open_connection("127.0.0.1", port, limit=1 << 22) for _ in range(FOLLOWERS)]
    for reader, writer in connections:
        writer.write(b"GET /events?kinds=transition HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(1)  # the last of them may not read the stream yet
    ids = [new_id(time.time()) for _ in range(500)]
    began = time.perf_counter()
    fields: ledger.Fields = {"priority": "high", "queue": "high", "handler": "default", "source": "a.json"}
    for first in range(0, len(ids), 50):
        ledger.move(redis, Status.QUEUED, time.time(), [(each, fields) for each in ids[first : first + 50]])
    await asyncio.gather(*(_read_all(reader, set(ids)) for reader, _ in connections))
    took = time.perf_counter() - began
    for _, writer in connections:
        writer.close()
    return EventDelivery(FOLLOWERS, len(ids), took)


async def _read_all(reader: asyncio.StreamReader, ids: set[str]) -> None:
    """Read events until there was one for each id."""
    left = set(ids)
    async with asyncio.timeout(60):
        while left:
            line = (await reader.readline()).decode()
            if line.startswith("data:"):
                left.difference_update(re.findall(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", line))


def ratios(measured: HttpResults, name: str) -> list[float]:
    """The rate of `name` divided by that of hello, round by round."""
    rates = [{load.name: load.rate for load in turn} for turn in measured.rounds]
    return [each[name] / each["hello"] for each in rates]
