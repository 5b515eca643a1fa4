"""The command line: what it prints where, with which exit code, against a real server and real daemons."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import KEYS, Fleet, Server, files, mostly_slow, wait_until
from redis import Redis
from typer.testing import CliRunner

from llm_scheduler.api.cli import EXIT_MEANINGS, app, demo
from llm_scheduler.api.cli.output import duration, printable, short_time, size, truncate_left
from llm_scheduler.jobs.config import load, loader
from llm_scheduler.jobs.config.mask import masked
from llm_scheduler.jobs.document import Payload, Route, Status, encode, new_id
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.store import batches, ledger

LEVELS = ["high", "medium", "low"]
NOBODY = "unix:///nowhere/at/all.sock?db=0"
run = CliRunner().invoke


def llmctl(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the real program in its own process, in `cwd`, at 80 columns."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    return subprocess.run(
        [sys.executable, "-P", "-c", "from llm_scheduler.api.cli import main; main()", *arguments],
        cwd=cwd,
        env={**inherited, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.fixture
def config_file(tmp_path: Path, redis_server: Server) -> Path:
    """A configuration for the real server, its folders under the test's own."""
    return configure(tmp_path, redis_server.url)


def configure(folder: Path, url: str, **parts: Any) -> Path:
    names = ("watch", "output", "archive", "error", "temp")
    directories = {f"{name}_directory": str(folder / name) for name in names}
    path = folder / "config.json"
    path.write_text(json.dumps({"directories": directories, "queue": {"type": "redis", "redis_url": url}, **parts}))
    return path


def enter(redis: Redis, status: Status, source: str, priority: str = "medium", **fields: Any) -> str:
    """A document in the ledger, received at a known time and under `status` two seconds later."""
    document_id = new_id(1_800_000_000 + int(redis.incr("test:documents")))
    known = {"priority": priority, "queue": priority, "handler": "default", "source": source, "size": 1234}
    ledger.move(redis, Status.RECEIVED, 1_800_000_000, [(document_id, {**known, "reasons": ["because"]})])
    if status != Status.RECEIVED:
        ledger.move(redis, status, 1_800_000_002, [(document_id, fields)])
    return document_id


# Help, version, usage


def test_help_names_every_command_and_the_exit_codes(tmp_path: Path) -> None:
    shown = llmctl("--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert shown.stderr == ""
    for command in ("up", "status", "tasks", "show", "flush", "generate", "demo", "backup", "restore", "config"):
        assert re.search(rf"^  {command} ", shown.stdout, re.MULTILINE), command
    for code, meaning in EXIT_MEANINGS.items():
        assert f"{code.value:>2}  {meaning}" in shown.stdout
    assert "..." not in shown.stdout.split("Commands:")[1], "every command's line fits at 80 columns"
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import llm_scheduler.api.cli, sys\n"
    code += "print([name for name in ('redis', 'rq', 'rich', 'msgspec') if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert shown.stdout == "[]\n"


def test_version() -> None:
    assert re.fullmatch(r"llmctl \d+\.\d+\.\d+\n", run(app, ["--version"]).stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frob"],
        ["tasks", "--limit", "0"],
        ["tasks", "--limit", "many"],
        ["generate"],
        ["generate", "-3"],
        ["generate", "3", "--broken", "2"],
        ["config"],
        ["show"],
    ],
)
def test_a_wrong_command_line_is_usage(arguments: list[str]) -> None:
    result = run(app, arguments)
    assert result.exit_code == ExitCode.USAGE
    assert "Traceback" not in result.output


def test_values_that_only_the_configuration_knows_are_usage_too(config_file: Path) -> None:
    for arguments in (["tasks", "--status", "finished"], ["tasks", "--priority", "top"], ["flush", "top"]):
        result = run(app, ["--config", str(config_file), *arguments])
        assert result.exit_code == ExitCode.USAGE
        assert "is not one of" in result.stderr
        assert result.stdout == ""


# Configuration


