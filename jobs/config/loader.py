"""Reads `scheduler_config.json`, with secrets from outside, and checks it: every problem is reported at once."""

import copy
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from llm_scheduler.jobs.config.cross_checks import cross_problems
from llm_scheduler.jobs.config.model import Config
from llm_scheduler.jobs.config.problem import ConfigProblem
from llm_scheduler.jobs.config.type_checks import type_problems

DEFAULT_FILE = "scheduler_config.json"

# A string, or a comment outside of one. Comments become spaces, so that the positions in messages stay right.
_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
# Secrets that may come from a systemd credential or an environment variable of this name instead of the file.
_SECRETS: Mapping[str, tuple[str, ...]] = {
    "redis_url": ("queue", "redis_url"),
    "api_key_admin": ("security", "api_keys", "admin"),
    "api_key_readonly": ("security", "api_keys", "readonly"),
    "jwt_secret": ("security", "jwt_secret"),
    "encryption_key": ("security", "encryption_key"),
    "smtp_password": ("monitoring", "notification_channels", "email", "password"),
    "slack_webhook_url": ("monitoring", "notification_channels", "slack", "webhook_url"),
}


class ConfigError(Exception):
    """A configuration that cannot be used. `problems` holds every reason."""

    def __init__(self, source: str, problems: list[ConfigProblem]) -> None:
        self.source = source
        self.problems = problems
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in problems)]))


def find(explicit: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: `explicit` (`--config`), else `$LLM_CONFIG`, else `./scheduler_config.json` if it exists."""
    named = explicit or environ.get("LLM_CONFIG")
    if named:
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else None


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration in `path`; the built-in defaults for None. Raises `ConfigError` with every problem."""
    source = str(path) if path else "built-in defaults"
    raw = _read(path) if path else {}
    for keys, secret in _secrets(os.environ if environ is None else environ, source):
        _put(raw, keys, secret)
    problems = list(type_problems(raw))
    problems += _cross_problems(raw, [problem.key for problem in problems])
    if problems:
        raise ConfigError(source, problems)
    return msgspec.convert(raw, Config)


def _cross_problems(raw: dict[str, Any], wrong: list[str]) -> list[ConfigProblem]:
    """The problems of `cross_checks`, as far as they can be found while the keys in `wrong` have problems."""
    rest = copy.deepcopy(raw)
    for key in wrong:
        _remove(rest, key.split("."))
    try:
        config = msgspec.convert(rest, Config)
    except msgspec.ValidationError:
        return []
    return [
        problem
        for problem in cross_problems(config)
        if not any(f"{key}.".startswith(f"{problem.key}.") or f"{problem.key}.".startswith(f"{key}.") for key in wrong)
    ]


def _remove(raw: Any, keys: list[str]) -> None:
    for key in keys[:-1]:
        raw = raw.get(key) if isinstance(raw, dict) else None
    if isinstance(raw, dict):
        raw.pop(keys[-1], None)


def _read(path: Path) -> dict[str, Any]:
    def error(value: str, allowed: str) -> ConfigError:
        return ConfigError(str(path), [ConfigProblem("(file)", value, allowed)])

    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise error("missing", "an existing file; check --config or $LLM_CONFIG") from None
    except (OSError, UnicodeDecodeError) as reason:
        raise error(f"unreadable ({reason})", "a readable UTF-8 file") from None
    try:
        raw = json.loads(_COMMENT.sub(_blank, text), parse_constant=_reject_constant, parse_float=_finite)
    except (ValueError, RecursionError) as reason:
        raise error(f"not JSON ({reason})", "JSON, with // comments") from None
    if not isinstance(raw, dict):
        raise error(f"a JSON {type(raw).__name__}", "a JSON object")
    return raw


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float | int:
    """A number with a point or an exponent. `5.0` is the integer 5, as in JSON Schema."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is out of range")
    return int(number) if number.is_integer() else number


def _blank(match: re.Match[str]) -> str:
    found = match[0]
    return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)


def _secrets(environ: Mapping[str, str], source: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The (keys, value) of each secret from outside the file: a credential before an environment variable."""
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    for name, keys in _SECRETS.items():
        value = environ.get(f"LLM_{name.upper()}")
        if credentials:
            try:
                value = Path(credentials, name).read_text(encoding="utf-8").strip()
            except FileNotFoundError:
                pass
            except (OSError, UnicodeDecodeError) as error:
                problem = ConfigProblem(f"credential {name}", f"unreadable ({error})", "a text file")
                raise ConfigError(source, [problem]) from None
        if value:
            yield keys, value


def _put(raw: dict[str, Any], keys: tuple[str, ...], value: str) -> None:
    part = raw
    for key in keys[:-1]:
        part = part.setdefault(key, {})
        if not isinstance(part, dict):
            return  # `type_problems` reports the wrong type
    part[keys[-1]] = value
