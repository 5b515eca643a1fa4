"""Redis can't run code: whoever writes jobs there by hand gets nothing imported and nothing run."""

import json
import pickle
from pathlib import Path

import pytest
from conftest import KEYS, Fleet, account, wait_until
from redis import Redis

from llm_scheduler.jobs.document import Payload, Route, new_id
from llm_scheduler.jobs.store.rq_job import DocumentJob, ForbiddenFunction

NOW = "2026-01-01T00:00:00.000000Z"


def hostile(marker: Path) -> dict[str, dict[str, bytes | str]]:
    """Jobs that leave `marker` behind if anything of them is ever run or imported."""
    shell = f"touch {marker}"
    call = [None, [shell], {}]
    ours = json.dumps(["jobs.run.run_documents", None, [], {}])

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.system, (shell,)

    pickled = pickle.dumps(("jobs.run.run_documents", None, [Bomb()], {}))
    common: dict[str, bytes | str] = {"created_at": NOW, "enqueued_at": NOW, "status": "queued", "origin": "high"}
    callbacks = {f"{kind}_callback_name": "trap.touch" for kind in ("success", "failure", "stopped")}
    kinds: dict[str, dict[str, bytes | str]] = {
        "os.system": {"data": json.dumps(["os.system", *call])},
        "eval": {"data": json.dumps(["builtins.eval", None, [f"__import__('os').system({shell!r})"], {}])},
        "subprocess": {"data": json.dumps(["subprocess.getoutput", *call])},
        "another of ours": {
            "data": json.dumps(["llm_scheduler.jobs.worker.runner.load_handler", None, ["trap:touch"], {}])
        },
        "an import alone": {"data": json.dumps(["trap.touch", None, [], {}])},
        "a method": {"data": json.dumps(["touch", "trap.Trap", [], {}])},
        "callbacks": {"data": ours, **callbacks},
        "callbacks of a failing one": {"data": json.dumps(["no.such", None, [], {}]), **callbacks},
        "pickle": {"data": pickled},
        "pickled meta": {"data": ours, "meta": pickle.dumps(Bomb())},
        "webhooks": {"data": ours, "webhooks": json.dumps([{"url": "http://127.0.0.1:1/", "event": "finished"}])},
        "a payload of pickle": {"data": ours, "d0": pickled},
        "no payload's number": {"data": ours, "d²": b"", "": b""},
        "bytes": {"data": b"\xff\x00"},
        "nothing": {},
    }
    return {name: {**common, **fields} for name, fields in kinds.items()}


def test_jobs_put_into_redis_by_hand_run_nothing(fleet: Fleet, redis: Redis) -> None:
    marker = fleet.folder / "ran"
    # Handlers may be imported from the worker's folder: so could this, if anything but the configuration could say so.
    (fleet.folder / "trap.py").write_text(
        f"open({str(marker)!r}, 'w')\ndef touch(*a, **k): pass\nclass Trap:\n    def touch(self): pass\n"
    )
    fleet.start("ingest", "collector", "scheduler", "high")
    jobs = hostile(marker)
    for number, fields in enumerate(jobs.values()):
        redis.hset(KEYS.job(f"evil{number}"), mapping=fields)
        redis.rpush(KEYS.queue("high"), f"evil{number}")
    redis.set(KEYS.job("string"), b"no hash at all")
    redis.rpush(KEYS.queue("high"), "string", "absent", b"\xff\xfe")
    document = b'{"n": 1, "metadata": {"priority": "high"}}'
    fleet.drop("good.json", document)
    fleet.wait_finished(1, deadline=30)
    account(fleet, {"good": document})
    wait_until(lambda: not redis.llen(KEYS.queue("high")), "an empty queue")
    # Unreadable ones wait between queue and worker until the reaper has dropped them.
    wait_until(lambda: not redis.llen(KEYS.intermediate("high")), "nothing half taken", 20)
    assert not marker.exists()
    assert fleet.running["high"].poll() is None, "the worker lives"
    assert fleet.running["scheduler"].poll() is None, "the scheduler lives"
    second = b'{"n": 2, "metadata": {"priority": "high"}}'
    fleet.drop("second.json", second)
    fleet.wait_finished(2, deadline=30)
    account(fleet, {"good": document, "second": second})
    assert not marker.exists()


def test_only_the_one_function_is_a_jobs_function(redis: Redis) -> None:
    payload = Payload(
        new_id(1.0), "c", "s.json", 1.0, 1.0, Route(priority="high", queue="high", handler="h", reasons=[]), b"1"
    )
    job = DocumentJob.carrying("j", [payload], "high", redis)
    job.save()
    stored = DocumentJob.fetch("j", connection=redis)
    assert stored.payloads == [payload]
    assert stored.func.__name__ == "run_documents"
    raw = redis.hget(KEYS.job("j"), "data")
    import zlib

    assert json.loads(zlib.decompress(raw))[0] == "jobs.run.run_documents", "JSON, and no pickle"
    for name in (
        "os.system",
        "builtins.eval",
        "llm_scheduler.jobs.worker.runner.encode_result",
        "llm_scheduler.jobs.worker.runner.run_documents.__class__",
        "",
    ):
        stored._func_name = name
        with pytest.raises(ForbiddenFunction):
            _ = stored.func


def test_callbacks_never_come_out_of_redis(redis: Redis) -> None:
    job = DocumentJob.carrying("j", [], "high", redis)
    job.save()
    names = ("success", "failure", "stopped")
    redis.hset(KEYS.job("j"), mapping={f"{name}_callback_name": "os.getcwd" for name in names})
    stored = DocumentJob.fetch("j", connection=redis)
    assert [getattr(stored, f"{name}_callback") for name in names] == [None, None, None]