def test_config_check_of_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "good.json"
    path.write_text('{"processing": {"batch_size": 10}} // fine')
    checked = llmctl("config", "check", str(path), cwd=tmp_path)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, f"{path}: no problems\n", "")
    as_json = llmctl("config", "check", str(path), "--json", cwd=tmp_path)
    assert json.loads(as_json.stdout) == {"ok": True, "problems": []}


def test_config_check_names_every_problem_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"procesing": {}, "queue": {"type": "locl"}, "api": {"port": 99999}}')
    checked = llmctl("config", "check", str(path), cwd=tmp_path)
    assert checked.returncode == 78
    assert checked.stdout == ""
    for expected in ("procesing", "'processing'", "queue.type", "'local'", "api.port", "99999", "3 problems"):
        assert expected in checked.stderr
    as_json = llmctl("config", "check", str(path), "--json", cwd=tmp_path)
    assert as_json.returncode == 78
    assert as_json.stderr == ""
    answer = json.loads(as_json.stdout)
    assert answer["ok"] is False
    problems = {problem["key"]: problem for problem in answer["problems"]}
    assert set(problems) == {"procesing", "queue.type", "api.port"}
    assert problems["queue.type"] == {
        "key": "queue.type",
        "value": '"locl"',
        "allowed": '"local" or "redis"',
        "nearest": "local",
    }


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    for arguments in (["config", "check", "none.json"], ["--config", "none.json", "tasks"]):
        checked = llmctl(*arguments, cwd=tmp_path)
        assert checked.returncode == 78
        assert "none.json: 1 problem" in checked.stderr
        assert checked.stdout == ""


def test_the_configuration_is_found_in_the_documented_order(tmp_path: Path) -> None:
    def batch_size(*arguments: str, **environment: str) -> int:
        shown = llmctl(*arguments, "config", "show", "--json", cwd=tmp_path, **environment)
        found: int = json.loads(shown.stdout)["processing"]["batch_size"]
        return found

    assert batch_size() == 50
    for name, value in (("scheduler_config.json", 11), ("environment.json", 12), ("option.json", 13)):
        (tmp_path / name).write_text(json.dumps({"processing": {"batch_size": value}}))
    assert batch_size() == 11
    assert batch_size(LLM_CONFIG="environment.json") == 12
    assert batch_size("--config", "option.json", LLM_CONFIG="environment.json") == 13


SECRETS = {
    "queue": {"type": "redis", "redis_url": "redis://me:hush-url@example.com:6379/0?password=hush-query&db=1"},
    "monitoring": {
        "notification_channels": {"email": {"password": "hush-mail"}, "slack": {"webhook_url": "https://hush-slack"}}
    },
    "security": {
        "api_keys": {"admin": "hush-admin", "readonly": "hush-readonly"},
        "jwt_secret": "hush-jwt",
        "encryption_key": "hush-encryption",
    },
}


@pytest.mark.slow
def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SECRETS))
    for arguments in (["config", "show"], ["config", "show", "--json"], ["config", "check"], ["tasks"], ["status"]):
        shown = llmctl("--config", str(path), *arguments, cwd=tmp_path, COLUMNS="300")
        assert "hush" not in shown.stdout + shown.stderr, arguments
    shown = llmctl("--config", str(path), "config", "show", "--json", cwd=tmp_path)
    effective = json.loads(shown.stdout)
    assert effective["queue"]["redis_url"] == "redis://me:***@example.com:6379/0?password=***&db=1"
    assert effective["security"]["api_keys"] == {"admin": "***", "readonly": "***"}
    assert effective["security"]["jwt_secret"] == "***"


def test_every_secret_that_may_come_from_outside_is_masked(tmp_path: Path) -> None:
    config = load(None, {f"LLM_{name.upper()}": "redis://:hush@h/0" for name in loader._SECRETS})
    assert "hush" not in json.dumps(masked(config))


def test_an_unset_secret_is_shown_as_unset() -> None:
    assert masked(load(None, {}))["security"]["jwt_secret"] == ""


# Redis away


