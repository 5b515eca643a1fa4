"""Makes the fixtures of tests/test_formats.py: a spool, its server's data and a backup, as an OLD version leaves them.

The fixtures are evidence of what was written before the modules were moved, so they are made once, by the code of that
time, and kept. The tests don't need this file. They were made by commit d63d516. To make them with a checkout of it:

    cd CHECKOUT && make .venv/.test
    unshare --mount --uts --pid --fork --mount-proc .venv/bin/python /path/to/tests/data/formats/make.py /tmp/formats

It needs root for a host name (demo), process ids, a boot id and a start folder (/srv/demo, in memory) of its own, so
that nothing in the fixtures names the machine they were made on. In the folder given it leaves:

- `spool.tar.gz`: the start folder `demo/` without the server's data: the configuration, the handler, the documents
- `server.aof.tar.gz`: `appendonlydir/` of the embedded server
- `backup.tar.gz`: what `llmctl backup` made of that spool
- `answers.json`: what the old `llmctl` and the old API said of it while its server still ran

`written.json` is made beside it, by the test that compares with it, in the checkout:

    cp tests/test_formats.py CHECKOUT/tests/ && cp -r tests/data/formats CHECKOUT/tests/data/
    cd CHECKOUT && LLM_RECORD_FORMATS=1 .venv/bin/pytest tests/test_formats.py -k written
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from redis import Redis

START = Path("/srv/demo")
SPOOL = START / "data" / "llm_generated"
RAW, TEMP, SERVER = (SPOOL / name for name in ("raw", "temp", "server"))
PORT = 8080
LLMCTL = str(Path(sys.executable).with_name("llmctl"))
MODULES = {
    "ingest": ("ingest.daemon",),
    "collector": ("ingest.collector",),
    "scheduler": ("jobs.scheduler",),
    "api": ("api.server",),
    "high": ("jobs.worker", "high"),
    "medium": ("jobs.worker", "medium"),
    "low": ("jobs.worker", "low"),
}
CONFIG = {
    "processing": {
        "settle_seconds": 0.3,
        "scan_interval": 0.5,
        "retry_attempts": 2,
        "retry_delay": 0.2,
        "batch_idle": 0.2,
        "queue_timeout": 1,
        "max_document_bytes": 65536,
    },
    "api": {"port": PORT},
    "handlers": {"default": "handlers:handle"},
    "intelligent_routing": {
        "geo_detection": False,
        "industry_classification": False,
        "language_detection": False,
    },
    # What is finished stays in the ledger, however old the fixture is when it is read.
    "monitoring": {"metrics_retention_days": 36500},
}
HANDLER = '''\
"""Fails as often as a document says, hangs while a file says so, and is broken while another does."""

import os
import time


def handle(document, context):
    if context.attempt <= document.get("fails", 0):
        raise ValueError("this one fails at first")
    while "hold" in document and os.path.exists("hold"):
        time.sleep(0.02)
    if "needs" in document and os.path.exists("broken"):
        raise RuntimeError("the service is down")
    return {"n": document.get("n"), "attempt": context.attempt}
'''
BROKEN = '{"n": 0, "text": "the model stopped in the mid'


class Demo:
    """The start folder, its server and its daemons."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.redis = Redis(unix_socket_path=str(SERVER / "valkey.sock"))
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=10)

    def server(self) -> None:
        from api.local import embedded
        from jobs.config import load

        command = embedded.command(load(START / "scheduler_config.json", {}))
        self.running["server"] = subprocess.Popen(command, cwd=START)
        until(self.answers, "an answer of the server")

    def answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except Exception:
            return False

    def start(self, *names: str, faults: str = "") -> None:
        environment = {**os.environ, "LLM_REDIS_URL": f"unix://{SERVER}/valkey.sock?db=0"}
        if faults:
            environment["LLM_FAULTS"] = faults
        for name in names:
            module, *arguments = MODULES[name]
            command = [sys.executable, "-P", "-m", module, *arguments]
            with open(f"/tmp/{name}.log", "ab") as log:
                self.running[name] = subprocess.Popen(command, cwd=START, env=environment, stdout=log, stderr=log)

    def kill(self, *names: str) -> None:
        """kill -9, the keeper of a worker first."""
        for name in names:
            process = self.running.pop(name)
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            for child in children:
                if child.is_running():
                    child.kill()

    def died(self, name: str) -> None:
        """Wait until the daemon has killed itself at its fault point."""
        process = self.running.pop(name)
        assert process.wait(30) == -9, f"{name} ended with {process.returncode}"

    def ids(self) -> dict[str, dict[str, Any]]:
        """Every document that the ledger knows, by its source; of two the newer."""
        return {each["source"]: each for each in reversed(llmctl("tasks", "--limit", "1000", "--json"))}

    def is_at(self, source: str, *statuses: str) -> bool:
        return self.ids().get(source, {}).get("status") in statuses

    def outcomes(self, level: str = "high") -> int:
        return int(self.redis.xlen(f"llm:outcomes:{level}"))


