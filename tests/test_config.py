"""The configuration: everything the guide's file may say, and every problem named at once with its cure."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_scheduler.jobs.config import Config, ConfigError, find, load
from llm_scheduler.jobs.config.problem import ConfigProblem

# The guide's file: each of its keys, with comments, none of them at its default unless it has no other value.
GUIDE = """\
// The scheduler's configuration
{
  "directories": {
    "watch_directory": ["/srv/in", "/srv/in2//x"], // a list, or one folder
    "output_directory": "/srv/out",
    "archive_directory": "/srv/archive",
    "error_directory": "/srv/errors", /* with
       a comment of two lines: " and // inside */
    "temp_directory": "/srv/temp"
  },
  "processing": {
    "mode": "batch", "max_workers": "auto", "batch_size": 20, "batch_timeout": 30, "retry_attempts": 5,
    "retry_delay": 0.5, "worker_timeout": 60, "queue_timeout": 10
  },
  "queue": {
    "type": "redis", "redis_url": "redis://example.org:6379/1", "max_queue_size": 500,
    "priority_levels": ["urgent", "normal"]
  },
  "api": {
    "host": "0.0.0.0", "port": 9090, "workers": 2, "reload": true, "access_log": false,
    "ssl_enabled": true, "ssl_cert_file": "/etc/llm/cert.pem", "ssl_key_file": "/etc/llm/key.pem"
  },
  "intelligent_routing": {
    "enabled": false, "geo_detection": false, "industry_classification": false,
    "priority_rules": {"urgent_keywords": ["now // really"], "low_priority_keywords": ["/* later */"]}
  },
  "monitoring": {
    "enabled": false, "metrics_retention_days": 7,
    "alert_thresholds": {"cpu_usage": 70, "memory_usage": 71.5, "queue_size": 72, "error_rate": 1},
    "notification_channels": {
      "email": {"enabled": true, "smtp_server": "smtp.example.org", "smtp_port": 25, "username": "u",
                "password": "p\\"//w", "recipients": ["ops@example.org"]},
      "slack": {"enabled": true, "webhook_url": "https://hooks.example.org/1"}
    }
  },
  "security": {
    "api_key_enabled": true, "api_keys": {"admin": "a", "readonly": "r"}, "jwt_enabled": true,
    "jwt_secret": "a-secret-of-at-least-32-bytes-for-tests",
    "jwt_expiration": 60, "encryption_enabled": false, "encryption_key": "k", "encrypt_sensitive_fields": ["ssn"]
  },
  "deployment": {"environment": "production", "debug_mode": true, "auto_reload": true}
}
"""


def problems(tmp_path: Path, raw: Any, environ: dict[str, str] | None = None) -> dict[str, ConfigProblem]:
    path = tmp_path / "c.json"
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    assert str(path) in str(caught.value)
    keys = [problem.key for problem in caught.value.problems]
    assert len(keys) == len(set(keys)), "each problem is said once"
    return {problem.key: problem for problem in caught.value.problems}


def accepted(tmp_path: Path, raw: Any, environ: dict[str, str] | None = None) -> Config:
    path = tmp_path / "c.json"
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return load(path, environ or {})


def test_every_key_of_the_guide_in_one_commented_file(tmp_path: Path) -> None:
    config = accepted(tmp_path, GUIDE)
    assert config.directories.watch == ("/srv/in", "/srv/in2//x"), "`//` inside a string is no comment"
    assert config.directories.temp_directory == "/srv/temp"
    processing = config.processing
    assert (processing.mode, processing.max_workers, processing.batch_size) == ("batch", "auto", 20)
    assert (processing.batch_timeout, processing.retry_attempts, processing.retry_delay) == (30, 5, 0.5)
    assert (processing.worker_timeout, processing.queue_timeout) == (60, 10)
    assert config.queue.redis_url == "redis://example.org:6379/1"
    assert config.queue.priority_levels == ["urgent", "normal"]
    assert (config.api.port, config.api.ssl_cert_file, config.api.access_log) == (9090, "/etc/llm/cert.pem", False)
    rules = config.intelligent_routing.priority_rules
    assert (rules.urgent_keywords, rules.low_priority_keywords) == (["now // really"], ["/* later */"])
    assert config.monitoring.alert_thresholds.memory_usage == 71.5
    assert config.monitoring.notification_channels.email.password == 'p"//w'
    assert config.security.api_keys.readonly == "r"
    assert config.deployment.environment == "production"


def test_without_a_file_the_defaults_of_the_guide() -> None:
    config = load(None, {})
    assert (config.queue.type, config.processing.mode) == ("local", "hybrid")
    assert (config.processing.batch_size, config.processing.retry_attempts) == (50, 3)
    assert config.queue.priority_levels == ["high", "medium", "low"]
    assert config.directories.watch == ("./data/llm_generated/raw",)


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        {
            "processing": {"batch_sise": 10, "mode": "real-time", "retry_attempts": -1, "worker_timeout": "1 min"},
            "queue": {"priority_levels": []},
            "api": {"port": 70000, "ssl_enabled": True, "ssl_cert_file": "c.pem"},
            "handlers": {"default": "no colon"},
            "monitorng": {},
        },
    )
    assert set(found) == {
        "processing.batch_sise",
        "processing.mode",
        "processing.retry_attempts",
        "processing.worker_timeout",
        "queue.priority_levels",
        "api.port",
        "api.ssl_key_file",
        "handlers.default",
        "monitorng",
    }
    assert found["processing.batch_sise"].nearest == "batch_size"
    assert found["monitorng"].nearest == "monitoring"
    assert found["processing.mode"] == (
        "processing.mode",
        '"real-time"',
        '"batch" or "hybrid" or "real_time"',
        "real_time",
    )
    assert (found["processing.retry_attempts"].value, found["processing.retry_attempts"].allowed) == (
        "-1",
        "a whole number at least 0",
    )
    assert found["processing.worker_timeout"].value == '"1 min"'
    assert "at most 65535" in found["api.port"].allowed
    assert "Did you mean 'batch_size'?" in str(found["processing.batch_sise"])


SECRET = "swordfish-7291"


@pytest.mark.parametrize(
    "raw",
    [
        {"monitoring": {"notification_channels": {"email": {"password": [SECRET]}}}},
        {"monitoring": {"notification_channels": {"email": {"passwrd": SECRET}}}},
        {"monitoring": {"notification_channels": {"slack": SECRET}}},
        {"monitoring": {"notification_channels": {"slack": {"webhook": SECRET}}}},
        {"monitoring": {"notification_channels": [{"password": SECRET}]}},
        {"security": {"jwt_secert": SECRET}},
        {"security": {"api_keys": SECRET}},
        {"security": {"api_keys": [SECRET]}},
        {"security": {"api_keys": {"amdin": SECRET}}},
        {"security": {"encryption_key": {"value": SECRET}}},
        {"securty": {"jwt_secret": SECRET}},
        {"queue": {"redis_url": f"http://u:{SECRET}@host"}},
        {"queue": {"redis_urls": f"redis://u:{SECRET}@host"}},
        {"queue": f"redis://:{SECRET}@host"},
        {"queue": {"redis_url": f"redis://u:{SECRET}@host", "type": "cluster"}},
    ],
)
def test_no_problem_shows_a_secret(tmp_path: Path, raw: Any) -> None:
    assert SECRET not in "\n".join(map(str, problems(tmp_path, raw).values()))


def test_a_number_as_a_secret_is_not_shown_either(tmp_path: Path) -> None:
    found = problems(tmp_path, {"security": {"jwt_secret": 72910354}})
    assert "72910354" not in str(found["security.jwt_secret"])


def test_secrets_from_the_environment_and_from_credentials(tmp_path: Path) -> None:
    raw = {"queue": {"redis_url": "redis://file"}, "security": {"jwt_secret": "file"}}
    environ = {"LLM_REDIS_URL": "redis://environment", "LLM_SLACK_WEBHOOK_URL": "https://environment"}
    config = accepted(tmp_path, raw, environ)
    assert config.queue.redis_url == "redis://environment"
    assert config.monitoring.notification_channels.slack.webhook_url == "https://environment"
    assert config.security.jwt_secret == "file", "what is not given outside stays"
    (tmp_path / "redis_url").write_text("redis://credential\n")
    (tmp_path / "api_key_admin").write_text("credential")
    (tmp_path / "smtp_password").write_text("p")
    config = accepted(tmp_path, raw, {**environ, "CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert config.queue.redis_url == "redis://credential", "a credential is the strongest word"
    assert config.security.api_keys.admin == "credential"
    assert config.monitoring.notification_channels.email.password == "p"


def test_a_secret_from_outside_is_checked_and_not_shown(tmp_path: Path) -> None:
    found = problems(tmp_path, {}, {"LLM_REDIS_URL": f"http://:{SECRET}@host"})
    assert SECRET not in str(found["queue.redis_url"])
    (tmp_path / "redis_url").write_bytes(b"\xff")
    assert "credential redis_url" in problems(tmp_path, {}, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[]", "a JSON list"),
        ('"x"', "a JSON str"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ('{"api": }', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"processing": {"retry_delay": NaN}}', "not JSON"),
        ('{"processing": {"retry_delay": 1e999}}', "not JSON"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, value: str) -> None:
    assert problems(tmp_path, text)["(file)"].value.startswith(value)


def test_a_missing_or_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config or \$LLM_CONFIG"):
        load(tmp_path / "none.json", {})
    with pytest.raises(ConfigError, match="unreadable"):
        load(tmp_path, {})
    (tmp_path / "latin1.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(ConfigError, match="unreadable"):
        load(tmp_path / "latin1.json", {})


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(None, {}) is None
    (tmp_path / "scheduler_config.json").write_text("{}")
    assert find(None, {}) == Path("scheduler_config.json")
    assert find(None, {"LLM_CONFIG": "a.json"}) == Path("a.json")
    assert find("b.json", {"LLM_CONFIG": "a.json"}) == Path("b.json")


@pytest.mark.parametrize(
    ("directories", "key"),
    [
        ({"watch_directory": "/s", "output_directory": "/s/out"}, "directories.output_directory"),
        ({"watch_directory": "/s", "temp_directory": "/s"}, "directories.temp_directory"),
        ({"watch_directory": "/s/temp/raw", "temp_directory": "/s/temp"}, "directories.temp_directory"),
        ({"error_directory": "/s/x", "archive_directory": "/s/y/../x"}, "directories.error_directory"),
        ({"watch_directory": ["/s", "/s/inner"]}, "directories.watch_directory"),
        ({"watch_directory": ["/s", "/s/"]}, "directories.watch_directory"),
        ({"temp_directory": "a\0b"}, "directories.temp_directory"),
    ],
)
def test_folders_that_overlap_or_cannot_be(tmp_path: Path, directories: Any, key: str) -> None:
    assert set(problems(tmp_path, {"directories": directories})) == {key}


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ({"queue": {"priority_levels": ["high", "high"]}}, "queue.priority_levels"),
        ({"queue": {"priority_levels": ["High"]}}, "queue.priority_levels.0"),
        ({"security": {"jwt_enabled": True}}, "security.jwt_secret"),
        (
            {"security": {"encryption_enabled": True, "encryption_key": "k", "encrypt_sensitive_fields": ["ssn"]}},
            "security.encryption_key",
        ),
        ({"processing": {"worker_timeout": 0}}, "processing.worker_timeout"),
        ({"processing": {"worker_timeout": 1e30}}, "processing.worker_timeout"),
        ({"processing": {"batch_size": True}}, "processing.batch_size"),
        ({"processing": {"max_workers": "all"}}, "processing.max_workers"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, part: Any, key: str) -> None:
    assert set(problems(tmp_path, part)) == {key}


def test_a_whole_number_may_be_written_with_a_point(tmp_path: Path) -> None:
    assert accepted(tmp_path, '{"processing": {"batch_size": 5.0}}').processing.batch_size == 5


def test_batch_times_that_nobody_set(tmp_path: Path) -> None:
    def times(**processing: float) -> tuple[float, float | None]:
        config = accepted(tmp_path, {"processing": processing}).processing
        return config.batch_timeout_seconds, config.batch_idle_seconds

    assert times() == (300, 0.2)
    assert times(batch_timeout=10) == (10, None), "who sets batch_timeout means it"
    assert times(batch_idle=1) == (300, 1)
    assert times(batch_timeout=10, batch_idle=1) == (10, 1)


def test_the_default_handler(tmp_path: Path) -> None:
    def default(handlers: dict[str, str]) -> str:
        return accepted(tmp_path, {"handlers": handlers}).default_handler

    assert default({}) == "default"
    assert default({"only": "m:f"}) == "only"
    assert default({"one": "m:f", "two": "m:g"}) == "default"
    assert default({"one": "m:f", "default": "m:g"}) == "default"