@pytest.mark.parametrize(
    "arguments", mostly_slow([["status"], ["show", new_id(1)], ["tasks"], ["flush"], ["demo", "5"]], 2)
)
def test_without_redis_commands_say_so_and_exit_69(tmp_path: Path, arguments: list[str]) -> None:
    configure(tmp_path, NOBODY)
    shown = llmctl("--config", "config.json", *arguments, cwd=tmp_path)
    assert shown.returncode == 69
    assert shown.stdout == ""
    assert shown.stderr.startswith("Redis unreachable")
    assert len(shown.stderr.splitlines()) == 1


def test_status_without_redis_counts_what_is_safe_on_disk(tmp_path: Path) -> None:
    configure(tmp_path, NOBODY)
    (tmp_path / "watch" / "sub").mkdir(parents=True)
    for name in ("a.json", "sub/b.json", ".hidden.json"):
        (tmp_path / "watch" / name).write_text("{}")
    group = tmp_path / "temp" / new_id(1)
    group.mkdir(parents=True)
    for name in (new_id(2), "manifest"):
        (group / name).write_text("{}")
    words = llmctl("--config", "config.json", "status", cwd=tmp_path)
    assert words.stderr.startswith("Redis unreachable for 0 s; 3 files safe on disk")
    as_json = llmctl("--config", "config.json", "status", "--json", cwd=tmp_path)
    assert as_json.returncode == 69
    shown = json.loads(as_json.stdout)
    assert shown["redis"]["reachable"] is False
    assert shown["files"] == {"on_disk": 3, "waiting": {str(tmp_path / "watch"): 2}, "claimed": 1}


def test_status_tells_for_how_long_redis_has_been_away(tmp_path: Path) -> None:
    configure(tmp_path, NOBODY)
    (tmp_path / "temp").mkdir()
    (tmp_path / "temp" / "redis-outage.json").write_text('{"since": 1700000000.0}')
    shown = llmctl("--config", "config.json", "status", cwd=tmp_path)
    assert re.match(r"Redis unreachable for \d{7,} s; 0 files safe on disk", shown.stderr)


def test_the_address_may_come_from_the_environment(tmp_path: Path, redis_server: Server) -> None:
    configure(tmp_path, NOBODY)
    shown = llmctl("--config", "config.json", "flush", cwd=tmp_path, LLM_REDIS_URL=redis_server.url)
    assert shown.returncode == 0, shown.stderr


def test_the_embedded_server_is_the_default(tmp_path: Path) -> None:
    shown = llmctl("tasks", cwd=tmp_path)
    assert shown.returncode == 69
    assert "llmctl up" in shown.stderr


# Documents


def test_tasks_lists_the_newest_first(tmp_path: Path, config_file: Path, redis: Redis) -> None:
    first = enter(redis, Status.DONE, "a/first.json", attempts=1)
    second = enter(redis, Status.REJECTED, "second.json", "high", code="empty", message="The file is empty.")
    third = enter(redis, Status.QUEUED, "第三.json", rq_job_id="j1")
    listed = llmctl("--config", str(config_file), "tasks", "--json", cwd=tmp_path)
    assert listed.stderr == ""
    shown = json.loads(listed.stdout)
    assert [job["id"] for job in shown] == [third, second, first]
    assert shown[1] == {
        "id": second,
        "status": "rejected",
        "source": "second.json",
        "priority": "high",
        "queue": "high",
        "handler": "default",
        "attempts": 0,
        "size": 1234,
        "received_at": "2027-01-15T08:00:00.000Z",
        "rq_job_id": None,
        **dict.fromkeys(("country", "industry", "language", "quality")),
        "error": {"code": "empty", "message": "The file is empty."},
    }
    assert shown[0]["rq_job_id"] == "j1"
    assert shown[0]["error"] is None


def test_tasks_can_be_narrowed_down(config_file: Path, redis: Redis) -> None:
    done = enter(redis, Status.DONE, "1.json")
    high = enter(redis, Status.DONE, "2.json", "high")
    enter(redis, Status.QUEUED, "3.json")

    def ids(*arguments: str) -> list[str]:
        result = run(app, ["--config", str(config_file), "tasks", "--json", *arguments])
        return [job["id"] for job in json.loads(result.stdout)]

    assert ids("--status", "done") == [high, done]
    assert ids("--status", "done", "--priority", "medium") == [done]
    assert ids("--limit", "1", "--status", "done") == [high]
    assert ids("--status", "cancelled") == []


