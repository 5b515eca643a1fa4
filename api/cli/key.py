"""`llmctl key`: create, list and revoke the API's named keys."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer

from llm_scheduler.api.access.api_keys import NAME, Key, KeyFileError, read_keys
from llm_scheduler.api.access.key_file import KeyNameError, create_key, revoke_key
from llm_scheduler.api.access.roles import Role
from llm_scheduler.api.cli.output import Json, fail, print_json, print_table, short_time, table
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.jobs.clock import SystemClock, rfc3339
from llm_scheduler.jobs.exit_codes import ExitCode

RoleName = Literal["readonly", "submitter", "operator", "admin"]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The key's name, as in the audit log.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MAX_SECONDS = 100 * 365 * 86_400


def create(
    context: typer.Context,
    name: Name,
    role: Annotated[RoleName, typer.Option("--role", help="Its rights; each role has those of the roles before it.")],
    expires_in: Annotated[
        str | None,
        typer.Option("--expires-in", metavar="TIME", help="Valid for, e.g. 90d or 12h; without it, for ever."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Only the hash of the key is stored. The API accepts the key within a second."""
    if not re.fullmatch(NAME, name) or name.endswith("\n"):
        fail(f"{name!r} can't be a key's name. Use letters, digits and _ . @ -, at most 64.", ExitCode.USAGE)
    now = SystemClock().now()
    until = None if expires_in is None else now + _seconds(expires_in)
    security = config_of(context).security
    with _key_file_errors(security.api_keys_file):
        made = create_key(security.api_keys_file, name, Role(role), now, until)
    if as_json:
        print_json({**_public_fields(made.key, now), "key": made.text})
    else:
        typer.echo(made.text)
    typer.echo(f"The key of {name!r} ({role}). It is shown only now; send it in the header X-API-Key.", err=True)
    if not (security.api_key_enabled or security.jwt_enabled):
        typer.echo("The API does not ask for keys yet: set security.api_key_enabled.", err=True)


def list_keys(context: typer.Context, as_json: Json = False) -> None:
    now = SystemClock().now()
    path = config_of(context).security.api_keys_file
    with _key_file_errors(path):
        keys = read_keys(path)
    if as_json:
        print_json({"keys": [_public_fields(key, now) for key in keys]})
        return
    if not keys:
        typer.echo("There are no named keys. Create one: llmctl key create NAME --role ROLE", err=True)
        return
    made = table("name", "role", "key", "created", "expires", flexible=("name",))
    for key in keys:
        expires = short_time(key.expires_at.timestamp(), now) if key.expires_at else "never"
        gone = " (expired)" if _expired(key, now) else ""
        made.add_row(
            key.name, key.role.value, f"llm_{key.id}_…", short_time(key.created_at.timestamp(), now), expires + gone
        )
    print_table(made)


def revoke(context: typer.Context, name: Name) -> None:
    """The API refuses the key and its tokens within a second."""
    path = config_of(context).security.api_keys_file
    with _key_file_errors(path):
        was_known = revoke_key(path, name)
    if not was_known:
        fail(f"There is no key {name!r}. llmctl key list shows all keys.")
    typer.echo(f"The key of {name!r} is revoked.", err=True)


@contextmanager
def _key_file_errors(path: str) -> Iterator[None]:
    """An unusable file of keys, or a name that is taken, ends the command."""
    try:
        yield
    except KeyNameError as taken:
        fail(str(taken))
    except KeyFileError as broken:
        fail(f"{path} can't be used: {broken}.", ExitCode.CONFIGURATION)
    except OSError as error:
        fail(f"{error.filename or path}: {error.strerror}. See security.api_keys_file.")


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= _MAX_SECONDS:
        fail(f"--expires-in {text!r} is not a time. Write a number and s, m, h, d or w, e.g. 90d.", ExitCode.USAGE)
    return seconds


def _expired(key: Key, now: float) -> bool:
    return key.expires_at is not None and key.expires_at.timestamp() <= now


def _public_fields(key: Key, now: float) -> dict[str, Any]:
    """What may be shown of a key."""
    return {
        "name": key.name,
        "role": key.role.value,
        "prefix": f"llm_{key.id}",
        "created_at": rfc3339(key.created_at.timestamp()),
        "expires_at": rfc3339(key.expires_at.timestamp()) if key.expires_at else None,
        "expired": _expired(key, now),
    }
