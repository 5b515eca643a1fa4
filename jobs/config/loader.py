"""From a file to a `Config`, or to every problem it has, each said once and with its cure."""

import copy
import difflib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec

from llm_scheduler.jobs.config.encryption import FIELD, KEY, is_field, is_key
from llm_scheduler.jobs.config.key_checks import access_problems
from llm_scheduler.jobs.config.model import Config, Security
from llm_scheduler.jobs.config.problem import Problem
from llm_scheduler.jobs.config.route_rules import rule_problems
from llm_scheduler.jobs.config.sentinel_address import sentinel_address
from llm_scheduler.jobs.schemas import Schema, SchemaProblem

DEFAULT_FILE = "scheduler_config.json"
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h: systemd is told not to restart on it

# A string, or a comment outside of one. Comments are blanked out, not removed, so that positions stay true.
_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
# Whatever stands under one of these keys is never shown. `slack` and `api_keys` are parts, but a secret written in
# place of the part is one all the same.
_SECRET_KEYS = (
    "password",
    "admin",
    "readonly",
    "api_keys",
    "jwt_secret",
    "encryption_key",
    "slack",
    "webhook_url",
    "redis_url",
)
_URL_PASSWORD = re.compile(r"//[^/\s]*@")
# Where a secret may come from instead of the file: a systemd credential or an environment variable of this name.
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
    """A configuration that cannot be used; `problems` holds every reason."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in problems)]))


def find(explicit: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: `explicit` (`--config`), else `$LLM_CONFIG`, else `./scheduler_config.json` if it is there."""
    named = explicit or environ.get("LLM_CONFIG")
    if named:
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else None


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of `path`, or the built-in defaults for None. Raises `ConfigError` with every problem."""
    environ = os.environ if environ is None else environ
    source = str(path) if path else "built-in defaults"
    raw = _read(path) if path else {}
    for keys, secret in _secrets_from_outside(environ, source):
        _put(raw, keys, secret)
    problems = list(_schema_problems(raw))
    if not problems:
        config = msgspec.convert(raw, Config)
    problems.extend(_disagreements(raw, problems))
    if problems:
        raise ConfigError(source, problems)
    return config


def _disagreements(raw: dict[str, Any], problems: list[Problem]) -> list[Problem]:
    """What `check` says of `raw` without the keys that have problems of their own, as far as it can be asked."""
    rest = copy.deepcopy(raw)
    wrong = [problem.key for problem in problems]
    for key in wrong:
        _remove(rest, key.split("."))
    try:
        config = msgspec.convert(rest, Config)
    except msgspec.ValidationError:
        return []
    return [
        problem
        for problem in check(config)
        if not any(f"{key}.".startswith(f"{problem.key}.") or f"{problem.key}.".startswith(f"{key}.") for key in wrong)
    ]


def _remove(raw: Any, keys: list[str]) -> None:
    for key in keys[:-1]:
        raw = raw.get(key) if isinstance(raw, dict) else None
    if isinstance(raw, dict):
        raw.pop(keys[-1], None)


def check(config: Config) -> Iterator[Problem]:
    """What types alone can't say: keys that have to agree with one another."""
    yield from _folder_problems(config)
    levels = config.queue.priority_levels
    if len(set(levels)) != len(levels):
        yield Problem("queue.priority_levels", json.dumps(levels), "each level once")
    try:
        sentinel_address(config.queue.redis_url)
    except ValueError as error:
        yield Problem("queue.redis_url", '"(hidden)"', f"an address {error}")
    for name, path in config.intake.schemas.items():
        try:
            Schema.load(name, path)
        except SchemaProblem as problem:
            yield Problem(f"intake.schemas.{name}", json.dumps(path), f"the file of a JSON Schema ({problem})")
    if config.intake.schema and config.intake.schema not in config.intake.schemas:
        known = sorted(config.intake.schemas)
        near = difflib.get_close_matches(config.intake.schema, known, n=1, cutoff=0.6)
        allowed = f"a name in intake.schemas ({', '.join(known) or 'it is empty'})"
        yield Problem("intake.schema", json.dumps(config.intake.schema), allowed, near[0] if near else None)
    if config.api.ssl_enabled:
        for key in ("ssl_cert_file", "ssl_key_file"):
            if not getattr(config.api, key):
                yield Problem(f"api.{key}", "nothing", "the path of a PEM file, since api.ssl_enabled is true")
    security = config.security
    yield from access_problems(security)
    yield from _sealing_problems(security)
    yield from rule_problems(config)
    model = config.intelligent_routing.industry_model
    if model and not Path(model).is_file():
        allowed = "a file that `llmctl router train` made"
        yield Problem("intelligent_routing.industry_model", json.dumps(model), allowed)