def test_the_table_fits_80_columns_and_is_whole_in_a_pipe(tmp_path: Path, config_file: Path, redis: Redis) -> None:
    source = "a-rather-long-folder-name/with-another-inside/and-then-中文檔名-at-the-end.json"
    document_id = enter(redis, Status.DONE, source)
    narrow = llmctl("--config", str(config_file), "tasks", cwd=tmp_path)
    assert document_id in narrow.stdout
    assert "at-the-end.json" in narrow.stdout
    assert max(len(line) for line in narrow.stdout.splitlines()) <= 80
    assert "\x1b" not in narrow.stdout
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    wide = subprocess.run(
        [sys.executable, "-c", "from llm_scheduler.api.cli import main; main()", "--config", str(config_file), "tasks"],
        capture_output=True,
        env=inherited,
        check=True,
        timeout=60,
    )
    assert source in wide.stdout.decode()


def test_a_name_cannot_steer_the_terminal(tmp_path: Path, config_file: Path, redis: Redis) -> None:
    document_id = enter(redis, Status.REJECTED, "x\x1b[2J[red]y.json", code="empty", message="a\x1b]0;b\x07c")
    for arguments in (["tasks"], ["show", document_id]):
        shown = llmctl("--config", str(config_file), *arguments, cwd=tmp_path)
        assert "\x1b" not in shown.stdout
        assert "[red]y.json" in shown.stdout