def until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise SystemExit(f"There never was: {what}")


def llmctl(*arguments: str, status: int = 0) -> Any:
    done = subprocess.run([LLMCTL, *arguments], cwd=START, capture_output=True, text=True, check=False)
    assert done.returncode == status, (arguments, done)
    return json.loads(done.stdout)


def drop(source: str | bytes, content: str | bytes) -> None:
    path = os.path.join(os.fsencode(RAW), os.fsencode(source))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    hidden = os.path.join(os.path.dirname(path), b".unfinished.tmp")
    with open(hidden, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    os.rename(hidden, path)


def document(n: int, level: str, **more: Any) -> str:
    """Lines with blanks that no encoder would write: what comes back has to be these bytes."""
    said = {"n": n, "rate": 1.10, **more, "metadata": {"priority": level, "source": "crm", "model": "demo-1"}}
    return json.dumps(said, ensure_ascii=False, separators=(" , ", " : ")) + "\n"


def history(demo: Demo) -> None:
    """Documents of all kinds that are finished."""
    demo.start("scheduler", "high", "medium", "low", "collector", "ingest", "api")
    drop("plain.json", document(1, "high"))
    drop("orders/2026/november/deep.json", document(2, "medium", text="x" * 900))
    drop("中文/緊急訂單.json", document(3, "high", text="緊急：第三倉庫停電，請立即處理"))
    drop(b"caf\xe9.json", document(4, "low"))
    drop("chatty.json", 'Here you are:\n```json\n{"n": 5, "tags": ["a", "b",]}\n```\n')
    drop("broken.json", BROKEN)
    drop("large.json", json.dumps({"n": 6, "text": "y" * 70_000}))
    drop("again.json", document(7, "high", fails=1))
    drop("never.json", document(8, "high", fails=9))
    lines = [document(10, "high").strip(), '{"custom_id": "order-11", "n": 11}', BROKEN, '{"n": 12}']
    drop("answers/batch.jsonl", "\n".join(lines) + "\n")
    names = ["plain.json", "orders/2026/november/deep.json", "中文/緊急訂單.json", "chatty.json", "again.json"]
    until(lambda: all(demo.is_at(name, "done") for name in names), "done documents")
    until(lambda: all(demo.is_at(name, "rejected") for name in ("broken.json", "large.json", "never.json")), "rejected")
    drop("plain.json", document(13, "high"))  # a second one of that name
    until(lambda: demo.is_at("plain.json", "done"), "the second plain.json")

    (START / "broken").touch()
    drop("mended.json", document(14, "high", needs="service"))
    until(lambda: demo.is_at("mended.json", "rejected"), "a document that failed")
    (START / "broken").unlink()
    demo.api.post(f"/jobs/{demo.ids()['mended.json']['id']}/retry").raise_for_status()
    until(lambda: demo.is_at("mended.json", "done"), "a document that was tried again")

    demo.api.post("/queues/low/pause").raise_for_status()
    until(lambda: b"low" in demo.redis.smembers("llm:paused"), "a pause")
    time.sleep(2)  # its worker hears of it with its next beat
    drop("unwanted.json", document(15, "low"))
    until(lambda: demo.is_at("unwanted.json", "batched", "queued"), "a document that waits")
    demo.api.delete(f"/jobs/{demo.ids()['unwanted.json']['id']}").raise_for_status()
    until(lambda: demo.is_at("unwanted.json", "cancelled"), "a cancelled document")
    until(lambda: not any(names for _, _, names in os.walk(TEMP) if "manifest" in names), "an empty temp folder")


def flight(demo: Demo) -> None:
    """Documents at every step between the watch folder and their end; nobody lives at the end."""
    # In the paused queue, as a job that a flush has made; it waits long enough for an alert.
    for n in (20, 21, 22):
        drop(f"low/{n}.json", document(n, "low"))
    until(lambda: demo.is_at("low/22.json", "queued"), "a flushed batch")
    until(lambda: demo.redis.hlen("llm:alerts"), "an alert")
    demo.kill("scheduler")

    # A result in its place, and its original still a claim.
    demo.kill("collector")
    drop("half/committed.json", document(30, "high"))
    until(lambda: demo.outcomes() == 1, "an outcome")
    demo.start("collector", faults="commit.report_in_place:1")
    demo.died("collector")

    # Outcomes that nobody has collected: done, repaired, rejected.
    drop("told/valid.json", document(31, "high", text="z" * 500))
    until(lambda: demo.outcomes() == 2, "an outcome")
    drop("told/repaired.json", "Sure! ```json\n" + document(32, "high") + "```")
    until(lambda: demo.outcomes() == 3, "a second outcome")
    drop("told/中斷.json", BROKEN.replace("text", "緊急"))
    until(lambda: demo.is_at("told/中斷.json", "batched"), "a document in a batch")
    subprocess.run([LLMCTL, "flush", "medium"], cwd=START, check=True, capture_output=True)
    until(lambda: demo.outcomes("medium") == 1, "a third outcome")

    # One that failed once and waits for its second try, with nobody to deliver it.
    drop("later.json", document(40, "high", fails=1))
    until(lambda: demo.is_at("later.json", "retrying"), "a retry")

    # In a worker's hand.
    (START / "hold").touch()
    drop("held/hold.json", document(41, "high", hold=True))
    until(lambda: demo.is_at("held/hold.json", "started"), "a document that was begun")
    demo.kill("high", "low", "medium")

    # Queued: one alone, and several in one job. A batch that waits for its flush.
    drop("queued/alone.json", document(50, "high"))
    until(lambda: demo.is_at("queued/alone.json", "queued"), "a queued document")
    for n in range(51, 55):
        drop(f"queued/{n}.json", document(n, "high", text="w" * 40 * (n - 50)))
    until(lambda: all(demo.is_at(f"queued/{n}.json", "queued") for n in range(51, 55)), "queued documents")
    for n in range(60, 64):
        drop(f"batched/{n}.json", document(n, "medium"))
    drop(b"batched/na\xefve.json", document(64, "medium"))
    until(lambda: demo.redis.llen("llm:batch:medium") >= 5, "a batch")

    # Claimed and not submitted; one file taken apart, whose lines wait; another half taken apart.
    demo.kill("ingest")
    # (None of these four parses at once, so they are looked at together, and make one group.)
    drop("claimed/one.json", "Here: " + document(70, "high"))
    drop("claimed/two.json", BROKEN.replace("0", "71"))
    drop("lines/a.jsonl", "\n".join(json.dumps({"n": n}) for n in range(72, 75)) + "\n")
    drop("lines/b.jsonl", "\n".join(json.dumps({"n": n}) for n in range(75, 79)) + "\n")
    demo.start("ingest", faults="split.written:2")
    demo.died("ingest")
    known = demo.ids()
    assert "claimed/one.json" not in known, "they were submitted before"
    taken = [known[name]["status"] for name in ("lines/a.jsonl", "lines/b.jsonl") if name in known]
    assert taken == ["done"], f"one is taken apart, and one half: {taken}"

    # Orders that nobody has carried out, a document over the API, and documents in nested folders.
    demo.api.post(f"/jobs/{known['never.json']['id']}/retry").raise_for_status()
    demo.api.delete(f"/jobs/{known['low/20.json']['id']}").raise_for_status()
    sent = {"content": "Please ship order 4711 today.", "metadata": {"source": "shop"}}
    demo.api.post("/jobs", json=sent, headers={"Idempotency-Key": "4711"}).raise_for_status()
    drop("waiting/deep/er/one.json", document(80, "high"))
    drop("waiting/中文名.json", document(81, "medium"))
    drop("waiting/broken.json", BROKEN.replace("0", "82"))
    drop("waiting/three.jsonl", "\n".join(json.dumps({"n": n}) for n in range(83, 86)) + "\n")


def answers(demo: Demo) -> dict[str, Any]:
    """What the old code says of all this. Nothing of it depends on when it is asked."""
    tasks = llmctl("tasks", "--limit", "1000", "--json")
    said: dict[str, Any] = {"tasks": tasks}
    said["show"] = {each["id"]: llmctl("show", each["id"], "--json") for each in tasks}
    status = llmctl("status", "--json")
    said["status"] = {name: status[name] for name in ("counts", "alerts", "files")}
    said["queues"] = [
        {name: each[name] for name in ("name", "jobs", "batched") if name in each} for each in status["queues"]
    ]
    said["paused"] = [each["name"] for each in demo.api.get("/queues").json()["queues"] if each["paused"]]
    said["account"] = llmctl("reconcile", "--verify", "--json")
    [day] = demo.redis.keys("llm:producers:*")
    for name, key in (("tallies", b"llm:tallies"), ("producers", day)):
        said[name] = {field.decode(): int(count) for field, count in demo.redis.hgetall(key).items()}
    said["events"] = [json.loads(fields[b"e"]) for _, fields in demo.redis.xrange("llm:events")]
    said["orders"] = [json.loads(fields[b"o"]) for _, fields in demo.redis.xrange("llm:orders")]
    return said


def packed(target: Path, folder: Path, name: str, leave_out: str = "") -> None:
    def chosen(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if leave_out and member.name.startswith(leave_out) else member

    with tarfile.open(target, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.add(folder, name, filter=chosen)


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run(["hostname", "demo"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/srv"], check=True)
    boot = Path("/srv/boot")  # a worker's key names the boot of its machine
    boot.write_text("00000000-0000-0000-0000-000000000000\n")
    subprocess.run(["mount", "--bind", boot, "/proc/sys/kernel/random/boot_id"], check=True)
    START.mkdir()
    os.chdir(START)  # the folders of the configuration are relative
    (START / "scheduler_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (START / "handlers.py").write_text(HANDLER)
    demo = Demo()
    demo.server()
    history(demo)
    flight(demo)
    (START / "hold").unlink()
    said = answers(demo)
    llmctl("backup", "backups", "--json")
    demo.kill("api", "server")
    shutil.rmtree(START / "__pycache__", ignore_errors=True)
    shutil.rmtree(START / "logs", ignore_errors=True)
    [backup] = (START / "backups").iterdir()
    shutil.move(backup, out / "backup.tar.gz")
    shutil.rmtree(START / "backups")
    packed(out / "server.aof.tar.gz", SERVER / "appendonlydir", "appendonlydir")
    packed(out / "spool.tar.gz", START, "demo", "demo/data/llm_generated/server")
    (out / "answers.json").write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