def _sealing_problems(security: Security) -> Iterator[Problem]:
    if not security.encryption_enabled:
        return
    keys = security.encryption_keys
    if not all(is_key(key) for key in keys):
        yield Problem("security.encryption_key", '"(hidden)"', KEY)
    for field in security.encrypt_sensitive_fields:
        if not is_field(field):
            yield Problem("security.encrypt_sensitive_fields", json.dumps(field), FIELD)
    if not keys:
        allowed = f"{KEY}, since security.encryption_enabled is true"
        yield Problem("security.encryption_key", "nothing", allowed)
    if not (security.encrypt_sensitive_fields or security.encrypt_originals):
        allowed = "the names of fields (or security.encrypt_originals), since security.encryption_enabled is true"
        yield Problem("security.encrypt_sensitive_fields", "[]", allowed)


def _folder_problems(config: Config) -> Iterator[Problem]:
    directories = config.directories
    own = {
        "directories.output_directory": directories.output_directory,
        "directories.archive_directory": directories.archive_directory,
        "directories.error_directory": directories.error_directory,
        "directories.temp_directory": directories.temp_directory,
    }
    named = [*own.items(), *(("directories.watch_directory", folder) for folder in directories.watch)]
    unusable = [(key, value) for key, value in named if "\0" in value]
    if unusable:
        yield from (Problem(key, repr(value), "a path without NUL characters") for key, value in unusable)
        return
    resolved = {key: Path(value).resolve() for key, value in own.items()}
    watches = [Path(folder).resolve() for folder in directories.watch]
    seen: dict[Path, str] = {}
    for key, path in resolved.items():
        if path in seen:
            yield Problem(key, repr(own[key]), f"a folder of its own (it is also {seen[path]})")
        seen[path] = key
        for watch in watches:
            if path == watch or watch in path.parents:
                yield Problem(key, repr(own[key]), f"a folder outside the watch folder {str(watch)!r}")
            elif path in watch.parents and key == "directories.temp_directory":
                yield Problem(key, repr(own[key]), f"a folder that does not hold the watch folder {str(watch)!r}")
    for index, watch in enumerate(watches):
        for other in watches[:index]:
            if watch == other or watch in other.parents or other in watch.parents:
                yield Problem("directories.watch_directory", repr(str(watch)), f"a folder apart from {str(other)!r}")


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            str(path), [Problem("(file)", "missing", "an existing file; check --config or $LLM_CONFIG")]
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Problem("(file)", f"unreadable ({error})", "a readable UTF-8 file")]) from None
    try:
        raw = json.loads(_COMMENT.sub(_blank, text), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), [Problem("(file)", f"not JSON ({error})", "JSON, with // comments")]) from None
    if not isinstance(raw, dict):
        raise ConfigError(str(path), [Problem("(file)", f"a JSON {type(raw).__name__}", "a JSON object")])
    return raw


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float | int:
    """A number with a point or an exponent; `5.0` is the whole number 5, as JSON Schema has it."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is out of range")
    return int(number) if number.is_integer() else number


def _blank(match: re.Match[str]) -> str:
    found = match[0]
    return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)


def _secrets_from_outside(environ: Mapping[str, str], source: str) -> Iterator[tuple[tuple[str, ...], str]]:
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    for name, keys in _SECRETS.items():
        value = environ.get(f"LLM_{name.upper()}")
        if credentials:
            try:
                value = Path(credentials, name).read_text(encoding="utf-8").strip()
            except FileNotFoundError:
                pass
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    source, [Problem(f"credential {name}", f"unreadable ({error})", "a text file")]
                ) from None
        if value:
            yield keys, value


def _put(raw: dict[str, Any], keys: tuple[str, ...], value: str) -> None:
    part = raw
    for key in keys[:-1]:
        part = part.setdefault(key, {})
        if not isinstance(part, dict):
            return  # a wrong type: the schema check says so
    part[keys[-1]] = value


@cache
def _schema() -> dict[str, Any]:
    return msgspec.json.schema(Config)


def _schema_problems(raw: dict[str, Any]) -> Iterator[Problem]:
    validator = jsonschema_rs.validator_for(_schema())
    for error in validator.iter_errors(raw):
        kind = error.kind
        path = [str(part) for part in error.instance_path]
        node = _schema_at(error.schema_path[:-1])
        if isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
            known = sorted(node.get("properties", {}))
            for key in kind.unexpected:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
                value = _shown(
                    [*path, key, *near], error.instance.get(key) if isinstance(error.instance, dict) else None
                )
                yield Problem(
                    ".".join([*path, key]),
                    f"an unknown key (value {value})",
                    ", ".join(known),
                    near[0] if near else None,
                )
        elif isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
            yield Problem(".".join([*path, kind.property]), "nothing", _allowed(node["properties"][kind.property]))
        else:
            yield Problem(
                ".".join(path) or "(file)",
                _shown(path, error.instance),
                _allowed(node),
                _nearest_value(node, error.instance),
            )


def _schema_at(path: list[str | int]) -> dict[str, Any]:
    node: Any = _schema()
    for part in path:
        node = node[part]
        while isinstance(node, dict) and "$ref" in node:
            node = _schema()["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node if isinstance(node, dict) else {}


def _shown(path: Sequence[str], value: Any) -> str:
    """`value` as a problem may show it. Under a secret's key, or a misspelt one, nothing of it is shown."""
    text = json.dumps(_masked(path, value), ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _masked(path: Sequence[str], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked([*path, key], inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(path, inner) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    if any(_is_secret(key) for key in path):
        return "(hidden)"
    return _URL_PASSWORD.sub("//(hidden)@", value) if isinstance(value, str) else value


def _is_secret(key: str) -> bool:
    return bool(difflib.get_close_matches(key.lower(), _SECRET_KEYS, n=1, cutoff=0.75))


def _allowed(node: dict[str, Any]) -> str:
    if "anyOf" in node:
        return " or ".join(_allowed(option) for option in node["anyOf"])
    if "$ref" in node:
        return "an object"
    if "enum" in node:
        return " or ".join(json.dumps(value) for value in node["enum"])
    words = {
        "integer": "a whole number",
        "number": "a number",
        "string": "a string",
        "boolean": "true or false",
        "null": "null",
        "object": "an object",
        "array": "a list",
    }
    text = words.get(node.get("type", ""), "another value")
    if "enum" in node.get("items", {}):
        text += f" of {_allowed(node['items'])}"
    bounds = [
        f"{word} {node[key]}"
        for key, word in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "more than"),
            ("maximum", "at most"),
            ("minLength", "of length at least"),
            ("minItems", "with items, at least"),
            ("pattern", "matching"),
        )
        if key in node
    ]
    return " ".join([text, " and ".join(bounds)]).strip()


def _nearest_value(node: dict[str, Any], value: Any) -> str | None:
    options = [option for option in node.get("enum", []) if isinstance(option, str)]
    if not isinstance(value, str) or not options:
        return None
    near = difflib.get_close_matches(value, options, n=1, cutoff=0.6)
    return near[0] if near else None
