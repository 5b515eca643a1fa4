"""What is on disk and in Redis stays readable: data left behind by the code of commit d63d516, given to today's.

`data/formats` holds a spool in which every process was killed, the data of its server, and a backup of it
(`data/formats/make.py` says how they were made, and needs that old code; the tests don't). Today's code is asked over
its command line only: nothing here knows where a module lies.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
from conftest import LEVELS, LLMCTL, Fleet, Server, files, wait_until
from redis import Redis

FORMATS = Path(__file__).with_name("data") / "formats"
ANSWERS = json.loads((FORMATS / "answers.json").read_bytes())
WRITTEN = FORMATS / "written.json"
OLD_START = "/srv/demo"  # where the spool was, which its manifests say

# How the documents end that are not simply done.
REJECTED = {
    "answers/batch.jsonl/000003.json": "truncated",
    "broken.json": "truncated",
    "large.json": "too_large",
    "never.json": "handler_failed",
    "told/中斷.json": "truncated",
    "claimed/two.json": "truncated",
    "waiting/broken.json": "truncated",
}
CANCELLED = "unwanted.json"
TO_CANCEL = "low/20.json"  # an order that nobody had carried out
APART = {"answers/batch.jsonl", "lines/a.jsonl", "lines/b.jsonl", "waiting/three.jsonl"}
LOW = {f"low/{n}.json" for n in (20, 21, 22)}  # in the paused queue


class Demo:
    """The start folder of the fixture, unpacked, in which today's `llmctl` runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "data" / "llm_generated"
        self.raw, self.temp, self.processed, self.archive, self.errors = (
            self.spool / name for name in ("raw", "temp", "processed", "archive", "errors")
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def redis(self) -> Redis:
        return Redis(unix_socket_path=str(self.spool / "server" / "valkey.sock"))

    def configure(self, **parts: Any) -> None:
        """Change parts of the configuration, which is the old one."""
        path = self.folder / "scheduler_config.json"
        settings = json.loads(path.read_bytes())
        for name, values in parts.items():
            settings[name] = {**settings.get(name, {}), **values}
        path.write_text(json.dumps(settings))

    def llmctl(self, *arguments: str) -> Any:
        """What a command says in JSON."""
        done = subprocess.run(
            [LLMCTL, *arguments, "--json"], cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def up(self) -> None:
        """`llmctl up`, until it greets."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.configure(api={"port": self.port}, processing={"max_workers": 3})
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [LLMCTL, "up"], cwd=self.folder, stdout=out, stderr=err, start_new_session=True
            )
        process = self.process
        wait_until(lambda: b"is running" in self.said("out") or process.poll() is not None, "the greeting")
        assert process.poll() is None, self.said("err").decode()

    def said(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def down(self) -> None:
        """Ctrl-C, and an end in order."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(40) == 0, self.said("err").decode()

    def clean(self) -> None:
        if self.process is None:
            return
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == self.process.pid:
                    process.kill()
        self.process.wait()

    def ask(self, method: str, path: str) -> Any:
        return httpx.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=30).raise_for_status().json()

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Every document that the ledger knows, by id."""
        return {each["id"]: each for each in self.llmctl("tasks", "--limit", "1000")}

    def contents(self) -> dict[str, bytes]:
        """Every document and report of the spool, by its path; what hidden folders hold is no document."""
        folders = (self.raw, self.temp, self.processed, self.archive, self.errors)
        return {path: (self.spool / path).read_bytes() for folder in folders for path in self.below(folder)}

    def below(self, folder: Path) -> list[str]:
        inside = (path.relative_to(self.spool) for path in files(folder))
        return [str(path) for path in inside if not any(part.startswith(".") for part in path.parts)]

    def waiting(self) -> list[str]:
        """The originals that are not in a final place."""
        return [path for folder in (self.raw, self.temp) for path in self.below(folder) if not _is_manifest(path)]

    def wait_for(self, left: int) -> None:
        """Wait until so many documents are left in the watch and temp folders."""
        try:
            wait_until(lambda: not self.splits() and len(self.waiting()) == left and not self.splits(), "their ends")
        except BaseException:
            print("left:", self.waiting(), self.said("err").decode()[-3000:], sep="\n")
            raise

    def splits(self) -> bool:
        """Whether files of several documents are still being taken apart."""
        lines = self.temp / "lines"
        return any(name.startswith(".") for name in os.listdir(lines)) if lines.exists() else False


def _is_manifest(path: str) -> bool:
    return path.endswith("/manifest")


def unpack(name: str, folder: Path) -> None:
    with tarfile.open(FORMATS / name) as tar:
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


def is_original(path: str) -> bool:
    """Whether a path of the spool is that of a document as it was handed in."""
    return not (_is_manifest(path) or path.startswith("processed/") or path.endswith(".error.json"))


def originals(contents: dict[str, bytes]) -> Counter[bytes]:
    return Counter(content for path, content in contents.items() if is_original(path))


@pytest.fixture
def demo() -> Iterator[Demo]:
    """The spool, without its server. The start folder is another one now, so its manifests have to say that."""
    # A short path: a socket's may have 107 bytes.
    top = Path(tempfile.mkdtemp(prefix="llm-f-"))
    unpack("spool.tar.gz", top)
    demo = Demo(top / "demo")
    move(demo)
    yield demo
    demo.clean()
    shutil.rmtree(top, ignore_errors=True)


def move(demo: Demo) -> None:
    for manifest in demo.temp.glob("*/manifest"):
        manifest.write_bytes(manifest.read_bytes().replace(OLD_START.encode(), os.fsencode(demo.folder)))


@pytest.fixture
def with_server(demo: Demo) -> Demo:
    """The spool and the data of its server. What may be forgotten after a while has been, by now."""
    made = max(datetime.fromisoformat(each["received_at"]).timestamp() for each in ANSWERS["tasks"])
    if time.time() < made + 60:
        pytest.skip("the clock of this machine is before the time at which the data were made")
    unpack("server.aof.tar.gz", demo.spool / "server")
    return demo


@pytest.fixture
def server(with_server: Demo) -> Iterator[Server]:
    """A server that runs on these data, alone."""
    server = Server(with_server.spool / "server")
    server.start()
    with_server.configure(queue={"type": "redis", "redis_url": server.url})
    yield server
    server.kill()


@pytest.fixture
def raw_redis(server: Server) -> Iterator[Redis]:
    client = Redis(unix_socket_path=str(server.socket))
    yield client
    client.close()


def everything_is_finished(demo: Demo, before: dict[str, bytes], *, retried: str = "") -> dict[str, dict[str, Any]]:
    """What has to be true of the disk when all is done. Returns results and reports by id.

    `retried`: a rejected document that an order has put to work again, so its report is another one.
    """
    # The manifest of a group goes a moment after its last document.
    wait_until(lambda: not demo.below(demo.raw) and not demo.below(demo.temp), "empty watch and temp folders")
    after = demo.contents()
    assert [path for path in after if path.startswith(("raw/", "temp/"))] == []
    hidden = [name for _, _, names in os.walk(demo.processed) for name in names if name.startswith(".")]
    assert hidden == [], "unfinished results"

    # Each original is there once, byte for byte, and so is each line of the files that were taken apart since.
    waited = [content for path, content in before.items() if is_original(path) and path.startswith(("raw/", "temp/"))]
    lines = [line for content in waited if _many(content) for line in content.splitlines()]
    assert originals(after) == originals(before) + Counter(lines)

    # What was finished is as it was.
    for path, content in before.items():
        if path.startswith(("processed/", "archive/", "errors/")) and path.removesuffix(".error.json") != retried:
            assert after.get(path) == content, path

    # One result or report a document.
    ends = [
        json.loads(content)
        for path, content in after.items()
        if path.startswith("processed/") or path.endswith(".error.json")
    ]
    by_id = {end["id"]: end for end in ends}
    assert len(by_id) == len(ends), "a document has two ends"
    assert len(ends) == originals(after).total() - len(APART)
    digests = Counter(hashlib.sha256(content).hexdigest() for content in originals(after).elements())
    assert Counter(end["sha256"] for end in ends) <= digests
    return by_id


def _many(content: bytes) -> bool:
    lines = content.splitlines()
    return len(lines) > 1 and all(line.startswith(b"{") and line.endswith(b"}") for line in lines)


def expected(source: str) -> str:
    return REJECTED.get(source, "done")


def balanced(demo: Demo, *options: str) -> dict[str, Any]:
    """The account, which has to add up with nothing left to do."""
    said = demo.llmctl("reconcile", "--verify", *options)
    assert said["balanced"], said
    account: dict[str, Any] = said["account"]
    left = {name: account[name] for name in ("waiting", "in_flight", "unsubmitted", "removed", "problems")}
    assert left == {"waiting": 0, "in_flight": 0, "unsubmitted": 0, "removed": 0, "problems": []}
    return account


def test_the_history_is_read(with_server: Demo, server: Server, raw_redis: Redis) -> None:
    """Statuses, times, codes, counts, alerts and the account are what the old code said of the same data."""
    demo = with_server

    def here(value: Any) -> Any:
        return json.loads(json.dumps(value).replace(OLD_START, str(demo.folder)))

    assert demo.llmctl("tasks", "--limit", "1000") == ANSWERS["tasks"]
    told = demo.llmctl("status")
    assert {name: told[name] for name in ANSWERS["status"]} == ANSWERS["status"]
    assert [{name: each[name] for name in ("name", "jobs", "batched")} for each in told["queues"]] == ANSWERS["queues"]
    assert demo.llmctl("reconcile", "--verify") == ANSWERS["account"]
    firsts = {each["status"]: each["id"] for each in ANSWERS["tasks"]}
    statuses = {"received", "batched", "queued", "started", "retrying", "done", "rejected", "cancelled"}
    assert set(firsts) == statuses, "the fixture has a document under every status"
    [mended] = [each["id"] for each in ANSWERS["tasks"] if each["source"] == "mended.json"]  # with two stays in a queue
    for document_id in {firsts["done"], firsts["rejected"], firsts["cancelled"], firsts["retrying"], mended}:
        assert demo.llmctl("show", document_id) == here(ANSWERS["show"][document_id])
    [day] = raw_redis.keys("llm:producers:*")
    for name, key in (("tallies", b"llm:tallies"), ("producers", day)):
        assert {field.decode(): int(count) for field, count in raw_redis.hgetall(key).items()} == ANSWERS[name]
    assert [json.loads(fields[b"e"]) for _, fields in raw_redis.xrange("llm:events")] == ANSWERS["events"]
    assert raw_redis.smembers("llm:paused") == {b"low"}
    assert ANSWERS["paused"] == ["low"]


def test_what_was_in_flight_is_finished(with_server: Demo) -> None:
    """Queued, batched, begun, to be tried again, told of, ordered, claimed, half taken apart: all of it goes on."""
    demo = with_server
    before = demo.contents()
    assert originals(before).total() > 40
    demo.up()
    redis = demo.redis

    # All but what the paused queue holds; the cancelled one of these leaves it by the order.
    demo.wait_for(len(LOW) - 1)
    assert demo.ask("GET", "/queues")["queues"][2]["paused"] is True
    assert redis.xlen("llm:orders") == 0
    assert redis.llen("rq:queue:low") >= 1
    paused = {each["source"]: each["status"] for each in demo.tasks().values() if each["source"] in LOW}
    assert paused == {**dict.fromkeys(LOW, "queued"), TO_CANCEL: "cancelled"}
    demo.ask("POST", "/queues/low/resume")
    demo.wait_for(0)

    ends = everything_is_finished(demo, before, retried="errors/never.json")
    wait_until(lambda: not any(redis.xlen(f"llm:outcomes:{level}") for level in LEVELS), "the ledger")
    tasks = demo.tasks()
    assert {task["source"] for task in tasks.values()} >= APART
    for document_id, task in tasks.items():
        source = task["source"]
        if source in APART:
            assert (task["status"], document_id in ends) == ("done", False)
        elif source in (CANCELLED, TO_CANCEL):
            assert (task["status"], task["error"]["code"]) == ("cancelled", "cancelled")
        else:
            assert task["status"] == ("rejected" if source in REJECTED else "done"), source
            if source in REJECTED:
                assert (task["error"]["code"], ends[document_id]["code"]) == (REJECTED[source], REJECTED[source])
    assert set(ends) <= set(tasks), "the ledger knows all of them"
    old = {each["id"]: each for each in ANSWERS["tasks"]}
    assert set(old) <= set(tasks), "no document got another id"
    for document_id, task in old.items():
        if task["status"] in ("done", "cancelled"):
            assert tasks[document_id] == task, "what was finished is not touched"
        # A document is received when it is claimed, which the order has made of `never.json` once more.
        if task["status"] != "received" and task["source"] != "never.json":
            assert tasks[document_id]["received_at"] == task["received_at"]
    attempts = {each["source"]: each["attempts"] for each in tasks.values()}
    assert (attempts["later.json"], attempts["held/hold.json"], attempts["queued/51.json"]) == (2, 2, 1)
    counted = {name.decode(): int(count) for name, count in redis.hgetall("llm:tallies").items()}
    done = sum(count for name, count in counted.items() if name.startswith("done:"))
    assert done == len(files(demo.processed)), "the old counts were added to"
    account = balanced(demo)
    assert (account["unrecorded"], account["taken_apart"]) == (0, len(APART))
    assert account["done"] == done
    redis.close()
    demo.down()


def test_the_disk_is_the_record(demo: Demo) -> None:
    """The same with a server that knows nothing: the folders and the manifests are enough."""
    before = demo.contents()
    demo.up()
    demo.wait_for(0)
    ends = everything_is_finished(demo, before)
    sources = {end["source"]: end for end in ends.values()}
    cancelled = {source for source, end in sources.items() if end.get("code") == "cancelled"}
    assert cancelled == {CANCELLED}, "orders were in Redis alone"
    assert {source: end["code"] for source, end in sources.items() if "code" in end} == {
        **REJECTED,
        CANCELLED: "cancelled",
    }
    claimed = {each["id"] for each in ANSWERS["tasks"]} - {each["id"] for each in ANSWERS["tasks"] if _apart(each)}
    assert claimed <= set(ends), "the ids are those of the manifests"
    final = [each for each in ANSWERS["tasks"] if each["status"] in ("done", "rejected", "cancelled")]
    finished = [each for each in final if not _apart(each)]
    wait_until(lambda: not any(demo.redis.xlen(f"llm:outcomes:{level}") for level in LEVELS), "the ledger")
    assert balanced(demo, "--record")["recorded"] == len(finished)
    assert balanced(demo)["unrecorded"] == 0
    tasks = demo.tasks()
    for each in finished:
        names = ("status", "source", "received_at", "attempts", "priority", "quality")
        assert {name: tasks[each["id"]][name] for name in names} == {name: each[name] for name in names}
    demo.down()


def _apart(task: dict[str, Any]) -> bool:
    return task["source"] in APART


def test_a_backup_is_restored_and_finished(demo: Demo) -> None:
    """The old backup comes back as the same bytes in the same places, and is run to its end."""
    before = demo.contents()
    shutil.rmtree(demo.spool)
    made = demo.llmctl("restore", "--check", str(FORMATS / "backup.tar.gz"))
    assert (made["about"]["format"], made["about"]["host"]) == (1, "demo")
    assert made["about"]["watch"] == [f"{OLD_START}/data/llm_generated/raw"]
    restored = demo.llmctl("restore", str(FORMATS / "backup.tar.gz"))
    assert restored["count"] == made["count"]
    count = restored["count"]
    assert (count["in_flight"], count["waiting"]) == (
        sum(1 for path in before if re.fullmatch(r"temp/\w{26}/\w{26}", path)),
        sum(1 for path in before if path.startswith(("raw/", "temp/lines/"))),
    )
    move(demo)
    assert demo.contents() == before
    demo.up()
    demo.wait_for(0)
    everything_is_finished(demo, before)
    demo.down()


def test_jobs_on_the_wire(raw_redis: Redis) -> None:
    """The jobs that were waiting name these functions, which `test_what_was_in_flight_is_finished` has run."""

    def job(name: str) -> dict[bytes, bytes]:
        return raw_redis.hgetall(f"rq:job:{name}")

    def function(fields: dict[bytes, bytes]) -> list[Any]:
        called: list[Any] = json.loads(zlib.decompress(fields[b"data"]))
        return called

    queued = [name.decode() for level in ("high", "low") for name in raw_redis.lrange(f"rq:queue:{level}", 0, -1)]
    begun = [name.decode().partition(":")[0] for name in raw_redis.zrange("rq:wip:high", 0, -1)]
    due = [name.decode() for name in raw_redis.zrange("rq:scheduler:scheduled_jobs", 0, -1)]
    flushes = [name for name in due if name.startswith("flush-")]
    retried = [name for name in due if not name.startswith("flush-")]
    assert (len(queued) >= 3, len(begun), flushes, len(retried)) == (True, 1, ["flush-medium"], 1)
    documents = 0
    for name in (*queued, *begun, *retried):
        fields = job(name)
        assert function(fields) == ["jobs.run.run_documents", None, [], {}]
        held = [field for field in fields if re.fullmatch(rb"d\d+", field)]
        assert held, "documents travel in the job's own hash"
        documents += len(held)
    assert documents >= 9
    for level in LEVELS:
        assert function(job(f"flush-{level}")) == ["jobs.batch.flush", None, [level], {}]
    assert raw_redis.llen("llm:batch:medium") == 5


# What is written today

HANDLER = """
def handle(document, context):
    if context.attempt <= document.get("fails", 0):
        raise ValueError("this one fails at first")
    return {"attempt": context.attempt}
"""
KINDS = {
    "valid.json": '{"n": 1, "metadata": {"priority": "high", "source": "crm", "model": "demo-1"}}',
    "repaired.json": 'Here you are:\n```json\n{"n": 2, "tags": ["a", "b",]}\n```\n',
    "rejected.json": '{"n": 3, "text": "the model stopped',
    "lines.jsonl": '{"n": 4}\n{"n": 5}\n',
    "again.json": '{"n": 6, "fails": 1, "metadata": {"priority": "high"}}',
}


def test_what_is_written(fleet: Fleet, redis: Redis) -> None:
    """Every name in files and in Redis is what it was: results, reports, manifests, jobs, outcomes, keys, a backup."""
    seen = observed(fleet, redis)
    if "LLM_RECORD_FORMATS" in os.environ:  # with the old code only
        WRITTEN.write_text(json.dumps(seen, ensure_ascii=False, indent=1) + "\n")
    recorded = json.loads(WRITTEN.read_bytes())
    for name in recorded:
        assert seen[name] == recorded[name], name
    assert seen == recorded


def observed(fleet: Fleet, redis: Redis) -> dict[str, Any]:
    """Documents of every kind, one step at a time, and what each step writes."""
    seen: dict[str, Any] = {}
    fleet.folder.mkdir(exist_ok=True)
    (fleet.folder / "handlers.py").write_text(HANDLER)
    fleet.configure(processing={"mode": "hybrid", "batch_idle": 0.2}, handlers={"default": "handlers:handle"})
    for name, content in KINDS.items():
        fleet.drop(name, content)

    # Claimed and submitted; nobody takes anything.
    fleet.start("ingest")
    wait_until(lambda: redis.llen("llm:batch:medium") == 4 and redis.llen("rq:queue:high") == 2, "claims")
    lines = [json.loads(line) for path in fleet.temp.glob("*/manifest") for line in path.read_bytes().splitlines()]
    seen["manifest"] = _one([list(line) for line in lines])
    job = redis.hgetall(f"rq:job:{redis.lindex('rq:queue:high', 0).decode()}")
    seen["job"] = {"fields": _names(job), "data": json.loads(zlib.decompress(job[b"data"]))}
    seen["packet"] = _shape(msgspec.msgpack.decode(job[b"d0"]))
    [member, *_] = redis.lrange("llm:batch:medium", 0, 0)
    seen["batch_member"] = [_plain(member[:39].decode()), _shape(msgspec.msgpack.decode(member[39:]))]
    seen["batch_times"] = _names(redis.hgetall("llm:batch:medium:times"))
    records = _records(redis)
    seen["record"] = {status: _one(records[status]) for status in ("queued", "batched")}
    seen["record"]["taken apart"] = _one(records["done"])

    # Flushed, and run; nobody collects.
    fleet.start("scheduler")
    wait_until(lambda: redis.llen("rq:queue:medium") == 1 and redis.exists("rq:job:flush-medium"), "a flush")
    flushed = redis.hgetall(f"rq:job:{redis.lindex('rq:queue:medium', 0).decode()}")
    seen["flushed_job"] = _names(flushed)
    flush = redis.hgetall("rq:job:flush-medium")
    seen["flush_job"] = {"fields": _names(flush), "data": json.loads(zlib.decompress(flush[b"data"]))}
    fleet.start("high", "medium", "low")
    wait_until(lambda: len(_outcomes(redis)) == 6, "outcomes")
    entries = [fields for level in ("high", "medium") for _, fields in redis.xrange(f"llm:outcomes:{level}")]
    seen["outcome_entry"] = _one([_names(fields) for fields in entries])
    seen["outcome"] = _different(_shape(each) for each in _outcomes(redis))

    # Collected.
    fleet.start("collector")
    wait_until(lambda: _records(redis).keys() == {"done", "rejected"}, "ends")
    wait_until(lambda: not fleet.temp_groups() and not any((fleet.temp / "lines").iterdir()), "an empty temp folder")
    records = _records(redis)
    seen["record"] |= {
        "done": _different(records["done"]),
        "rejected": _one(records["rejected"]),
    }
    results = {each["source"]: each for each in fleet.results()}
    seen["result"] = {source: list(each) for source, each in results.items()}
    seen["result_route"] = _one([list(each["route"]) for each in results.values()])
    seen["repair"] = [list(each) for each in results["repaired.json"]["repairs"]]
    [report] = fleet.reports()
    seen["report"] = {"keys": list(report), "route": list(report["route"])}
    seen["transition"] = _one([_names(fields) for _, fields in redis.xrange("llm:transitions")])
    seen["statuses"] = sorted({fields[b"s"].decode() for _, fields in redis.xrange("llm:transitions")})
    seen["files"] = sorted(_plain(str(path.relative_to(fleet.folder))) for path in _final(fleet))

    # Backed up, with one that waits and one in flight.
    fleet.stop("scheduler", "high", "medium", "low", "collector")
    fleet.drop("flight.json", '{"n": 7}')
    wait_until(fleet.in_flight, "a claim")
    fleet.stop("ingest")
    fleet.drop("waits.json", '{"n": 8}')
    done = subprocess.run(
        [LLMCTL, "--config", str(fleet.config_path), "backup", str(fleet.logs / "backups"), "--json"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    said = json.loads(done.stdout)
    seen["backup"] = {"said": list(said), "about": list(said["about"]), "count": list(said["count"])}
    with tarfile.open(said["path"]) as tar:
        names = tar.getnames()
        first, last = (tar.extractfile(name) for name in (names[0], names[-1]))
        assert first is not None
        assert last is not None
        seen["backup"]["first"] = {"name": names[0], "keys": list(json.loads(first.read()))}
        seen["backup"]["last"] = {"name": names[-1], "keys": list(json.loads(last.read()))}
        seen["backup"]["names"] = sorted(_plain(name) for name in names[1:-1])
    seen["keys"] = _keys(fleet.server.folder)
    return seen


def _final(fleet: Fleet) -> list[Path]:
    return [path for folder in (fleet.processed, fleet.archive, fleet.errors) for path in files(folder)]


def _outcomes(redis: Redis) -> list[dict[str, Any]]:
    entries = [fields for level in LEVELS for _, fields in redis.xrange(f"llm:outcomes:{level}")]
    return [each for fields in entries for each in msgspec.msgpack.decode(fields[b"o"])]


def _records(redis: Redis) -> dict[str, list[list[str]]]:
    """The names in the ledger's records, by the status of the document."""
    found: dict[str, list[list[str]]] = {}
    for key in redis.keys("llm:d:*"):
        record = msgspec.msgpack.decode(redis.get(key))
        found.setdefault(record["s"], []).append(sorted(record))
    return found


def _names(fields: dict[bytes, bytes]) -> list[str]:
    return sorted(field.decode() for field in fields)


def _one(found: list[Any]) -> Any:
    """What all of them are."""
    assert found
    assert all(each == found[0] for each in found), found
    return found[0]


def _different(found: Iterable[Any]) -> list[Any]:
    """Each of them once, in an order of its own."""
    return [json.loads(each) for each in sorted({json.dumps(each) for each in found})]


def _shape(value: Any) -> Any:
    """Names, and types instead of values."""
    if isinstance(value, dict):
        return {name: _shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shape(each) for each in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def _plain(name: str) -> str:
    """A name with a word for whatever is another one each time."""
    name = re.sub(r"[0-9A-HJKMNP-TV-Z]{26}", "<id>", name)
    name = re.sub(r"^(llm:minute:|llm:producers:)\d+", r"\1<time>", name)
    name = re.sub(r"^(rq:worker:).*", r"\1<name>", name)
    name = re.sub(r"[0-9a-f]{32}", "<hex>", name)
    return re.sub(r"(?<=<id>)\d{13}", "<ms>", name)


def _keys(folder: Path) -> list[str]:
    """All keys that were ever written, from the server's own record of its commands."""
    names: set[str] = set()
    for path in sorted((folder / "appendonlydir").glob("*.incr.aof")):
        for command, *arguments in _commands(path.read_bytes()):
            names.update(_plain(each.decode()) for each in _WHERE.get(command.upper(), _first)(arguments))
    return sorted(names)


def _first(arguments: list[bytes]) -> list[bytes]:
    return arguments[:1]


def _none(arguments: list[bytes]) -> list[bytes]:
    return []


def _all(arguments: list[bytes]) -> list[bytes]:
    return arguments


# Which arguments of a command are keys; with others it is the first.
_WHERE: dict[bytes, Callable[[list[bytes]], list[bytes]]] = {
    **dict.fromkeys((b"SELECT", b"MULTI", b"EXEC", b"PUBLISH", b"SCRIPT", b"FUNCTION"), _none),
    **dict.fromkeys((b"DEL", b"UNLINK"), _all),
    **dict.fromkeys((b"LMOVE", b"RPOPLPUSH", b"RENAME"), lambda arguments: arguments[:2]),
}


def _commands(raw: bytes) -> Iterator[list[bytes]]:
    """The commands of an append-only file, which are in the form in which clients send them."""
    at = 0

    def number(mark: bytes) -> int:
        nonlocal at
        end = raw.index(b"\r\n", at)
        assert raw[at : at + 1] == mark
        value, at = int(raw[at + 1 : end]), end + 2
        return value

    while at < len(raw):
        if raw[at : at + 1] == b"#":  # a remark about the time
            at = raw.index(b"\r\n", at) + 2
            continue
        parts = []
        for _ in range(number(b"*")):
            length = number(b"$")
            parts.append(raw[at : at + length])
            at += length + 2
        yield parts