def test_no_documents_is_said_on_stderr(config_file: Path) -> None:
    result = run(app, ["--config", str(config_file), "tasks"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No documents yet.\n")


def test_show_of_an_unknown_document(config_file: Path) -> None:
    unknown = new_id(1)
    for wanted, sentence in ((unknown, f"No document {unknown} is known"), ("nope", "'nope' is not a document id")):
        result = run(app, ["--config", str(config_file), "show", wanted, "--json"])
        assert result.exit_code == ExitCode.NOT_WELL
        assert result.stdout == ""
        assert result.stderr.startswith(sentence)


def test_show_tells_a_documents_whole_life(config_file: Path, redis: Redis) -> None:
    document_id = enter(redis, Status.RETRYING, "a.json", message="handler_failed: ValueError: no", rq_job_id="r1")
    result = run(app, ["--config", str(config_file), "show", document_id.lower(), "--json"])
    shown = json.loads(result.stdout)
    assert shown["error"] == {"code": None, "message": "handler_failed: ValueError: no"}
    assert shown["reasons"] == ["because"]
    assert shown["timeline"] == [
        {"status": "received", "at": "2027-01-15T08:00:00.000Z"},
        {"status": "retrying", "at": "2027-01-15T08:00:02.000Z"},
    ]
    assert shown["files"] == {}
    words = run(app, ["--config", str(config_file), "show", document_id]).stdout
    assert "ValueError: no" in words
    assert "+2.0 s" in words


def test_show_finds_the_files_that_are_the_documents_own(tmp_path: Path, config_file: Path, redis: Redis) -> None:
    mine = enter(redis, Status.DONE, "a/same.json")
    for folder in ("output", "archive"):
        (tmp_path / folder / "a").mkdir(parents=True)
    (tmp_path / "output/a/same.json").write_text(json.dumps({"id": new_id(5)}))
    (tmp_path / "archive/a/same.json").write_text("{}")
    assert files_of(config_file, mine) == {}, "another document's result is not taken for this one's"
    (tmp_path / f"output/a/same.{mine}.json").write_text(json.dumps({"id": mine}))
    (tmp_path / f"archive/a/same.{mine}.json").write_text("{}")
    assert files_of(config_file, mine) == {
        "result": str(tmp_path / f"output/a/same.{mine}.json"),
        "original": str(tmp_path / f"archive/a/same.{mine}.json"),
    }


def files_of(config_file: Path, document_id: str) -> dict[str, str]:
    result = run(app, ["--config", str(config_file), "show", document_id, "--json"])
    found: dict[str, str] = json.loads(result.stdout)["files"]
    return found


def test_flush_hands_a_batch_to_the_workers(tmp_path: Path, config_file: Path, redis: Redis) -> None:
    config = load(config_file, {})
    payloads = [payload("medium") for _ in range(3)]
    with redis.pipeline() as pipeline:
        batches.add(pipeline, "medium", payloads, config.processing, 1_800_000_000)
        pipeline.execute()
    high = llmctl("--config", str(config_file), "flush", "high", "--json", cwd=tmp_path)
    assert json.loads(high.stdout) == {"flushed": {"high": 0}}
    everything = llmctl("--config", str(config_file), "flush", cwd=tmp_path)
    assert everything.stdout == "high: 0 documents\nmedium: 3 documents\nlow: 0 documents\n"
    assert redis.llen(KEYS.queue("medium")) == 1


def payload(queue: str) -> Payload:
    route = Route(priority=queue, queue=queue, handler="default", reasons=[])
    made = Payload(new_id(1_800_000_000), new_id(1), "s.json", 1.0, 1.0, route, b"{}")
    assert encode(made)
    return made


# The whole system


def test_status_of_a_running_fleet(fleet: Fleet) -> None:
    fleet.start()
    fleet.drop("a.json", '{"id": 1, "metadata": {"priority": "high"}}')
    fleet.wait_finished(1)

    def look() -> dict[str, Any] | None:
        result = run(app, ["--config", str(fleet.config_path), "status", "--json"])
        assert result.exit_code == 0, result.output
        shown: dict[str, Any] = json.loads(result.stdout)
        return shown if shown["status"] == "ok" and shown["counts"]["done"]["high"] == 1 else None

    shown = wait_until(look, "a status with everything in it")
    assert shown["redis"]["reachable"] is True
    assert shown["files"] == {"on_disk": 0, "waiting": {str(fleet.raw): 0}, "claimed": 0}
    assert [queue["name"] for queue in shown["queues"]] == LEVELS
    assert sorted(worker["queue"] for worker in shown["workers"]) == sorted(LEVELS)
    by_name = {process["name"]: process for process in shown["processes"]}
    assert by_name["ingest"]["pid"] == fleet.running["ingest"].pid
    assert by_name["collector"]["state"] == "working"
    words = llmctl("--config", str(fleet.config_path), "status", cwd=fleet.folder)
    assert words.stdout.startswith("ok: Redis answers; 0 files waiting or in work\n")
    for expected in ("llm-ingest", "llm-collector", "llm-worker high", "done", "0 waiting"):
        assert expected in words.stdout
    assert max(len(line) for line in words.stdout.splitlines() if "waiting" not in line) <= 80

    fleet.stop("collector")
    stopped = json.loads(run(app, ["--config", str(fleet.config_path), "status", "--json"]).stdout)
    assert stopped["status"] == "degraded"
    assert stopped["message"] == "Not running: llm-collector"


def test_show_finds_the_files_of_real_documents(fleet: Fleet) -> None:
    fleet.start()
    fleet.drop("sub/good.json", '{"a": 1}')
    fleet.drop("sub/bad.json", '{"a": 1,\n "b": tru}')
    fleet.drop("sub/" + "long" * 60 + ".json", "{'a': 1}")
    fleet.wait_finished(3)
    run_in_fleet = ["--config", str(fleet.config_path)]

    def all_final() -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = json.loads(run(app, [*run_in_fleet, "tasks", "--json"]).stdout)
        return jobs if len(jobs) == 3 and all(job["status"] in ("done", "rejected") for job in jobs) else []

    for job in wait_until(all_final, "three finished documents in the ledger"):
        shown = json.loads(run(app, [*run_in_fleet, "show", job["id"], "--json"]).stdout)
        assert Path(shown["files"]["original"]).is_file()
        report = json.loads(Path(shown["files"]["result" if job["status"] == "done" else "report"]).read_bytes())
        assert report["id"] == job["id"]
        if job["source"] == "sub/bad.json":
            assert shown["error"] | {"message": ""} == {
                "code": "invalid_json",
                "message": "",
                "line": 2,
                "column": 7,
                "offset": 15,
            }


@pytest.mark.slow
def test_demo_accounts_for_every_document(fleet: Fleet) -> None:
    # Batches that would never go by themselves: the demo has to flush them.
    fleet.configure(processing={"mode": "batch", "batch_timeout": 3600, "batch_size": 1000}).start()
    ready(fleet)
    done = llmctl("--config", str(fleet.config_path), "demo", "200", "--broken", "0.05", "--json", cwd=fleet.folder)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["documents"] == 200
    rejected = sum(report["rejected"].values())
    assert report["done"] == 200 - rejected
    assert 0 < rejected < 10, "some of the ten that are broken can be repaired"
    assert sum(report["by_priority"].values()) == report["done"]
    assert (report["missing"], report["rejected_though_valid"]) == (0, [])
    assert report["documents_per_second"] > 0
    assert report["latency_seconds"]["p50"] <= report["latency_seconds"]["p95"]
    assert len(files(Path(report["results"]))) == report["done"]
    assert not list(fleet.raw.iterdir()), "the demo's own folder is gone"

    words = llmctl("--config", str(fleet.config_path), "demo", "50", "--broken", "0", cwd=fleet.folder)
    assert words.returncode == 0, words.stderr
    assert re.search(r"^50 documents in \d+\.\d s: \d+ documents/s$", words.stdout, re.MULTILINE)
    assert words.stderr.startswith("Dropping 50 documents into ")
    assert "\x1b" not in words.stdout + words.stderr


def test_demo_needs_a_running_system(fleet: Fleet) -> None:
    fleet.start("ingest")
    missing = ["llm-collector", "llm-scheduler", "llm-worker high", "llm-worker medium", "llm-worker low"]
    wait_until(lambda: fleet.server.client().exists(KEYS.heartbeat("ingest")), "ingest's word")
    refused = llmctl("--config", str(fleet.config_path), "demo", "5", cwd=fleet.folder)
    assert refused.returncode == 1
    assert refused.stderr == f"Not running: {', '.join(missing)}. Start the whole system with: llmctl up\n"
    assert not list(fleet.raw.iterdir())


def test_demo_says_once_that_redis_has_gone(
    config_file: Path, redis_server: Server, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    flush = demo.BatchFlush(load(config_file, {}), redis)
    flush()
    redis_server.kill()
    flush()
    flush()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("Redis unreachable") == 1
    redis_server.start()
    flush()
    redis_server.kill()
    flush()
    assert capsys.readouterr().err.count("Redis unreachable") == 1


@pytest.mark.slow
def test_demo_says_where_missing_documents_are(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.start("ingest")
    wait_until(lambda: fleet.server.client().exists(KEYS.heartbeat("ingest")), "ingest's word")
    monkeypatch.setattr(demo, "_require_running", lambda config, redis: None)
    result = run(app, ["--config", str(fleet.config_path), "demo", "10", "--broken", "0", "--timeout", "5", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["missing"] == 10
    assert "10 of 10 documents did not finish in time: 10 queued; whatever was claimed is safe in" in result.stderr


def ready(fleet: Fleet) -> None:
    def is_ok() -> bool:
        result = run(app, ["--config", str(fleet.config_path), "status", "--json"])
        return bool(json.loads(result.stdout)["status"] == "ok")

    wait_until(is_ok, "a running fleet")


# Words


def test_short_words() -> None:
    assert [duration(value) for value in (0.0123, 4.26, 200, 18_180)] == ["0.012 s", "4.3 s", "3 min 20 s", "5 h 3 min"]
    assert [size(value) for value in (0, 999, 1200, 16_777_216)] == ["0 B", "999 B", "1.2 kB", "16.8 MB"]
    assert printable("a\n\x1b中 b") == "a\\n\\x1b中 b"
    assert truncate_left("abcdef", 6) == "abcdef"
    assert truncate_left("abcdefg", 6) == "…cdefg"
    assert truncate_left("中文中文", 6) == "…中文"
    now = 1_800_000_000.0
    assert re.fullmatch(r"\d\d:\d\d:\d\d", short_time(now, now))
    assert re.fullmatch(r"\d\d-\d\d \d\d:\d\d", short_time(now + 10 * 86400, now))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", short_time(now - 400 * 86400, now))
