"""Checks the keys and secrets of `security`. No problem shows any part of a secret."""

import base64
import json
import re
from collections.abc import Iterator

from llm_scheduler.jobs.config.model import Security
from llm_scheduler.jobs.config.problem import ConfigProblem

_FIELD = "the name of a field, or a JSON pointer (/patient/name) in which ~ is written ~0, and a / within a key ~1"
KEY = "32 random bytes in URL-safe base 64 (44 characters), as `llmctl config new-key` prints"
HASHED = "sha256:"  # an API key may be given by its hash, so that the file holds nothing that gives access
SECRET_BYTES = 32  # RFC 7518, 3.2: a key for HS256 is at least as long as its hash
# JWT libraries reject these as HS256 secrets: they belong to other kinds of signature.
_KEY_FILES = ("-----BEGIN", "ssh-", "{")
_HIDDEN = '"(hidden)"'


def security_problems(security: Security) -> Iterator[ConfigProblem]:
    """Everything that is wrong with API keys, the token secret and encryption."""
    for name in ("admin", "readonly"):
        key: str = getattr(security.api_keys, name)
        if key.startswith(HASHED) and not re.fullmatch(HASHED + "[0-9a-f]{64}", key):
            allowed = f"a key, or {HASHED} and the 64 digits of its SHA-256 (0-9, a-f)"
            yield ConfigProblem(f"security.api_keys.{name}", _HIDDEN, allowed)
    if "\0" in security.api_keys_file:
        yield ConfigProblem("security.api_keys_file", repr(security.api_keys_file), "a path without NUL characters")
    if security.jwt_enabled:
        yield from _secret_problems(security.jwt_secret)
    if security.encryption_enabled:
        yield from _encryption_problems(security)


def _secret_problems(secret: str) -> Iterator[ConfigProblem]:
    size = len(secret.encode())
    if not secret:
        value, why = "nothing", "since security.jwt_enabled is true"
    elif size < SECRET_BYTES:
        value, why = f"{_HIDDEN} of {size} bytes", "because a shorter one can be guessed from any token"
    elif secret.lstrip().startswith(_KEY_FILES):
        value, why = _HIDDEN, "not the content of a key file"
    else:
        return
    allowed = f"a secret of at least {SECRET_BYTES} bytes, as `openssl rand -base64 48` prints, {why}"
    yield ConfigProblem("security.jwt_secret", value, allowed)


def _encryption_problems(security: Security) -> Iterator[ConfigProblem]:
    keys = security.encryption_keys
    if not all(is_key(key) for key in keys):
        yield ConfigProblem("security.encryption_key", _HIDDEN, KEY)
    for field in security.encrypt_sensitive_fields:
        if field.startswith("/") and re.search(r"~(?![01])", field):  # RFC 6901
            yield ConfigProblem("security.encrypt_sensitive_fields", json.dumps(field), _FIELD)
    if not keys:
        yield ConfigProblem("security.encryption_key", "nothing", f"{KEY}, since security.encryption_enabled is true")
    if not (security.encrypt_sensitive_fields or security.encrypt_originals):
        allowed = "the names of fields (or security.encrypt_originals), since security.encryption_enabled is true"
        yield ConfigProblem("security.encrypt_sensitive_fields", "[]", allowed)


def is_key(key: str) -> bool:
    """Whether `key` is a Fernet key (https://github.com/fernet/spec)."""
    try:
        return len(key) == 44 and len(base64.b64decode(key.encode(), b"-_", validate=True)) == 32
    except ValueError:
        return False
