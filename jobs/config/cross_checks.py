"""Checks what types alone can't express: keys that must agree with each other, and files that must exist."""

import json
from collections.abc import Iterator
from pathlib import Path

from llm_scheduler.jobs.config.key_checks import security_problems
from llm_scheduler.jobs.config.model import Config
from llm_scheduler.jobs.config.problem import ConfigProblem
from llm_scheduler.jobs.config.route_rules import rule_problems, unknown_name
from llm_scheduler.jobs.config.sentinel_address import sentinel_address
from llm_scheduler.jobs.schemas import Schema, SchemaProblem


def cross_problems(config: Config) -> Iterator[ConfigProblem]:
    """Everything that is wrong with a configuration whose types are right."""
    yield from _folder_problems(config)
    levels = config.queue.priority_levels
    if len(set(levels)) != len(levels):
        yield ConfigProblem("queue.priority_levels", json.dumps(levels), "each level once")
    try:
        sentinel_address(config.queue.redis_url)
    except ValueError as error:
        yield ConfigProblem("queue.redis_url", '"(hidden)"', f"an address {error}")
    yield from _schema_problems(config)
    if config.api.ssl_enabled:
        for key in ("ssl_cert_file", "ssl_key_file"):
            if not getattr(config.api, key):
                yield ConfigProblem(f"api.{key}", "nothing", "the path of a PEM file, since api.ssl_enabled is true")
    yield from security_problems(config.security)
    yield from rule_problems(config)
    model = config.intelligent_routing.industry_model
    if model and not Path(model).is_file():
        allowed = "a file that `llmctl router train` made"
        yield ConfigProblem("intelligent_routing.industry_model", json.dumps(model), allowed)


def _schema_problems(config: Config) -> Iterator[ConfigProblem]:
    schemas, schema = config.intake.schemas, config.intake.schema
    for name, path in schemas.items():
        try:
            Schema.load(name, path)
        except SchemaProblem as problem:
            yield ConfigProblem(f"intake.schemas.{name}", json.dumps(path), f"the file of a JSON Schema ({problem})")
    if schema and schema not in schemas:
        yield unknown_name("intake.schema", schema, sorted(schemas), "intake.schemas")


def _folder_problems(config: Config) -> Iterator[ConfigProblem]:
    directories = config.directories
    keys = ("output_directory", "archive_directory", "error_directory", "temp_directory")
    own: dict[str, str] = {f"directories.{key}": getattr(directories, key) for key in keys}
    named = [*own.items(), *(("directories.watch_directory", folder) for folder in directories.watch)]
    unusable = [(key, value) for key, value in named if "\0" in value]
    if unusable:
        yield from (ConfigProblem(key, repr(value), "a path without NUL characters") for key, value in unusable)
        return
    watches = [Path(folder).resolve() for folder in directories.watch]
    seen: dict[Path, str] = {}
    for key, folder in own.items():
        path = Path(folder).resolve()
        if path in seen:
            yield ConfigProblem(key, repr(folder), f"a folder of its own (it is also {seen[path]})")
        seen[path] = key
        for watch in watches:
            if path.is_relative_to(watch):
                yield ConfigProblem(key, repr(folder), f"a folder outside the watch folder {str(watch)!r}")
            elif watch.is_relative_to(path) and key == "directories.temp_directory":
                yield ConfigProblem(key, repr(folder), f"a folder that does not hold the watch folder {str(watch)!r}")
    for index, watch in enumerate(watches):
        for other in watches[:index]:
            if watch.is_relative_to(other) or other.is_relative_to(watch):
                allowed = f"a folder apart from {str(other)!r}"
                yield ConfigProblem("directories.watch_directory", repr(str(watch)), allowed)
